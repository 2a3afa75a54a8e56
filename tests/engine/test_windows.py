"""How wide a window is: as many trials as rows of the stream allow, and memory for them and for what they change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.small_models import random_model, random_prompts
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import SuffixEngine, budget
from pahq.engine.suffix.budget import trial_bytes
from pahq.engine.suffix.needs import EVERYWHERE

LOGITS, MLP = Receiver("logits"), Receiver("mlp", 0)


def problem_of(family: str = "gpt2", *, every_item: bool = False, **model: object) -> Problem:
    network = random_model(family, **model)  # type: ignore[arg-type]
    return build_problem(network, random_prompts(network, every_item=every_item), metric="kl")


def edge_into(problem: Problem, receiver: Receiver) -> int:
    return problem.graph.incoming(receiver)[0]


@pytest.mark.parametrize(("rows", "at_logits", "at_mlp"), [(30, 10, 2), (29, 9, 1), (2, 1, 1), (10**6, 12, 12)])
def test_trials_share_so_many_rows(rows: int, at_logits: int, at_mlp: int) -> None:
    """Of three prompts of five tokens, where logits are read at the last one alone, and keys everywhere."""
    problem = problem_of()
    engine = SuffixEngine(problem, rows=rows, widest=12)
    assert engine.window(edge_into(problem, LOGITS)) == at_logits
    assert engine.window(edge_into(problem, Receiver("mlp", 1))) == at_logits
    assert engine.window(edge_into(problem, MLP)) == at_mlp


def stacks_of(engine: SuffixEngine) -> dict[int, Tensor] | None:
    """The stacks of the wave at hand; None where there was no room for them."""
    assert engine._wave is not None
    return engine._wave._changes._stacks


@pytest.mark.parametrize("receiver", [LOGITS, MLP], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_trials_share_the_memory_for_them_and_for_what_they_change(family: str, receiver: Receiver) -> None:
    """Of a whole graph, where a trial changes all that it could: a byte less, and there is one trial less."""
    problem = problem_of(family)
    engine, edge = SuffixEngine(problem, memory_bytes=budget.GIB), edge_into(problem, receiver)
    engine.measure([Trial(edge, (edge,))] * 2)
    each = trial_bytes(problem, 3 if receiver == LOGITS else 15, 8)
    if receiver != LOGITS:
        stacks = stacks_of(engine)
        assert stacks is not None
        each += sum(stack.nbytes for stack in stacks.values()) // 2
    for width in (1, 2, 5):
        engine.budget = replace(engine.budget, window_bytes=width * each)
        assert engine.window(edge) == width
        engine.budget = replace(engine.budget, window_bytes=width * each - 1)
        assert engine.window(edge) == max(1, width - 1)


@pytest.mark.parametrize("receiver", [MLP, Receiver("head", 0, 0, "v"), Receiver("head", 1, 1, "q")], ids=str)
@pytest.mark.parametrize("every_item", [False, True])
def test_a_window_that_is_not_wider_than_it_may_be_has_stacks(every_item: bool, receiver: Receiver) -> None:
    problem = problem_of("llama", every_item=every_item)
    engine, edge = SuffixEngine(problem, memory_bytes=budget.GIB), edge_into(problem, receiver)
    for window_bytes in range(40_000, 200_000, 20_000):
        engine.budget = replace(engine.budget, window_bytes=window_bytes)
        width = engine.window(edge)
        engine.measure([Trial(edge, (edge,))] * width)
        stacks = stacks_of(engine)
        assert stacks is not None
        assert not every_item or set(stacks) == {EVERYWHERE}  # nothing reads last positions alone
    assert width > 2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_changes_lie_in_stacks_where_they_fit_beside_the_trials(family: str) -> None:
    problem = problem_of(family)
    engine, edge = SuffixEngine(problem, memory_bytes=budget.GIB), edge_into(problem, MLP)
    trials = [Trial(edge, (edge,)), Trial(edge + 1, (edge, edge + 1))]
    expected, stacks = engine.measure(trials), stacks_of(engine)
    assert stacks is not None
    each = 2 * trial_bytes(problem, 15, 8) + sum(stack.nbytes for stack in stacks.values())
    for short in (0, 1):
        engine.budget = replace(engine.budget, window_bytes=each - short)
        assert engine.measure(trials) == pytest.approx(expected, rel=1e-12)
        assert (stacks_of(engine) is None) == bool(short)


@pytest.mark.parametrize("family", ["gpt2", "attention-only", "gemma2"])
@pytest.mark.parametrize("every_item", [False, True])
def test_a_round_costs_the_trials_that_a_device_could_do_meanwhile(
    family: str, every_item: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial at the bottom multiplies every row with every matrix, and what the metric reads with the unembedding."""
    problem = problem_of(family, every_item=every_item)
    layers = problem.store.network().layers
    names = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
    numbers = sum(
        getattr(layer, name).numel() for layer in layers for name in names if getattr(layer, name) is not None
    )
    trial = 15 * numbers + len(problem.prompts.items) * problem.store.ends.W_U.numel()
    for idle, rounds in ((budget.CARD.idle, budget.CARD.idle / trial), (0, 1), (trial // 2, 1)):
        monkeypatch.setattr(budget, "CPU", replace(budget.CPU, idle=idle))
        engine, edge = SuffixEngine(problem), edge_into(problem, Receiver("head", 0, 0, "k"))
        engine.window(edge)
        assert engine.overhead(edge) == pytest.approx(rounds)


def test_on_a_cpu_a_round_counts_as_one_trial() -> None:
    assert SuffixEngine(problem_of()).overhead(0) == 1


def test_nodes_that_nothing_reads_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CPU", replace(budget.CPU, idle=10**9))
    problem = problem_of()
    engine, graph = SuffixEngine(problem), problem.graph
    whole = SuffixEngine(problem)
    edges = [graph.index_of(name) for name in ("m1->logits", "a1.h0->logits")]
    engine.remove(edges)
    edge = edge_into(problem, MLP)
    for one in (engine, whole):
        one.window(edge)
    layer, loss = problem.store.network().layers[1], 3 * problem.store.ends.W_U.numel()
    assert layer.W_in is not None
    assert layer.W_out is not None
    gone = 15 * (layer.W_in.numel() + layer.W_out.numel() + 4 * layer.W_Q[0].numel())
    trial, rest = (10**9 / one.overhead(edge) for one in (whole, engine))
    assert trial - rest == pytest.approx(gone)
    assert rest > loss
