"""A search by its names: which engine, with how much memory, by which rules, and what an audit puts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.order import Order
from pahq.config.cell import CellConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.changereference import ChangeReference
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import ChangeEngine, SuffixEngine
from pahq.engine.suffix.budget import least_bytes, plan
from pahq.errors import PahqError
from pahq.search import start
from pahq.search.acdc import Decision, acdc
from pahq.search.audit import audit
from pahq.search.start import build_engine, cell_doubts, focus_on, search, search_by, start_search
from pahq.search.twin import doubts_for, twin_bytes

INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16")
ASCENDING = Order("ascending", "farthest")


@cache
def problem_of(arithmetic: str = "network", *, full: bool = False, dtype: torch.dtype = torch.float64) -> Problem:
    model = random_model("gpt2", dtype=dtype)
    low: dict[str, Any] = {} if full else {"precision": INT8, "focus": "receiver", "arithmetic": arithmetic}
    return build_problem(model, random_prompts(model), metric="kl", round_size=3, **low)


def cell_of(arithmetic: str = "network", **changes: Any) -> CellConfig:
    method = {"name": "pahq", "focus": "receiver", "order": "ascending", "senders": "farthest", "absolute": True}
    rounds = {"arithmetic": "changes", "round": 3} if arithmetic == "changes" else {}
    values = {
        "task": {"name": "r", "kind": "tracr-reverse", "examples": 3, "metric": "mse"},
        "model": {"name": "tracr-reverse", "source": "tracr-reverse"},
        "method": method | rounds,
        "precision": INT8.model_dump(),
        "engine": {"name": "suffix", "dtype": "float64"},
        "threshold": 0.02,
    }
    return CellConfig(**values | changes)


def first_effect(problem: Problem) -> float:
    """A threshold that float noise decides the first test by."""
    return abs(next(start_search("reference", problem.in_float64(), ASCENDING, 0.5)).effect)


def outcomes(decisions: Sequence[Decision]) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


# ---- engines by their names


def test_engines_have_names_and_problems_with_changes_apart_their_own() -> None:
    kinds = {
        ("suffix", "network"): SuffixEngine,
        ("suffix", "changes"): ChangeEngine,
        ("reference", "network"): ReferenceEngine,
        ("reference", "changes"): ChangeReference,
    }
    for (name, arithmetic), kind in kinds.items():
        assert type(build_engine(name, problem_of(arithmetic))) is kind
    with pytest.raises(PahqError, match="unknown engine 'fast'; known: reference, suffix"):
        build_engine("fast", problem_of())


def test_a_ceiling_is_in_gib_and_of_it_an_engine_has_a_share_of_what_is_not_anothers() -> None:
    problem = problem_of()
    engine = build_engine("suffix", problem, 0.25, share=0.75, beside=3 << 20)
    assert isinstance(engine, SuffixEngine)
    assert engine.budget == plan(problem, 1 << 28, 0.75, 3 << 20)
    assert build_engine("suffix", problem).budget == plan(problem, None)  # type: ignore[attr-defined]
    with pytest.raises(PahqError, match="memory_gb is a setting of engine=suffix"):
        build_engine("reference", problem, 0.25)


# ---- searches


@pytest.mark.parametrize("engine", start.ENGINES)
@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_a_search_is_by_the_problems_own_rules(engine: str, arithmetic: str) -> None:
    """Focus and rounds are the problem's; order, signs, what is done and who judges are the caller's."""
    problem = problem_of(arithmetic)
    slow = build_engine("reference", problem)
    size = problem.round_size
    assert size == (3 if arithmetic == "changes" else None)
    rules = {"absolute": True, "focus": focus_on(problem), "round_size": size}
    expected = list(acdc(slow, ASCENDING, 0.02, **rules))  # type: ignore[arg-type]
    judged: list[int] = []

    def judge(decision: Decision) -> Decision:
        judged.append(decision.index)
        return decision

    found = list(start_search(engine, problem, ASCENDING, 0.02, absolute=True, done=expected[:7], judge=judge))
    assert outcomes(found) == outcomes(expected[7:])
    assert max(abs(a.after - b.after) for a, b in zip(found, expected[7:], strict=True)) < 1e-11
    assert judged == list(range(7, len(expected)))
    plain = list(start_search(engine, problem, ASCENDING, 0.02))
    assert outcomes(expected) != outcomes(plain)  # signs matter here
    assert outcomes(list(search_by(build_engine(engine, problem), problem, ASCENDING, 0.02))) == outcomes(plain)


def test_a_start_hands_on_what_of_the_memory_the_search_has(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, given = problem_of(), []
    monkeypatch.setattr(start, "build_engine", lambda *all_: given.append(all_) or ReferenceEngine(problem))
    next(start_search("suffix", problem, Order(), 0.02, memory_gb=0.5, share=0.25, beside=7))
    next(start_search("suffix", problem, Order(), 0.02))
    assert given == [("suffix", problem, 0.5, 0.25, 7), ("suffix", problem, None, 1.0, 0)]


def test_engines_that_carry_losses_along_say_how_far_these_drifted() -> None:
    problem = problem_of(dtype=torch.float32)
    noted = [d.drift for d in search_by(SuffixEngine(problem), problem, Order(), 0.02) if d.drift is not None]
    assert 0 < noted[0] < 1e-4
    assert all(d.drift is None for d in search_by(ReferenceEngine(problem), problem, Order(), 0.02))


# ---- the search of a cell


def test_a_cells_search_has_its_own_order_signs_threshold_and_engine() -> None:
    problem = problem_of()
    expected = list(start_search("reference", problem, ASCENDING, 0.02, absolute=True))
    for engine in start.ENGINES:
        cell = cell_of(engine={"name": engine, "dtype": "float64"})
        assert outcomes(list(search(cell, problem, []))) == outcomes(expected)
        assert outcomes(list(search(cell, problem, expected[:5]))) == outcomes(expected[5:])


def test_a_search_that_goes_on_tells_its_doubts_of_what_was_done() -> None:
    problem = problem_of(dtype=torch.float32)
    cell = cell_of(engine={"name": "reference"}, threshold=first_effect(problem))
    told, whole = [], list[Decision]()
    for done in (0, 20):
        doubts = cell_doubts(cell, problem)
        whole = [*whole[:done], *search(cell, problem, whole[:done], doubts=doubts)]
        doubts.finish()
        told.append((outcomes(whole), doubts.record(whole)))
    assert told[0] == told[1]
    assert told[0][1]["settled"] > 0  # or nothing would be shown


def test_a_search_without_doubts_of_its_callers_has_its_own() -> None:
    problem = problem_of(dtype=torch.float32)
    near = first_effect(problem)
    for doubts, settles in (("float64", True), ("leave", False)):
        cell = cell_of(engine={"name": "reference", "doubts": doubts}, threshold=near)
        assert bool(next(search(cell, problem, [])).rough) == settles


@pytest.mark.parametrize("engine", start.ENGINES)
@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_what_an_audited_search_decided_again_is_full_precisions(engine: str, arithmetic: str) -> None:
    """Where changes alone are in low precision the searching engine audits itself, by its rounds; the band then is a
    multiple of the format's own error, so that not all is audited."""
    problem, full = problem_of(arithmetic), problem_of(full=True)
    band = {"enough": 0, "share": 0.3, "safety": 1.0, "hopeless": 1.0}
    band |= {"near": 0.2, "least": 0.2} if arithmetic == "changes" else {"near": 0.02, "least": 0.02}
    cell = cell_of(arithmetic, audit="band", band=band, engine={"name": engine, "dtype": "float64"})
    found = list(search(cell, problem, [], full=full))
    audited = [decision for decision in found if decision.audited]
    assert 3 < len(audited) < len(found) - 3
    exact = ReferenceEngine(full)
    again = audit(exact, found, [decision.index for decision in audited], 0.02, absolute=True)
    assert again.flipped == ()
    assert again.worst < 1e-11
    assert any(decision.low and decision.low[1] - decision.low[0] != decision.effect for decision in audited)
    assert outcomes(list(search(cell, problem, found[:9], full=full))) == outcomes(found[9:])


