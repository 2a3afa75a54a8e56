"""Sweeps: which decisions a search of another threshold has already taken, and what is left to search."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import pytest
from support.cost_engines import GRAPH, Costs

from pahq.circuits.order import Order
from pahq.search.acdc import Decision, acdc
from pahq.search.sweep import Swept, common_prefix, sweep

THRESHOLDS = [0.3, 0.02, 0.1, 0.3, 0.05]
TAKEN = [Decision(0, 7, 0.0, 0.05, True), Decision(1, 6, 0.05, 0.30, False), Decision(2, 5, 0.05, 0.07, True)]


def test_prefixes_end_where_thresholds_disagree() -> None:
    assert list(common_prefix(TAKEN, 0.1)) == TAKEN
    assert list(common_prefix(TAKEN, 0.03)) == []
    assert list(common_prefix(TAKEN, 0.26)) == TAKEN[:1]


def test_an_effect_that_is_the_threshold_is_kept_as_in_a_search() -> None:
    taken = [Decision(0, 7, 0.0, 0.25, True), Decision(1, 6, 0.25, 0.5, False)]
    assert list(common_prefix(taken, 0.25)) == []
    assert list(common_prefix(taken[1:], 0.25)) == taken[1:]


def test_signs_count_as_they_do_in_the_search() -> None:
    harmful = [Decision(0, 7, 1.0, 0.8, False)]
    assert list(common_prefix(harmful, 0.1, absolute=True)) == harmful
    assert list(common_prefix(harmful, 0.3, absolute=True)) == []
    assert list(common_prefix(harmful, 0.1)) == []


def test_a_prefix_ends_before_a_test_that_noise_could_decide() -> None:
    asked = []

    def doubtful(decision: Decision, threshold: float) -> bool:
        asked.append((decision.index, threshold))
        return decision.index == 1

    assert list(common_prefix(TAKEN, 0.1, doubtful=doubtful)) == TAKEN[:1]
    assert asked == [(0, 0.1), (1, 0.1)]


def searches(cost: Sequence[float], absolute: bool, asked: list[tuple[float, int]]):  # type: ignore[no-untyped-def]
    def start(threshold: float, done: Sequence[Decision], guesses: Mapping[int, bool]) -> Iterator[Decision]:
        asked.append((threshold, len(done)))
        return acdc(Costs(cost), Order(), threshold, absolute=absolute, done=done)

    return start


@pytest.mark.parametrize("absolute", [False, True])
def test_a_sweep_is_its_searches_each_of_which_begins_where_it_parts_from_another(absolute: bool) -> None:
    draw = random.Random(3)
    cost = [draw.choice([-0.2, 0.0, 0.03, 0.07, 0.2, 0.6]) for _ in GRAPH.edges]
    asked: list[tuple[float, int]] = []
    found = list(sweep(searches(cost, absolute, asked), THRESHOLDS, absolute=absolute))
    assert [swept.threshold for swept in found] == sorted(set(THRESHOLDS))
    for at, swept in enumerate(found):
        alone = list(acdc(Costs(cost), Order(), swept.threshold, absolute=absolute))
        assert list(swept.decisions) == alone
        longest = 0
        for other in found[:at]:
            pairs = zip(other.decisions, alone, strict=False)
            same = [(one.edge, one.removed) == (two.edge, two.removed) for one, two in pairs]
            longest = max(longest, (*same, False).index(False))
        assert swept.shared == longest
        assert asked[at] == (swept.threshold, longest)
    assert 0 < found[-1].shared < len(found[-1].decisions)


def test_what_is_in_doubt_at_another_threshold_is_searched_anew() -> None:
    cost = [0.5] * len(GRAPH.edges)
    cost[GRAPH.index_of("m1->logits")] = -0.5  # which goes at every threshold, unless its size were to count
    asked: list[tuple[float, int]] = []
    start = searches(cost, False, asked)
    doubtful = lambda decision, threshold: threshold == 0.1 and decision.index == 4  # noqa: E731
    found = list(sweep(start, [0.1, 0.05, 0.2], doubtful=doubtful))
    tests = len(found[0].decisions)
    assert asked == [(0.05, 0), (0.1, 4), (0.2, tests)]
    assert [swept.shared for swept in found] == [0, 4, tests]
    assert {swept.decisions for swept in found} == {found[0].decisions}


def test_a_threshold_is_searched_when_its_turn_comes() -> None:
    asked: list[tuple[float, int]] = []
    swept = sweep(searches([0.5] * len(GRAPH.edges), False, asked), [0.2, 0.1])
    assert isinstance(next(swept), Swept)
    assert [threshold for threshold, _ in asked] == [0.1]


def test_the_search_before_says_what_is_likely_to_go() -> None:
    cost = [0.01 * index for index in range(len(GRAPH.edges))]
    given: list[Mapping[int, bool]] = []

    def start(threshold: float, done: Sequence[Decision], guesses: Mapping[int, bool]) -> Iterator[Decision]:
        given.append(guesses)
        return acdc(Costs(cost), Order(), threshold, done=done)

    first, second = sweep(start, [0.05, 0.1])
    assert given[0] == {}
    assert given[1] == {decision.edge: decision.effect < 0.1 for decision in first.decisions}
    assert set(given[1].values()) == {True, False}
    assert [decision.removed for decision in second.decisions] == [
        given[1][decision.edge] for decision in second.decisions
    ]  # each edge's effect is its own here, so that every guess is right
