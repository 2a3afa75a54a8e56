"""Doubts on engines of a few lines: what is settled, when the twin is asked, what the record says, how it goes on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.cost_engines import GRAPH, Costs, making

from pahq.circuits.order import Order
from pahq.search.acdc import Decision, acdc
from pahq.search.band import layers_of
from pahq.search.doubt import CONFIDENCE, COUNT, LEAST, QUIET, SAFETY, SHARE, Doubts, Noise
from pahq.search.sample import drawn, unseen_share
from pahq.search.speculate import speculate

EDGES = len(GRAPH.edges)
SEARCHES = {"acdc": acdc, "speculate": speculate}


def costs(seed: int, noise: float, near: float = 0.7) -> tuple[list[float], list[float]]:
    """True costs, a share ``near`` the threshold of .1, and what an engine off by up to ``noise`` sees."""
    draw = random.Random(seed)
    true = [
        0.1 + draw.uniform(-1, 1) * noise if draw.random() < near else draw.choice([0.0, 0.5]) for _ in range(EDGES)
    ]
    return true, [cost + draw.uniform(-1, 1) * noise for cost in true]


def judge(true: Sequence[float], made: list[Costs] | None = None, *, guess: float = 0.01, **options: object) -> Doubts:
    settings = {"layer_of": layers_of(GRAPH)} | options
    make = making(Costs(true), [] if made is None else made)
    return Doubts(make, Noise(guess), 0.1, **settings)  # type: ignore[arg-type]


def run(rough: Sequence[float], doubts: Doubts, way: str = "acdc", done: Sequence[Decision] = ()) -> list[Decision]:
    for decision in done:
        doubts.repeat(decision)
    return list(SEARCHES[way](Costs(rough), Order(), 0.1, judge=doubts, done=done))  # type: ignore[operator]


def exactly(true: Sequence[float]) -> list[tuple[int, bool]]:
    return choices(list(acdc(Costs(true), Order(), 0.1)))


def choices(decisions: Sequence[Decision]) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


# ---- what is settled


@pytest.mark.parametrize("way", SEARCHES)
@pytest.mark.parametrize("seed", range(12))
def test_a_noisy_search_ends_as_an_exact_one(way: str, seed: int) -> None:
    """Behind an overturned guess, too, windows are measured in the state that the settled decision made."""
    true, rough = costs(seed, 1e-3)
    doubts = judge(true)
    found = run(rough, doubts, way)
    assert choices(found) == exactly(true)
    assert choices(found) != choices(run(rough, judge(true, settle=False), way))  # or nothing would be shown
    assert choices(found) == choices(run(rough, judge(true)))
    assert doubts.record(found)["overturned"] > 0


@pytest.mark.parametrize("way", SEARCHES)
def test_a_settled_decision_holds_the_twins_losses_and_the_engines_rough_ones(way: str) -> None:
    true, rough = costs(3, 1e-3)
    found = run(rough, judge(true), way)
    gone: set[int] = set()
    for decision in found:
        mine, twins = Costs(rough), Costs(true)
        before, after = decision.rough or (decision.before, decision.after)
        assert (before, after) == (mine.loss(gone), mine.loss({*gone, decision.edge}))
        if decision.rough:
            assert (decision.before, decision.after) == (
                twins.loss(gone),
                twins.loss({*gone, decision.edge}),
            )
            assert decision.removed == (decision.effect < 0.1)
            assert decision.left == (after if decision.removed else before)  # the engine goes on with its own
        gone |= {decision.edge} if decision.removed else set()
    assert sum(decision.rough is not None for decision in found) > 5


def test_without_settling_nothing_is_replaced_and_the_sample_alone_is_measured() -> None:
    true, rough = costs(4, 1e-3)
    made: list[Costs] = []
    doubts = judge(true, made, settle=False)
    found = run(rough, doubts)
    assert found == list(acdc(Costs(rough), Order(), 0.1))
    assert made == []
    doubts.finish()
    told = doubts.record(found)
    assert (told["settled"], told["settled_share"], told["overturned"]) == (0, 0.0, 0)
    assert told["sample"] == doubts.sampled >= LEAST
    assert told["at_risk"] == len(doubts.at_risk(found)) > 0


@pytest.mark.parametrize(("effect", "near"), [(-0.1001, True), (0.0999, True), (-0.2, False), (0.0, False)])
def test_absolute_effects_have_absolute_margins(effect: float, near: bool) -> None:
    made: list[Costs] = []
    doubts = judge([effect] * EDGES, made, absolute=True)
    edge = EDGES - 1
    decision = doubts(Decision(0, edge, 0.0, effect, abs(effect) < 0.1))
    assert bool(made) == near == (decision.rough is not None)
    assert decision.removed == (abs(effect) < 0.1)


@pytest.mark.parametrize(("effect", "near"), [(0.375, True), (0.125, True), (0.376, False), (0.124, False)])
def test_what_lies_as_far_off_as_noise_may_reach_is_in_doubt(effect: float, near: bool) -> None:
    made: list[Costs] = []
    doubts = Doubts(making(Costs([effect] * EDGES), made), Noise(0.125), 0.25)
    decision = Decision(0, EDGES - 1, 0.0, effect, effect < 0.25)
    assert doubts.at_risk([decision]) == ([decision] if near else [])
    found = doubts(decision)
    assert bool(made) == bool(found.rough) == near


def test_what_is_no_number_is_in_doubt() -> None:
    doubts = judge([0.0] * EDGES)
    found = doubts(Decision(0, EDGES - 1, 0.0, math.nan, False))
    assert (found.after, found.removed) == (0.0, True)
    assert doubts.at_risk([Decision(0, 0, 0.0, math.nan, False)])
    assert doubts.record([found])["settled"] == 1


# ---- when the twin is asked


@pytest.mark.parametrize("way", SEARCHES)
def test_the_twin_is_never_made_where_nothing_is_near(way: str) -> None:
    cost = [random.Random(i).choice([0.0, 0.5]) for i in range(EDGES)]
    made: list[Costs] = []
    doubts = judge(cost, made)
    found = run(cost, doubts, way)
    assert made == []
    assert doubts.record(found)["sample"] == 0
    assert doubts.record(found)["beyond"] == 1.0
    assert doubts.record(found)["largest_error"] is None
    doubts.finish()
    assert len(made) == 1
    assert doubts.sampled > LEAST


def test_the_first_near_test_measures_the_sample_so_far_in_order_and_then_itself() -> None:
    cost = [0.5] * EDGES
    near = 12
    order = [decision.edge for decision in acdc(Costs(cost), Order(), 0.1)]
    cost[order[near]] = 0.1 + 1e-9
    made: list[Costs] = []
    doubts = judge(cost, made)
    found = run(cost, doubts)
    sampled = [d for d in found[:near] if d.index < LEAST or drawn(0, d.index, SHARE) or _first_of_layer(found, d)]
    tried = [removed[-1] for kind, removed in made[0].asked if kind == "measure" and removed]
    expected = [d.edge for d in sampled] + [order[near]]
    assert tried[: len(expected)] == expected
    layer = layers_of(GRAPH)
    renewed = [i for i in range(near + 1, len(found)) if _first_of_layer(found, found[i])]  # each new layer catches up
    later = [d for d in found[near + 1 : renewed[-1]] if drawn(0, d.index, SHARE) or _first_of_layer(found, d)]
    assert tried[len(expected) :] == [d.edge for d in later]
    assert doubts.sampled == len(sampled) + len(later)
    assert len({layer(d.edge) for d in found}) > 1


def _first_of_layer(decisions: Sequence[Decision], one: Decision) -> bool:
    layer = layers_of(GRAPH)
    return layer(one.edge) not in {layer(decision.edge) for decision in decisions[: one.index]}


def test_the_sample_has_the_first_tests_the_first_of_each_layer_and_a_seeded_share() -> None:
    layer_of = lambda edge: edge // 700  # noqa: E731
    measured = {}
    for seed in (0, 0, 1):
        engine = Costs([0.0] * 5000)
        engine.graph = None  # type: ignore[assignment]  # a twin that shows which tests it was asked for
        doubts = Doubts(lambda: engine, Noise(1e-9), 0.1, layer_of=layer_of, seed=seed)  # noqa: B023
        wanted = [i for i in range(5000) if doubts._wanted(Decision(i, i, 0.0, 0.0, True))]
        assert measured.setdefault(seed, wanted) == wanted
        assert set(range(LEAST)) <= set(wanted)
        assert {700 * i for i in range(8)} <= set(wanted)
        assert 0.07 * 400 < sum(i < 400 for i in wanted) - LEAST < 0.14 * 400
        late = sum(2000 <= i < 4000 for i in wanted)
        assert 0.6 < late / (COUNT * math.log(2)) < 1.5
    assert measured[0] != measured[1]


def test_a_quiet_beginning_does_not_speak_for_a_noisy_end() -> None:
    """What the guess reaches is judged by the sample up to there: a stale bound would let this one pass."""
    cost = [0.5] * EDGES
    order = [decision.edge for decision in acdc(Costs(cost), Order(), 0.1)]
    rough = list(cost)
    for edge in order[20:]:
        rough[edge] += 4e-3  # the sample's from here on are far off
    first, last = order[10], order[-1]
    cost[first], rough[first] = 0.1 + 1e-6, 0.1 + 1e-6  # brings the twin while all is quiet
    cost[last], rough[last] = 0.1 - 1e-3, 0.1 + 3e-3
    found = run(rough, judge(cost, guess=0.02))
    assert choices(found) == exactly(cost)
    assert [d.index for d in found if d.rough] == [10, len(found) - 1]


@pytest.mark.parametrize("error", [0.0, 1e-30])
def test_a_sample_of_dead_edges_proves_nothing(error: float) -> None:
    doubts = judge([0.0] * EDGES)
    for i in range(LEAST + 4):
        doubts.repeat(Decision(i, EDGES - 1 - i, 0.0, error, True))
    doubts.finish()
    assert doubts.sampled >= LEAST
    assert doubts.bound(Decision(50, 0, 0.0, 0.0, True)) == pytest.approx(0.01 / QUIET)


def test_the_bound_is_the_guess_until_enough_was_measured_and_never_below_what_was_seen() -> None:
    test = Decision(EDGES, 0, 0.0, 0.0, True)
    for guess, expected in ((0.01, 0.01), (1e-9, SAFETY * 1e-4)):
        doubts = judge([0.5] * EDGES, guess=guess)
        assert doubts.bound(test) == guess
        for i in range(LEAST - 1):
            doubts.repeat(Decision(i, EDGES - 1 - i, 0.0, 0.5 + 1e-4, False))
        doubts.finish()
        assert doubts.bound(test) == pytest.approx(expected)
    assert doubts.largest == pytest.approx(1e-4)


def test_errors_are_told_per_unit_of_what_they_grow_with() -> None:
    noise = Noise(1e-9, unit=lambda loss: 2 * loss)
    doubts = Doubts(lambda: Costs([0.5] * EDGES), noise, 0.1)
    for i in range(LEAST):
        doubts.repeat(Decision(i, EDGES - 1 - i, 1.0, 1.6, False))  # off by .1 at a loss of 1.6
    doubts.finish()
    assert doubts.largest == pytest.approx(0.1 / 3.2)
    assert doubts.bound(Decision(9, 0, 4.0, 2.0, True)) == pytest.approx(SAFETY * 0.1 / 3.2 * 8)
    assert doubts.bound(Decision(9, 0, 0.0, 0.5, True, rough=(1.0, 4.0))) == doubts.bound(
        Decision(9, 0, 4.0, 1.0, True)
    )


# ---- what is told


def test_the_record() -> None:
    true, rough = costs(5, 1e-3)
    doubts = judge(true)
    found = run(rough, doubts)
    doubts.finish()
    told = doubts.record(found)
    settled = [decision for decision in found if decision.rough]
    assert told["settled"] == len(settled) > 0
    assert told["settled_share"] == len(settled) / len(found)
    assert told["overturned"] == sum((d.rough[1] - d.rough[0] < 0.1) != d.removed for d in settled if d.rough) > 0
    assert (told["safety"], told["confidence"]) == (SAFETY, CONFIDENCE)
    assert told["sample"] == doubts.sampled
    assert told["beyond"] == unseen_share([SHARE] * len(found), CONFIDENCE)
    assert told["largest_error"] == pytest.approx(doubts.largest)
    assert 0 < told["largest_error"] <= 1e-3
    assert told["noise"] == max(doubts.bound(d) for d in found) == pytest.approx(SAFETY * told["largest_error"])
    left = [d for d in found if d.rough is None and abs(d.effect - 0.1) <= doubts.bound(d)]
    assert doubts.at_risk(found) == left
    assert told["at_risk"] == len(left)
    for decision in found:
        error = abs(true[decision.edge] - rough[decision.edge])
        assert error <= doubts.bound(decision)


def test_at_risk_is_what_noise_could_decide() -> None:
    doubts = judge([0.0] * EDGES, guess=1e-6)
    taken = [Decision(0, 0, 1.0, 1.5, False), Decision(1, 1, 1.0, 1.1 + 5e-7, False), Decision(2, 2, 1.0, 1.0, True)]
    taken.append(Decision(3, 3, 1.0, math.nan, False))
    assert [d.index for d in doubts.at_risk(taken)] == [1, 3]
    assert doubts.at_risk([replace(d, rough=(1.0, 1.1)) for d in taken]) == []  # float64 decided these
    assert not doubts.at_risk([Decision(0, 0, 1.0, 0.9, True)])
    either = judge([0.0] * EDGES, guess=1e-6, absolute=True)
    assert either.at_risk([Decision(0, 0, 1.0, 0.9, False)])


def test_nothing_decided_is_nothing_told() -> None:
    told = judge([0.0] * EDGES).record([])
    assert (told["noise"], told["settled_share"], told["at_risk"]) == (0.0, 0.0, 0)


# ---- going on


@pytest.mark.parametrize("settle", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_resuming_anywhere_gives_the_same_decisions_and_the_same_record(seed: int, settle: bool) -> None:
    """To the last bit: the twin is asked the same questions in the same order."""
    true, rough = costs(seed, 1e-3)
    made: list[Costs] = []
    doubts = judge(true, made, settle=settle)
    whole = run(rough, doubts)
    doubts.finish()
    for length in range(len(whole) + 1):
        again: list[Costs] = []
        late = judge(true, again, settle=settle)
        rest = run(rough, late, done=whole[:length])
        assert whole[:length] + rest == whole
        late.finish()
        assert late.record(whole) == doubts.record(whole)
        assert again[0].asked == made[0].asked


def test_the_twin_is_shown_what_was_removed_in_the_order_of_the_search() -> None:
    true, rough = costs(6, 1e-3)
    made: list[Costs] = []
    doubts = judge(true, made)
    found = run(rough, doubts)
    doubts.finish()
    gone = [decision.edge for decision in found if decision.removed]
    assert made[0].gone == gone[: len(made[0].gone)]
    passed: list[Costs] = []
    other = judge(true, passed)
    for decision in found:
        other.pass_over(decision)
    other.finish()
    assert passed == []  # none of these is of its network, so none is measured


def test_the_guess_is_told_in_units_of_the_loss() -> None:
    """Of losses whose errors are a tenth of others', a tenth of the guess counts as possible."""
    for effect, near in ((0.105, False), (0.1009, True)):
        made: list[Costs] = []
        doubts = Doubts(
            making(Costs([effect] * EDGES), made), Noise(0.01, lambda loss: 0.1), 0.1, layer_of=layers_of(GRAPH)
        )
        doubts(Decision(0, EDGES - 1, 0.0, effect, False))
        assert bool(made) == near
