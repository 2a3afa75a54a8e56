"""The cheap ways are taken where they are cheaper, and what is kept is made once: seen by who is called, and how often.

That they give the same numbers as the plain ways is said elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.engine import batch
from pahq.engine.base import Trial
from pahq.engine.batch import batch_logits
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import SuffixEngine, ablated, budget
from pahq.engine.suffix.composites import Composites
from pahq.engine.suffix.headlogits import HeadLogits
from pahq.engine.suffix.needs import EVERYWHERE, LAST
from pahq.engine.suffix.plans import Plans
from pahq.engine.suffix.sums import Sums


def problem_of(family: str = "gpt2", *, metric: str = "kl", layers: int = 2, **model: object) -> Problem:
    network = random_model(family, layers=layers, **model)  # type: ignore[arg-type]
    return build_problem(network, random_prompts(network), metric=metric)


def calls_of(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, note: Callable[..., object]) -> list[Any]:
    """What ``note`` makes of the arguments of every call from now on."""
    seen: list[Any] = []
    real = getattr(holder, name)

    def noted(*args: Any, **named: Any) -> Any:
        seen.append(note(*args, **named))
        return real(*args, **named)

    monkeypatch.setattr(holder, name, noted)
    return seen


def trial_into(problem: Problem, receiver: Receiver) -> Trial:
    edge = problem.graph.incoming(receiver)[0]
    return Trial(edge, (edge,))


HEAD, MLP, LOW = Receiver("head", 1, 0, "q"), Receiver("mlp", 1), Receiver("head", 0, 0, "q")


@pytest.mark.parametrize(("metric", "composites", "straight"), [("kl", True, 1), ("kl", False, 0), ("nll", True, 0)])
def test_what_one_head_changed_goes_straight_to_the_logits(
    metric: str, composites: bool, straight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a model without MLPs; a fresh state has the products anew."""
    problem = problem_of("attention-only", metric=metric)
    engine = SuffixEngine(problem, memory_bytes=budget.GIB, composites=composites)
    seen = calls_of(monkeypatch, HeadLogits, "change", lambda self, *rest: tuple(rest[3]))
    for _ in range(2):
        engine.measure([trial_into(problem, HEAD)])
        assert seen == [(problem.graph.head_senders(1)[0],)] * straight
        seen.clear()
        engine.reset()


def test_what_an_mlp_changed_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of()
    engine = SuffixEngine(problem, memory_bytes=budget.GIB)
    seen = calls_of(monkeypatch, HeadLogits, "change", lambda *rest: 1)
    engine.measure([trial_into(problem, MLP)])
    engine.measure([trial_into(problem, HEAD)])  # which the MLP behind it reads
    assert seen == []


