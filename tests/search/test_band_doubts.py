"""An audited search whose full precision is noisy too: three networks, of which the exact one has the last word."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from support.cost_engines import GRAPH, Costs, making

from pahq.circuits.order import Order
from pahq.config.band import BandConfig
from pahq.search.acdc import Decision, acdc
from pahq.search.band import Auditor, Calibration, banded, layers_of
from pahq.search.doubt import Doubts, Noise
from pahq.search.speculate import speculate

EARLY = BandConfig(share=0.1, near=0.3, first=3, confidence=0.9)
EDGES = len(GRAPH.edges)


def costs(seed: int, low: float) -> tuple[list[float], list[float], list[float]]:
    """Exact costs, many near the threshold of .1; what full precision and what low precision see of them."""
    draw = random.Random(seed)
    exact = [0.1 + draw.uniform(-1, 1) * 1e-3 if draw.random() < 0.5 else draw.choice([0.0, 0.6]) for _ in range(EDGES)]
    full = [cost + draw.uniform(-1, 1) * 1e-3 for cost in exact]
    return exact, full, [cost + draw.gauss(0, low) for cost in full]


class Run:
    def __init__(self, seed: int, low: float, band: BandConfig, done: Sequence[Decision] = (), fast: bool = False):
        self.made: list[Costs] = []
        exact, full, cheap = costs(seed, low)
        search: Callable = speculate if fast else acdc
        self.doubts = Doubts(making(Costs(exact), self.made), Noise(0.01), 0.1, layer_of=layers_of(GRAPH))
        self.known = Calibration(band, 0.1, layer_of=layers_of(GRAPH))
        found = banded(
            lambda judge, done: search(Costs(cheap), Order(), 0.1, done=done, judge=judge),
            lambda judge, done: search(Costs(full), Order(), 0.1, done=done, judge=judge),
            Auditor(Costs(full), self.known, self.doubts),
            self.known,
            done,
        )
        self.decisions = list(found)


def expected(seed: int) -> list[tuple[int, bool]]:
    return choices(acdc(Costs(costs(seed, 0.0)[0]), Order(), 0.1))


def choices(decisions) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_exact_network_has_the_last_word(seed: int, fast: bool) -> None:
    run = Run(seed, 0.003, BandConfig(near=2.0, enough=10**9), fast=fast)
    assert choices(run.decisions) == expected(seed)
    assert all(d.audited for d in run.decisions)
    settled = [d for d in run.decisions if d.rough]
    assert settled
    exact, full, low = costs(seed, 0.003)
    gone: set[int] = set()
    for decision in run.decisions:
        state = {*gone, decision.edge}
        assert decision.low == (Costs(low).loss(gone), Costs(low).loss(state))
        if decision.rough:
            assert (decision.before, decision.after) == (Costs(exact).loss(gone), Costs(exact).loss(state))
        assert (decision.rough or (decision.before, decision.after)) == (
            Costs(full).loss(gone),
            Costs(full).loss(state),
        )
        assert decision.left == decision.low[decision.removed]  # the searching engine is the low one
        gone |= {decision.edge} if decision.removed else set()


@pytest.mark.parametrize("fast", [False, True])
def test_a_hopeless_search_ends_in_full_precision_and_doubts_stay(fast: bool) -> None:
    for seed in range(4):
        run = Run(seed, 3.0, EARLY, fast=fast)
        assert run.known.hopeless_at is not None
        assert choices(run.decisions) == expected(seed)
        late = [d for d in run.decisions if d.index > run.known.hopeless_at]
        assert sum(d.rough is not None for d in late) > 0
        assert all(d.audited and d.low is None for d in late)
        assert run.doubts.record(run.decisions)["settled"] == sum(d.rough is not None for d in run.decisions)


def test_unaudited_tests_are_none_of_the_sample_and_their_removals_are_followed() -> None:
    run = Run(1, 0.003, BandConfig(near=0.01, least=0.01, share=0.0, first=0, enough=1, safety=1.0))
    audited = [d for d in run.decisions if d.audited]
    assert 5 < len(audited) < len(run.decisions)
    assert all(d.rough is None for d in run.decisions if not d.audited)
    run.doubts.finish()
    index, gone, tested = {d.edge: d.index for d in run.decisions}, set[int](), set[int]()
    for kind, edges in run.made[0].asked:
        if kind == "remove":
            gone |= set(edges)
        elif edges:
            before = run.decisions[: index[edges[-1]]]
            assert gone | set(edges[:-1]) == {d.edge for d in before if d.removed}
            tested.add(edges[-1])
    # an unaudited test's edge is in a trial as what is gone already, never as what is under test
    assert all(d.removed for d in run.decisions if d.edge in tested and not d.audited)
    assert run.doubts.sampled <= len(audited)


@pytest.mark.parametrize("low", [0.003, 3.0])
def test_resuming_anywhere_gives_the_same_decisions_and_the_same_record(low: float) -> None:
    whole = Run(2, low, EARLY)
    whole.doubts.finish()
    assert whole.known.hopeless == (low > 1)
    for length in range(len(whole.decisions) + 1):
        rest = Run(2, low, EARLY, done=whole.decisions[:length])
        assert whole.decisions[:length] + rest.decisions == whole.decisions
        rest.doubts.finish()
        assert rest.doubts.record(whole.decisions) == whole.doubts.record(whole.decisions)
        assert rest.made[0].asked == whole.made[0].asked
