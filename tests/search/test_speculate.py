"""Windows of tests: the very search that takes one test at a time, and how wide windows are.

The engine is one of few lines that keeps a caller to what engines may rely on (``pahq.engine.base.Engine``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

import pytest
from support.cost_engines import GRAPH, Costs

from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.order import Order, stages
from pahq.engine.base import Trial
from pahq.errors import PahqError
from pahq.search.acdc import Decision, acdc, visit_edges
from pahq.search.rounds import stages_of
from pahq.search.speculate import speculate, worthwhile

WIDE = build_graph(ModelShape(3, 8, 8, True))
Focus = Callable[[int], object]


def head_of(edge: int) -> object:
    receiver = GRAPH.edges[edge].receiver
    return (receiver.layer, receiver.head) if receiver.kind == "head" else None


class Strict(Costs):
    """Refuses edges of two stages, or trials of two foci, in one call, and any way back; ``calls`` are its windows."""

    def __init__(
        self, cost: Sequence[float], focus: Focus = lambda edge: None, wide: int = 8, graph: Graph = GRAPH
    ) -> None:
        super().__init__(cost, graph=graph, shift=lambda edge: hash(focus(edge)) % 7 / 8)
        self._focus, self._wide, self._stage_of, self._stage = focus, wide, stages_of(graph), 0
        self.calls: list[list[Trial]] = []
        self._announced: list[int] = []

    def window(self, edge: int) -> int:
        """May move an engine on to the stage and focus of ``edge``, which therefore is to be tested next."""
        self._at([edge])
        self._announced = [edge]
        return self._wide

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        assert len({self._focus(trial.edge) for trial in trials}) == 1
        assert self._announced in ([], [trials[0].edge])
        self._at([edge for trial in trials for edge in (trial.edge, *trial.removed)])
        self.calls.append(list(trials))
        return super().measure(trials)

    def remove(self, edges: Sequence[int]) -> None:
        assert not set(edges) & set(self.gone)
        self._at(edges)
        super().remove(edges)

    def _at(self, edges: Sequence[int]) -> None:
        found = {self._stage_of(edge) for edge in edges}
        assert len(found) <= 1
        assert min(found, default=self._stage) >= self._stage
        self._stage = max(found, default=self._stage)


def costs(seed: int, graph: Graph = GRAPH) -> list[float]:
    draw = random.Random(seed)
    return [draw.choice([-0.5, 0.0, 0.0, 0.0625, 0.125, 0.25, 1.0]) for _ in graph.edges]


WAYS: list[dict[str, object]] = [{}, {"widest": 1}, {"widest": 3, "adaptive": False}, {"adaptive": False}]


@pytest.mark.parametrize("size", [None, 1, 3, 50])
@pytest.mark.parametrize("focused", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_windows_take_the_decisions_of_single_tests(size: int | None, focused: bool, way: dict[str, object]) -> None:
    """To the last bit, by every engine's rules, and from any point of a search that was interrupted there."""
    focus: Focus = head_of if focused else lambda edge: None
    for seed in range(3):
        asked = {"focus": focus, "round_size": size, "absolute": seed == 1}
        slow, fast = Strict(costs(seed), focus), Strict(costs(seed), focus)
        expected = list(acdc(slow, Order(), 0.125, **asked))  # type: ignore[arg-type]
        assert list(speculate(fast, Order(), 0.125, **asked, **way)) == expected  # type: ignore[arg-type]
        whole = set(fast.gone)
        assert {decision.edge for decision in expected if not decision.removed} == set(range(len(GRAPH.edges))) - whole
        for cut in range(seed, len(expected) + 1, 5):
            for search, ways in ((speculate, way), (acdc, {})):
                engine = Strict(costs(seed), focus)
                rest = list(search(engine, Order(), 0.125, done=expected[:cut], **asked, **ways))  # type: ignore[operator]
                assert rest == expected[cut:]
                assert set(engine.gone) | {d.edge for d in expected if d.removed} == whole
                assert not {trial.edge for call in engine.calls for trial in call} & {d.edge for d in expected[:cut]}


@pytest.mark.parametrize("search", [acdc, speculate])
def test_removals_of_a_round_wait_for_its_end(search: Callable[..., Iterator[Decision]]) -> None:
    """So many tests of a stage ask of one state; what they removed enters it all at once."""
    stays = [edge.direct or edge.receiver.kind == "logits" for edge in GRAPH.edges]  # so that every node is tested
    engine = Strict([float(stay) for stay in stays])
    found = list(search(engine, Order(), 0.5, round_size=3))
    expected = []
    for _, tests in groupby((decision.edge for decision in found if decision.removed), key=stages_of(GRAPH)):
        of_stage = list(tests)
        expected += [tuple(of_stage[first : first + 3]) for first in range(0, len(of_stage), 3)]
    assert len(found) == len(GRAPH.edges)
    removed = [edges for what, edges in engine.asked if what == "remove" and edges]
    assert removed in (expected, expected[:-1])  # behind the last round no test asks for its state