def test_an_audit_needs_the_full_precision_network() -> None:
    with pytest.raises(PahqError, match="audit=band needs the full-precision network"):
        search(cell_of(audit="band"), problem_of(), [])


# ---- memory of a cell's search


def engines_of(monkeypatch: pytest.MonkeyPatch, cell: CellConfig, *problems: Problem) -> list[tuple[Any, ...]]:
    """The problem, ceiling, share and neighbours' bytes of each engine that a search makes under half a GiB."""
    given: list[tuple[Any, ...]] = []

    def build(name: str, on: Problem, memory_gb: float, share: float, beside: int) -> ReferenceEngine:
        assert name == cell.engine.name
        given.append((on, memory_gb, share, beside))
        return ReferenceEngine(on)

    monkeypatch.setattr(start, "build_engine", build)
    next(search(cell, problems[0], [], 0.5, *problems[1:]))
    return given


def test_a_search_alone_has_the_whole_ceiling_but_for_its_float64_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(dtype=torch.float32)
    for settings, beside in (
        ({}, twin_bytes(problem)),
        ({"doubts": "leave"}, 0),
        ({"dtype": "float64"}, 0),
    ):
        cell = cell_of(engine={"name": "suffix"} | settings)
        assert engines_of(monkeypatch, cell, problem) == [(problem, 0.5, 1.0, beside)]


def test_an_audits_two_engines_share_a_ceiling_as_they_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, full = problem_of(dtype=torch.float32), problem_of(full=True, dtype=torch.float32)
    cell = cell_of(audit="band", engine={"name": "suffix"})
    both = least_bytes(problem) + least_bytes(full)
    exact, low = engines_of(monkeypatch, cell, problem, full)
    assert exact == (full, 0.5, least_bytes(full) / both, twin_bytes(full))  # the twin is of the network that decides
    assert low == (problem, 0.5, least_bytes(problem) / both, twin_bytes(full))


def test_doubts_are_of_the_network_that_decides_and_their_twin_is_small_under_a_ceiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, full = problem_of(dtype=torch.float32), problem_of(full=True, dtype=torch.float32)
    made: list[tuple[Problem, bool]] = []

    def twin(of: Problem, *, tight: bool) -> ReferenceEngine:
        made.append((of, tight))
        return ReferenceEngine(of.in_float64())

    monkeypatch.setattr("pahq.search.twin.twin_engine", twin)
    for others, memory_gb, doubts in (
        ((), None, "float64"),
        ((full,), None, "float64"),
        ((full,), 0.5, "float64"),
        ((full,), 0.5, "leave"),  # where nothing is settled the twin comes after the search
    ):
        judge = cell_doubts(
            cell_of(engine={"name": "suffix", "doubts": doubts}), problem, *(others or (None,)), memory_gb
        )
        judge(Decision(0, len(problem.graph.edges) - 1, 0.0, 0.02, False))
        judge.finish()
    judge = doubts_for(problem, 0.02)
    judge(Decision(0, len(problem.graph.edges) - 1, 0.0, 0.02, False))
    assert made == [(problem, False), (full, False), (full, True), (full, False), (problem, False)]
