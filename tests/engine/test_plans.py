"""A wave follows a plan: few operations, whatever the number of heads, and none that a CUDA graph could not record."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.small_models import random_model, random_prompts
from tape import refused
from torch.utils._python_dispatch import TorchDispatchMode

from pahq.circuits.graph import Receiver
from pahq.circuits.order import Order
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import SuffixEngine, budget, mixing
from pahq.engine.suffix.mixing import mix_heads, mixes_of
from pahq.model.attention import attention
from pahq.search.speculate import speculate, worthwhile


class Recording(TorchDispatchMode):
    """Counts the operators that compute something, and refuses those that no CUDA graph can record."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    @property
    def operations(self) -> int:
        return sum(self.names.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if refused(func, args):
            raise AssertionError(f"{func.__name__} cannot be recorded")
        if not func.is_view:
            self.names[func.__name__] += 1
        return func(*args, **kwargs)


def problem_of(heads: int = 3, *, family: str = "gpt2", dtype: torch.dtype = torch.float64, **prompts: Any) -> Problem:
    group = 2 if family in ("llama", "gemma3") else 1
    model = random_model(family, layers=3, heads=heads, kv_heads=heads // group, dtype=dtype)
    return build_problem(model, random_prompts(model, **prompts), metric="kl")


def wave_of(problem: Problem, kind: str) -> list[Trial]:
    """A window in the lowest layer of a graph that still has every edge, so that it changes all that is above."""
    receiver = Receiver("mlp", 0) if kind == "mlp" else Receiver("head", 0, 0, "v")
    if kind == "direct":
        direct = problem.graph.direct(receiver)
        assert direct is not None
        return [Trial(direct, (direct,))]
    edges = list(problem.graph.incoming(receiver))[::-1]
    return [Trial(edge, tuple(edges[: i + 1])) for i, edge in enumerate(edges)]


def test_a_recording_refuses_what_a_graph_refuses() -> None:
    for asked in (
        lambda: float(torch.ones(1).sum()),
        lambda: torch.ones(3).nonzero(),
        lambda: torch.ones(3)[[0, 2]],
        lambda: torch.tensor([1.0]),
        lambda: torch.ones(3, dtype=torch.bool).to(torch.float32),
    ):
        with Recording(), pytest.raises(AssertionError, match="cannot be recorded"):
            asked()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("kind", ["direct", "head", "mlp"])
def test_a_wave_whose_plan_is_made_could_be_recorded(family: str, kind: str) -> None:
    problem = problem_of(4, family=family, same=2)
    engine, trials = SuffixEngine(problem), wave_of(problem, kind)
    first = engine.measure(trials)
    with Recording(), torch.inference_mode():
        again = engine._evaluate(trials)
    assert again.tolist() == first


def test_a_wave_takes_as_many_operations_whatever_the_number_of_heads() -> None:
    counted = {}
    for heads in (2, 8):
        problem = problem_of(heads)
        engine, trials = SuffixEngine(problem), wave_of(problem, "head")
        engine.measure(trials)
        with Recording() as recording, torch.inference_mode():
            engine._evaluate(trials)
        counted[heads] = recording.operations
    assert counted[8] <= counted[2] + 3  # a product for each of two heads, and no product of composites for eight
    assert counted[8] < 100


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gemma3", "tracr"])
@pytest.mark.parametrize(("same", "long"), [(0, mixing.LONG), (2, mixing.LONG), (2, 1)])
def test_heads_mixed_together_are_heads_mixed_one_by_one(
    family: str, same: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "LONG", long)
    heads = 1 if family == "tracr" else 4
    model = random_model(family, layers=2, heads=heads, kv_heads=2 if family in ("llama", "gemma3") else heads)
    problem = build_problem(model, random_prompts(model, same=same), metric="kl")
    engine, top = SuffixEngine(problem), problem.graph.shape.layers - 1
    engine.window(problem.graph.incoming(Receiver("head", top, 0, "v"))[0])
    state, generator = engine._state, torch.Generator().manual_seed(3)
    changed = [Receiver("head", top, 0, "q"), Receiver("head", top, heads // 2, "v")]
    changed = [at for at in changed if at.head < problem.graph.shape.letter_heads(at.letter)]
    with torch.inference_mode():
        fresh = {
            at: torch.randn(3, *state.projections[at].shape, generator=generator, dtype=torch.float64) for at in changed
        }
        for mix in mixes_of(state, top, changed):
            together = mix_heads(state, top, mix, fresh)
            for place, head in enumerate(mix.heads):
                parts = {}
                for at in problem.graph.own_inputs(state.first_sender(top) + head):
                    values = fresh.get(at, state.projections[at][None])
                    if at.letter != "q" and state.first:
                        half = state.earlier[top].shape[0] // 2
                        earlier = state.earlier[top][at.head + (half if at.letter == "v" else 0)]
                        values = torch.cat((earlier.expand(len(values), *earlier.shape), values), -2)
                    parts[at.letter] = values
                alone = attention(state.config, parts["q"], parts["k"], parts["v"])
                assert (together[place] - alone).abs().max() < 1e-12
            assert together.shape[1] == 3


def test_rounds_that_cost_much_are_few_and_decide_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(4, dtype=torch.float32)
    found, rounds = [], []
    for sizes in (budget.CPU, budget.CARD):
        monkeypatch.setattr(budget, "sizes_for", lambda device, sizes=sizes: sizes)
        engine, calls = SuffixEngine(problem), list[int]()
        measure = engine.measure
        engine.measure = lambda trials, ask=measure, calls=calls: calls.append(len(trials)) or ask(trials)  # type: ignore[method-assign]
        found.append([(d.edge, d.removed) for d in speculate(engine, Order(), 0.05)])
        rounds.append(len(calls))
    assert found[0] == found[1]
    assert rounds[1] < 0.8 * rounds[0]
    assert SuffixEngine(problem).overhead(len(problem.graph.edges) - 1) > 1
    assert [worthwhile(64, 0.03, overhead) for overhead in (0.1, 1.0, 1000.0)] == [2, 8, 64]


@pytest.mark.parametrize("together", [1, 300, 900])  # one receiver, some, more
def test_inputs_formed_some_at_a_time_are_those_formed_in_one_go(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (budget.CPU.together, together):
        monkeypatch.setattr(budget, "CPU", replace(budget.CPU, together=size))
        found.append(list(speculate(SuffixEngine(problem_of(4, family="llama")), Order(), 0.2)))
    assert [(d.edge, d.removed) for d in found[0]] == [(d.edge, d.removed) for d in found[1]]
    assert max(abs(one.after - other.after) for one, other in zip(*found, strict=True)) < 1e-12