def test_a_judge_changes_what_windows_go_on_with() -> None:
    """Of every second test the other way: what the search does next follows from what the judge said."""

    def turned(decision: Decision) -> Decision:
        other = decision.removed != (decision.index % 2 == 0)
        return Decision(decision.index, decision.edge, decision.before, decision.after, other)

    expected = list(acdc(Strict(costs(4)), Order(), 0.125, judge=turned))
    assert list(speculate(Strict(costs(4)), Order(), 0.125, judge=turned)) == expected
    assert [d.removed for d in expected] != [d.effect < 0.125 for d in expected]


def test_decisions_of_another_search_are_refused() -> None:
    whole = list(speculate(Strict(costs(2)), Order(), 0.125))
    with pytest.raises(PahqError, match="is not this search's test 0"):
        list(speculate(Strict(costs(2)), Order(), 0.125, done=whole[1:]))


# ---- a loss that is no number


class Broken(Strict):
    """Some edges' removal costs more than a number can say, and an engine that is asked for them first says so."""

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        if not math.isfinite(self.cost[trials[0].edge]) and trials[0].removed:
            raise PahqError(f"edge {trials[0].edge} has no finite loss")
        return super().measure(trials)


def test_a_loss_that_is_no_number_is_asked_for_again_on_its_own() -> None:
    """Only then does an engine say what is not finite; up to there the search is as ever."""
    cost = [0.0] * len(GRAPH.edges)
    order = [decision.edge for decision in acdc(Costs(cost), Order(), 0.125)]
    cost[order[4]] = math.inf
    engine = Broken(cost)
    search = speculate(engine, Order(), 0.125, adaptive=False)
    assert [next(search).edge for _ in range(4)] == order[:4]
    with pytest.raises(PahqError, match=f"edge {order[4]} has no finite loss"):
        next(search)
    assert any(order[4] in (trial.edge for trial in call[1:]) for call in engine.calls)


# ---- drift


def test_drift_is_asked_once_a_stage_and_noted_where_it_has_grown() -> None:
    told = iter([0.0, 0.5, 0.25, 0.5, 0.75])
    asked: list[int] = []
    engine = Strict([1.0] * len(GRAPH.edges))

    def drift() -> float:
        asked.append(engine.measured)
        return next(told, 0.0)

    found = list(speculate(engine, Order(), 0.5, drift=drift))
    stage_of = stages_of(GRAPH)
    firsts = [d.index for d in found if d.index == 0 or stage_of(d.edge) != stage_of(found[d.index - 1].edge)]
    assert len(asked) == len(firsts)
    assert {d.index: d.drift for d in found if d.drift is not None} == {firsts[1]: 0.5, firsts[4]: 0.75}


def test_drift_is_noted_with_decisions_of_this_run_alone() -> None:
    whole = list(speculate(Strict([1.0] * len(GRAPH.edges)), Order(), 0.5))
    asked: list[float] = []
    rest = list(
        speculate(Strict([1.0] * len(GRAPH.edges)), Order(), 0.5, done=whole[:3], drift=lambda: asked.append(1) or 0.5)
    )
    assert [d.index for d in rest if d.drift is not None] == [3]
    assert [d.index for d in rest] == [d.index for d in whole[3:]]


def test_drift_that_was_noted_before_a_kill_is_not_noted_again() -> None:
    def decided(done: list[Decision]) -> list[Decision]:
        engine = Strict([1.0] * len(GRAPH.edges))
        return list(speculate(engine, Order(), 0.5, done=done, drift=lambda: 0.5))

    whole = decided([])
    assert whole[0].drift == 0.5
    assert whole[:9] + decided(whole[:9]) == whole


# ---- how wide windows are


def windows_of(engine: Strict) -> list[list[int]]:
    """The edges that were tested together, window by window; without measurements of a state."""
    return [[trial.edge for trial in call] for call in engine.calls if call[0].removed]


def test_windows_are_as_wide_as_stage_focus_round_and_engine_allow() -> None:
    """Where nothing is guessed wrong, no window ends before it has to."""
    nothing = [0.0] * len(WIDE.edges)
    for wide, widest, size in ((8, None, None), (64, 5, None), (64, None, 6), (64, None, None)):
        engine = Strict(nothing, wide=wide, graph=WIDE)
        list(speculate(engine, Order(), 0.5, adaptive=False, widest=widest, round_size=size))
        most = min(wide, widest or wide, size or wide)
        stage = next(iter(stages(WIDE)))
        logits = [edge for visit in stage.visits for edge in visit_edges(WIDE, visit, Order())]
        parts = [logits[first : first + most] for first in range(0, len(logits), most)]
        assert windows_of(engine)[: len(parts)] == parts
    by_head: Focus = lambda edge: WIDE.edges[edge].receiver  # noqa: E731
    kept = [1.0] * len(WIDE.edges)
    engine = Strict(kept, by_head, wide=64, graph=WIDE)
    list(speculate(engine, Order(), 0.5, adaptive=False, focus=by_head))
    windows = windows_of(engine)
    assert all(len({by_head(edge) for edge in window}) == 1 for window in windows)
    assert max(map(len, windows)) > 16


