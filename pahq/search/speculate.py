"""ACDC many tests at a time: the sequential algorithm, not an approximation of it.

The coming decisions are predicted (at first: all removed), a window of tests is measured in one call as if the
predictions held, and the answers are accepted up to and including the first wrong prediction; what was measured behind
it predicts the next window. Tests share a window when they belong to one letter of one layer, since their nodes'
connections are all decided before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from pahq.circuits.order import Order, stages
from pahq.engine.base import CostlyRounds, Trial, WindowEngine
from pahq.errors import PahqError
from pahq.search.acdc import Decision, Judge, Liveness, as_measured, check_done, is_removed, visit_edges
from pahq.search.likely import Likely
from pahq.search.rounds import Rounds, stages_of

# Share of wrong predictions expected at a stage's start: edges into the logits are kept most often.
FIRST_GUESS = {"logits": 0.5, "mlp": 0.1, "direct": 0.2, "head": 0.03}
MEMORY = 0.9  # of the running share of wrong predictions
_ANEW = object()  # no focus at all: the current loss is to be measured


def speculate(
    engine: WindowEngine,
    order: Order,
    threshold: float,
    *,
    absolute: bool = False,
    focus: Callable[[int], Hashable] = lambda edge: None,
    done: Sequence[Decision] = (),
    judge: Judge = as_measured,
    widest: int | None = None,
    adaptive: bool = True,
    drift: Callable[[], float] | None = None,
    round_size: int | None = None,
    guesses: Mapping[int, bool] | None = None,
) -> Iterator[Decision]:
    """The decisions of ``pahq.search.acdc.acdc``, in its order, by the same rounds.

    ``widest`` caps the windows (1: one test at a time); without ``adaptive`` every window is as wide as allowed.
    ``drift`` is asked once per stage, and noted with the stage's first decision if it has grown beyond what was noted
    before, in ``done`` too. ``guesses``: whether edges will be removed, as far as another search tells; wrong ones
    cost time and change nothing.
    """
    given = guesses or {}
    search = _Search(engine, threshold, absolute, focus, list(done), judge, widest, adaptive, round_size, given)
    live, drifted = Liveness(engine.graph), max((decision.drift or 0.0 for decision in done), default=0.0)
    for stage in stages(engine.graph):
        edges: list[int] = []
        for visit in stage.visits:
            tests = visit_edges(engine.graph, visit, order)
            if live.needed(visit):
                edges += tests
            else:
                engine.remove(tests)
                for edge in tests:
                    live.take(edge)
        asked = drift
        for decision in search.run(edges, FIRST_GUESS["direct" if stage.direct else stage.kind]):
            if decision.removed:
                live.take(decision.edge)
            if asked is not None and decision.index >= len(done):
                seen, asked = asked(), None
                if seen > drifted:
                    decision, drifted = replace(decision, drift=seen), seen
            if decision.index >= len(done):
                yield decision
    if search.tests < len(done):
        raise PahqError(f"{len(done)} decisions are recorded, this search has {search.tests} tests")


class _Search:
    """Runs one stage after the other; carries the current loss, the focus and the resumed decisions."""

    def __init__(
        self,
        engine: WindowEngine,
        threshold: float,
        absolute: bool,
        focus: Callable[[int], Hashable],
        done: list[Decision],
        judge: Judge,
        widest: int | None,
        adaptive: bool,
        round_size: int | None,
        guesses: Mapping[int, bool],
    ) -> None:
        self._engine, self._threshold, self._absolute = engine, threshold, absolute
        self._focus, self._done, self._widest, self._adaptive = focus, done, widest, adaptive
        self._guesses, self._likely = guesses, Likely(engine.graph)
        self._overhead = engine.overhead if isinstance(engine, CostlyRounds) else _like_a_trial
        self._judge, self._rounds = judge, Rounds(round_size, stages_of(engine.graph))
        self._index, self._current, self._in_focus = 0, float("nan"), None  # type: tuple[int, float, Hashable]

    @property
    def tests(self) -> int:
        """How many tests have been decided."""
        return self._index

    def run(self, edges: list[int], wrong: float) -> Iterator[Decision]:
        resumed = self._repeat(edges)
        yield from resumed
        position = len(resumed)
        predicted: dict[int, bool] = {}  # edge -> removed
        while position < len(edges):
            if self._rounds.begins(edges[position]):
                self._engine.remove(self._rounds.over())
                self._in_focus = _ANEW
            window = self._window(edges[position:], wrong)
            guesses = [self._guess(edge, predicted) for edge in window]
            accepted = self._measure(window, guesses, predicted)
            yield from accepted
            position += len(accepted)
            missed = accepted[-1].removed != guesses[len(accepted) - 1]
            wrong = MEMORY * wrong + (1 - MEMORY) * (missed / len(accepted))
        self._engine.remove(self._rounds.over())

    def _guess(self, edge: int, predicted: Mapping[int, bool]) -> bool:
        """Whether the edge will be removed: by what was measured of it, another search, or its like; else yes."""
        if edge in predicted:
            return predicted[edge]
        return self._guesses[edge] if edge in self._guesses else not self._likely.kept(edge)

    def _repeat(self, edges: list[int]) -> list[Decision]:
        """The stage's decisions that were taken before; its removals are applied together, as far as they may be."""
        past, entered = self._done[self._index : self._index + len(edges)], list[int]()
        for decision, edge in zip(past, edges, strict=False):
            check_done(self._engine.graph, decision, self._index, edge)
            if self._rounds.begins(edge):
                entered += self._rounds.over()
            self._advance(decision)
        self._engine.remove(entered + (self._rounds.over() if self._rounds.at_once else []))
        return past

    def _advance(self, decision: Decision) -> None:
        self._current = decision.left
        self._in_focus = self._focus(decision.edge)
        self._rounds.decided(decision.edge, decision.removed)
        self._likely.decided(decision.edge, decision.removed)
        self._index += 1

    def _window(self, edges: list[int], wrong: float) -> list[int]:
        """The next edges to measure together: one focus, as many as pay off."""
        cap = self._engine.window(edges[0])
        cap = min(cap, len(edges), self._widest or cap, self._rounds.left(edges[0]) or cap)
        if self._adaptive:
            cap = worthwhile(cap, wrong, self._overhead(edges[0]))
        in_focus = self._focus(edges[0])
        return list(takewhile(lambda edge: self._focus(edge) == in_focus, edges[:cap]))

    def _measure(self, window: list[int], guesses: list[bool], predicted: dict[int, bool]) -> list[Decision]:
        """Measure a window, accept up to the first wrong guess, take the accepted removals for good."""
        waiting = tuple(self._rounds.waiting)
        trials, gone = [], list(waiting)
        before = []  # index of the trial whose loss is each test's current loss; -1: the state's own
        last = -1
        for i, (edge, guess) in enumerate(zip(window, guesses, strict=True)):
            trials.append(Trial(edge, (*gone, edge)))
            before.append(last)
            if guess:
                gone.append(edge)
                last = i
        if self._index == 0 or self._focus(window[0]) != self._in_focus:
            self._current = self._engine.measure([Trial(window[0], waiting)])[0]
        losses = self._engine.measure(trials)
        accepted: list[Decision] = []
        stopped = False
        for i, (edge, guess) in enumerate(zip(window, guesses, strict=True)):
            current = self._current if before[i] < 0 else losses[before[i]]
            removed = is_removed(losses[i] - current, self._threshold, absolute=self._absolute)
            if stopped:
                predicted[edge] = removed  # measured in a state that did not come about: a guess, no decision
                continue
            if i and not math.isfinite(losses[i]):
                break  # it is asked for again, on its own: an engine says what is not finite where it is the first
            decision = self._judge(Decision(self._index + i, edge, current, losses[i], removed))
            accepted.append(decision)
            stopped = decision.removed != guess
        for decision in accepted:
            self._advance(decision)
        if self._rounds.at_once:
            self._engine.remove(self._rounds.over())
        return accepted


def _like_a_trial(edge: int) -> float:
    """The overhead of a round of engines that say nothing of it."""
    return 1.0


def worthwhile(cap: int, wrong: float, overhead: float = 1.0) -> int:
    """The window that accepts most tests per unit of work, if each guess is wrong with probability ``wrong``.

    A window of k costs ``overhead`` + k and is expected to accept (1 - (1 - wrong)^k) / wrong.
    """
    wrong = max(wrong, 1e-3)
    sizes = [1]
    while sizes[-1] < cap:
        sizes.append(min(cap, 2 * sizes[-1]))
    return max(sizes, key=lambda k: (1 - (1 - wrong) ** k) / wrong / (overhead + k))
