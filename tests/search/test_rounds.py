"""Rounds: how long removals wait, told by tests alone, so that every engine and every follower has the same ones."""

from __future__ import annotations

import random

import pytest
from support import small_models
from support.cost_engines import GRAPH, Costs

from pahq.circuits.order import Order, Visit, visits
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.search.acdc import Decision, acdc, visit_edges
from pahq.search.rounds import RoundFollower, Rounds, passes_of, stages_of
from pahq.search.speculate import speculate
from pahq.search.start import build_engine, focus_on, search_by


def problem(family: str = "gpt2", size: int = 4) -> Problem:
    model = small_models.random_model(family)
    int4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
    setting = {"metric": "kl", "precision": int4, "focus": "receiver", "arithmetic": "changes", "round_size": size}
    return build_problem(model, small_models.random_prompts(model), **setting)


def test_so_many_tests_of_a_stage_make_a_round() -> None:
    rounds = Rounds(3, lambda edge: edge // 10)
    seen = []
    for edge in (0, 1, 2, 3, 4, 10, 11, 12, 13):
        seen.append((edge, rounds.begins(edge), rounds.left(edge)))
        rounds.decided(edge, removed=edge % 2 == 0)
    assert [edge for edge, begins, _ in seen if begins] == [0, 3, 10, 13]
    assert [left for *_, left in seen] == [3, 2, 1, 3, 2, 3, 2, 1, 3]
    assert rounds.over() == [0, 2, 4, 10, 12]
    assert rounds.over() == []


def test_without_a_size_nothing_waits_and_no_round_begins() -> None:
    rounds = Rounds(None, lambda edge: edge)
    assert rounds.at_once
    assert rounds.left(0) is None
    assert not rounds.begins(0)


def test_every_edge_has_the_stage_of_its_visit() -> None:
    stage_of = stages_of(GRAPH)
    told = [stage_of(edge) for visit in visits(GRAPH) for edge in visit_edges(GRAPH, visit, Order())]
    assert told == sorted(told)
    for edge in GRAPH.edges:
        if not edge.direct and edge.receiver.kind != "head":
            assert stage_of(GRAPH.edges.index(edge)) == stage_of(GRAPH.incoming(edge.receiver)[0])
    assert len({Visit(edge.receiver, edge.direct) for edge in GRAPH.edges}) >= len(set(told))


@pytest.mark.parametrize("size", [1, 3, 8, 1000])
@pytest.mark.parametrize("ways", [{"widest": 1}, {"adaptive": False}, {}])
def test_windows_of_any_width_ask_by_the_same_rounds(size: int, ways: dict[str, object]) -> None:
    """One test after the other by the slow engine, in windows by the fast one: the same decisions, the same losses."""
    on = problem(size=size)
    slow = list(acdc(build_engine("reference", on), Order(), 0.02, focus=focus_on(on), round_size=size))
    engine = build_engine("suffix", on)
    fast = list(speculate(engine, Order(), 0.02, focus=focus_on(on), round_size=size, **ways))  # type: ignore[arg-type]
    assert [(d.edge, d.removed) for d in fast] == [(d.edge, d.removed) for d in slow]
    assert max(abs(a.before - b.before) + abs(a.after - b.after) for a, b in zip(fast, slow, strict=True)) < 1e-11


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_follower_tells_the_losses_of_the_search_itself(size: int) -> None:
    """It is asked of some tests alone, as an audit asks it, and is in the same state and round all the same."""
    on = problem(size=size)
    follower, random_ = RoundFollower(build_engine("suffix", on), size), random.Random(1)
    asked = 0
    for decision in search_by(build_engine("reference", on), on, Order(), 0.02):
        if random_.random() < 0.3:
            before, after = follower.losses(decision.edge)
            assert (before, after) == pytest.approx((decision.before, decision.after), abs=1e-11)
            asked += 1
        follower.decided(decision.edge, decision.removed)
    assert asked > 10


def test_a_follower_of_an_engine_that_the_search_moves_removes_nothing() -> None:
    engine = Costs([1.0] * len(GRAPH.edges))
    follower = RoundFollower(engine, 2, moves=False)
    edges = list(GRAPH.incoming(GRAPH.receivers[-1]))[::-1]
    for edge in edges:
        follower.losses(edge)
        follower.decided(edge, True)
    assert all(what == "measure" for what, _ in engine.asked)
    assert ("measure", (edges[0], edges[1])) in engine.asked  # the first of the round waits, and is taken along
    assert ("measure", (edges[2],)) in engine.asked


def test_a_judge_is_asked_in_the_state_of_the_round() -> None:
    """What an audit asks of the engine while a window is judged is full precision's, in the same state."""
    on = problem(size=4)
    engine = build_engine("suffix", on)
    full = build_engine("reference", on.in_full_precision())
    follower = RoundFollower(engine.exactly, 4, moves=False)  # type: ignore[attr-defined]
    checked: list[float] = []

    def judge(decision: Decision) -> Decision:
        before, after = follower.losses(decision.edge)
        exact = full.measure([Trial(decision.edge, ()), Trial(decision.edge, (decision.edge,))])
        checked.append(max(abs(before - exact[0]), abs(after - exact[1])))
        follower.decided(decision.edge, decision.removed)
        if decision.removed:
            full.remove([decision.edge])
        return decision

    assert list(search_by(engine, on, Order(), 0.02, judge=judge))
    assert max(checked) < 1e-11


def test_passes_are_counted_where_removals_enter() -> None:
    """Two rounds of stage 0 have removals, the first of stage 1 has none, and the last is entered at the end."""
    fell = [(0, True), (1, True), (2, False), (3, True), (10, False), (11, False), (12, False), (13, True)]
    decisions = [Decision(i, edge, 1.0, 1.0, removed) for i, (edge, removed) in enumerate(fell)]
    assert passes_of(decisions, 3, lambda edge: edge // 10) == 3