def test_what_was_measured_behind_a_wrong_guess_predicts_the_next_window() -> None:
    """All are guessed to go at first. Where all stay, one window finds that out, and the next has no wrong guess."""
    engine = Strict([1.0] * len(WIDE.edges), wide=16, graph=WIDE)
    found = list(speculate(engine, Order(), 0.5, adaptive=False))
    logits = [d.edge for d in found if WIDE.edges[d.edge].receiver.kind == "logits"]
    first, second, third = windows_of(engine)[:3]
    assert first == logits[:16]
    assert second == logits[1:17]  # 15 foretold, and a new one that is guessed to go
    assert third == logits[17:]
    trials = engine.calls[2]
    assert all(trial.removed == (trial.edge,) for trial in trials[:15])  # in each other's presence


@pytest.mark.parametrize("right", [True, False])
def test_guesses_of_another_search_save_trials_and_change_no_decision(right: bool) -> None:
    draw = random.Random(5)
    cost = [draw.choice([0.0, 0.0, 1.0]) for _ in WIDE.edges]
    alone, helped = Strict(cost, wide=16, graph=WIDE), Strict(cost, wide=16, graph=WIDE)
    expected = list(speculate(alone, Order(), 0.5))
    guesses = {decision.edge: decision.removed == right for decision in expected}
    assert list(speculate(helped, Order(), 0.5, guesses=guesses)) == expected
    if right:
        assert len(helped.calls) < len(alone.calls)
        assert sum(map(len, helped.calls)) == 1 + len(expected)  # the whole graph's loss, then no trial in vain


def test_windows_narrow_where_guesses_fail_and_widen_where_they_hold() -> None:
    gone = Strict([0.0] * len(WIDE.edges), wide=64, graph=WIDE)
    list(speculate(gone, Order(), 0.5))
    widths = {}
    for window in windows_of(gone):
        receiver = WIDE.edges[window[0]].receiver
        widths.setdefault((receiver.kind, receiver.layer), []).append(len(window))
    assert sum(map(len, widths.values())) < sum(map(sum, widths.values())) / 2
    [logits] = [found for (kind, _), found in widths.items() if kind == "logits"]
    assert all(one <= other for one, other in pairwise(logits[:-1]))
    assert logits[0] == 1  # half of these edges are expected to stay
    assert max(logits) > 1


def test_windows_begin_narrower_where_edges_are_kept_more_often() -> None:
    """Into the logits most often, then Direct edges, then into MLPs, and into heads hardly any."""
    stays = [edge.direct or edge.receiver.kind == "logits" for edge in WIDE.edges]  # so that every node is tested
    engine = Strict([float(stay) for stay in stays], wide=64, graph=WIDE)
    list(speculate(engine, Order(), 0.5))
    first: dict[str, int] = {}
    for window in windows_of(engine):
        edge = WIDE.edges[window[0]]
        first.setdefault("direct" if edge.direct else edge.receiver.kind, len(window))
    assert first["logits"] < first["direct"] < first["mlp"] < first["head"] < 64


@pytest.mark.parametrize("wrong", [0.0, 1e-3, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("overhead", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("cap", [1, 2, 7, 64, 100])
def test_a_window_accepts_most_tests_per_unit_of_work(cap: int, wrong: float, overhead: float) -> None:
    """Of powers of two and the widest: the best, by the probability that the first so many guesses are right."""

    def worth(size: int) -> float:
        accepted = sum((1 - max(wrong, 1e-3)) ** right for right in range(size))
        return accepted / (overhead + size)

    sizes = {min(cap, 2**power) for power in range(8)}
    found = worthwhile(cap, wrong, overhead)
    assert found in sizes
    assert worth(found) == pytest.approx(max(map(worth, sizes)))


def test_a_round_costs_as_much_as_a_trial_unless_its_engine_knows_better() -> None:
    class Costly(Strict):
        def overhead(self, edge: int) -> float:
            return 1000.0

    cost = [0.0] * len(WIDE.edges)
    cheap, costly = Strict(cost, wide=64, graph=WIDE), Costly(cost, wide=64, graph=WIDE)
    for engine in (cheap, costly):
        list(speculate(engine, Order(), 0.5))
    stage = next(iter(stages(WIDE)))
    count = sum(len(visit_edges(WIDE, visit, Order())) for visit in stage.visits)
    assert len(windows_of(costly)[0]) == worthwhile(count, 0.5, 1000.0) > 1
    assert len(windows_of(cheap)[0]) == worthwhile(count, 0.5) == 1
