"""What the suffix engine does not compute: what cannot matter, and what was measured already."""

from __future__ import annotations

import math

import pytest
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine


@pytest.fixture(scope="module")
def problem() -> Problem:
    model = random_model("gpt2")
    return build_problem(model, random_prompts(model), metric="kl")


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials every wave has that is made from now on."""
    seen: list[int] = []
    real = SuffixEngine._new_wave

    def noted(self: SuffixEngine, trials: int, *rest: object) -> object:
        seen.append(trials)
        return real(self, trials, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(SuffixEngine, "_new_wave", noted)
    return seen


def edges_of(problem: Problem, *names: str) -> list[int]:
    return [problem.graph.index_of(name) for name in names]


def test_trials_that_were_measured_are_counted_and_taken_over(problem: Problem, waves: list[int]) -> None:
    engine, reference = SuffixEngine(problem), ReferenceEngine(problem)
    first, second, third = edges_of(problem, "embed->m1", "m0->m1", "a0.h1->m1")
    engine.measure([Trial(first, (first,)), Trial(second, (first, second)), Trial(first, ())])
    assert engine.measure([]) == []
    engine.remove([])
    engine.remove([second, first])  # in whatever order
    assert waves == [3]
    assert engine.measured == 3
    reference.remove([first, second])
    trials = [Trial(third, (third,)), Trial(third, ())]
    expected = reference.measure(trials)
    assert engine.measure(trials) == pytest.approx(expected, abs=1e-12)
    assert engine.measure([Trial(third, ())] * 2) == pytest.approx(expected[1:] * 2, abs=1e-12)
    engine.remove([third])
    assert waves == [3, 2]  # the state as it is takes no wave, and forgets none
    other, last = edges_of(problem, "a0.h2->m1", "a0.h0->m1")
    engine.measure([Trial(other, (other,))])
    engine.remove([last])
    assert waves == [3, 2, 1, 1]  # the trial that was asked last did not take it
    reference.remove([third, last])
    assert engine.measure([Trial(last, ())]) == pytest.approx(reference.measure([Trial(last, ())]), abs=1e-12)
    assert engine.measured == 9


def test_edges_that_cannot_matter_are_taken_without_a_wave(problem: Problem, waves: list[int]) -> None:
    """Into a head whose projection is the ablated one, and into heads that nothing reads."""
    engine, reference = SuffixEngine(problem), ReferenceEngine(problem)
    for gone in (edges_of(problem, "a1.h0->logits"), edges_of(problem, "a1.h0->m1"), edges_of(problem, "a1.h1<q>")):
        for one in (engine, reference):
            one.remove(gone)
    done = len(waves)
    for gone in (edges_of(problem, "embed->a1.h0<q>", "m0->a1.h0<q>"), edges_of(problem, "embed->a1.h1<q>")):
        for one in (engine, reference):
            one.remove(gone)
    assert len(waves) == done == 3
    for one in (engine, reference):
        one.remove(edges_of(problem, "m0->a1.h1<q>", "m0->a1.h2<q>"))  # of which one matters
    assert len(waves) == done + 1
    edge = problem.graph.incoming(Receiver("mlp", 0))[0]
    trials = [Trial(edge, ()), Trial(edge, (edge,))]
    assert engine.measure(trials) == pytest.approx(reference.measure(trials), abs=1e-12)


@pytest.mark.parametrize("wrong", [math.inf, math.nan])
def test_a_loss_that_was_no_number_is_no_drift(wrong: float, problem: Problem) -> None:
    """A window may hold such losses behind a wrong guess."""
    engine = SuffixEngine(problem)
    top, below = edges_of(problem, "m1->logits", "embed->m0")
    engine.measure([Trial(top, ())])
    engine._loss = engine._loss + wrong
    engine.measure([Trial(below, ())])
    assert 0 <= engine.drift < 1e-12


def test_memory_that_is_somebody_elses_is_none_of_its_own(problem: Problem) -> None:
    whole, part = (SuffixEngine(problem, memory_bytes=2**30, **some) for some in ({}, {"share": 0.5, "beside": 2**28}))
    assert part.budget.peak_bytes <= (2**30 - 2**28) / 2 < whole.budget.window_bytes * 3