@pytest.mark.parametrize(("composites", "layers"), [(True, [1]), (False, [])])
def test_an_mlp_that_reads_one_changed_head_is_had_from_its_z(
    composites: bool, layers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(d_model=16)
    engine = SuffixEngine(problem, memory_bytes=budget.GIB, composites=composites)
    seen = calls_of(monkeypatch, Composites, "product", lambda self, layer, *rest: layer)
    engine.measure([trial_into(problem, HEAD)])
    assert seen == layers
    seen.clear()
    engine.measure([trial_into(problem, Receiver("head", 0, 0, "k"))])  # m0 from one head; m1 reads m0 as well
    assert seen == [0] * len(layers)


def test_where_memory_is_short_neither_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(d_model=16)
    tight = SuffixEngine(problem, memory_bytes=budget.least_bytes(problem))
    heads = calls_of(monkeypatch, HeadLogits, "change", lambda *rest: 1)
    products = calls_of(monkeypatch, Composites, "product", lambda *rest: 1)
    tight.measure([trial_into(problem, HEAD)])
    assert heads == products == []


def test_a_stages_plans_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of("llama")
    engine, trial, other = SuffixEngine(problem), trial_into(problem, HEAD), trial_into(problem, MLP)
    engine.measure([trial])
    plans, start = engine._plans, ((problem.graph.head_senders(1)[0],),)
    made, mixed = plans.of("heads", 1, start), plans.mixes(1, (HEAD,))
    assert plans.of("heads", 1, start) is made
    assert plans.of("heads", 1, ((problem.graph.head_senders(1)[1],),)) is not made
    assert plans.mixes(1, (HEAD,)) is mixed
    plans.stale()
    assert plans.of("heads", 1, start) is not made
    assert plans.mixes(1, (HEAD,)) is not mixed
    engine.reset()
    stale = calls_of(monkeypatch, Plans, "stale", lambda self: 1)
    engine.measure([other])
    entered = len(stale)
    for _ in range(3):
        engine.measure([other])
    assert len(stale) == entered == 1  # from the logits to the MLP


@pytest.mark.parametrize("focus", ["none", "receiver"])
def test_ablated_projections_of_a_stage_are_made_once(focus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All heads of a layer and letter in one go, where no focus moves; else one by one."""
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl", focus=focus)
    engine = SuffixEngine(problem)
    whole = calls_of(monkeypatch, ablated, "project", lambda *rest, **named: 1)
    single = calls_of(monkeypatch, ablated, "project_inputs", lambda *rest: 1)
    direct = [problem.graph.direct(Receiver("head", 1, head, "v")) for head in (2, 1, 2)]
    for edge in direct:
        assert edge is not None
        engine.measure([Trial(edge, (edge,))])
    assert (len(whole), len(single)) == ((1, 0) if focus == "none" else (0, 2))


@pytest.mark.parametrize("together", [1, 400, 1200, 10**6])
def test_no_more_inputs_are_formed_in_one_go_than_asked_for(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at least, and no fewer than fit."""
    monkeypatch.setattr(budget, "CPU", replace(budget.CPU, together=together))
    problem = problem_of("gpt2", heads=6, kv_heads=6, layers=3)
    engine, trial = SuffixEngine(problem), trial_into(problem, LOW)
    sizes: Counter[tuple[int, int]] = Counter()

    def note(self: Sums, reading: Any, current: object, *rest: object) -> None:
        if reading.receivers[0].kind == "head":
            sizes[reading.need, len(reading.receivers)] += 1

    calls_of(monkeypatch, Sums, "gain", note)
    engine.measure([trial] * 2)
    for need, positions in ((LAST, 1), (EVERYWHERE, 5)):
        most = max(size for at, size in sizes if at == need)
        numbers = 2 * 3 * positions * 12  # trials, prompts, positions, d_model
        readers = 6 if need == LAST else 18  # queries of the top layer; all inputs of the one below
        assert most == max(1, min(readers, together // numbers))


# ---- many circuits in one pass


def test_what_no_circuit_of_a_batch_lets_through_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two circuits of a path each: of projections one query and one key, of MLPs one."""
    problem = problem_of()
    graph = problem.graph
    paths = (
        ("embed->m0", "m0->a1.h2<q>", "a1.h2<q>", "a1.h2->logits", "a0.h1->a1.h0<k>"),
        ("embed->a1.h2<k>", "a1.h2<k>", "a1.h2->logits", "embed->a1.h1<k>", "a1.h1<v>"),
    )
    present = torch.zeros(2, len(graph.edges), dtype=torch.bool)
    for row, names in enumerate(paths):
        present[row, [graph.index_of(name) for name in names]] = True
    mlps = calls_of(monkeypatch, batch, "mlp", lambda config, weights, x: x.shape[0])
    projected = calls_of(monkeypatch, batch, "project", lambda config, weights, letter, x, rows: (letter, rows))
    batch_logits(problem, present)
    assert len(mlps) == 1
    assert projected == [("q", [2]), ("k", [2])]


@pytest.mark.parametrize(("fit", "sizes"), [(0, [1] * 5), (1, [1] * 5), (2, [2, 2, 1]), (7, [5])])
def test_a_pass_takes_as_many_circuits_as_fit(fit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of()
    monkeypatch.setattr(batch, "BATCH_BYTES", (fit + 1) * problem.corrupted_senders.nbytes - 1)
    seen = calls_of(monkeypatch, batch, "_Pass", lambda problem, rows: len(rows))
    batch_logits(problem, torch.ones(5, len(problem.graph.edges), dtype=torch.bool))
    assert seen == sizes
