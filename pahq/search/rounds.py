"""Rounds of a search: how long removals wait before they enter an engine's state.

Ordinarily they enter at once. Where only changes are in low precision (``method.arithmetic=changes``) the state is in
full precision, and entering it takes a pass through the whole network. So the removals of a round wait, each trial of
the round takes them along as part of its change, and at the end of the round all of them enter together. A round is so
many tests of one stage of the search. It is counted in tests, not in what an engine measures at once, so that every
engine searches by the same rounds and takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from pahq.circuits.graph import Graph
from pahq.circuits.order import Visit, stage_numbers
from pahq.engine.base import Engine, Trial

if TYPE_CHECKING:
    from pahq.search.acdc import Decision


def stages_of(graph: Graph) -> Callable[[int], int]:
    """The number of the stage that an edge belongs to."""
    numbers, edges = stage_numbers(graph), graph.edges
    return lambda edge: numbers[Visit(edges[edge].receiver, edges[edge].direct)]


class Rounds:
    """Counts the tests of a search. ``size`` tests of a stage make a round; None: removals do not wait."""

    def __init__(self, size: int | None, stage_of: Callable[[int], Hashable]) -> None:
        self._size, self._stage_of = size, stage_of
        self._stage: Hashable = None
        self._tests = 0  # of the stage
        self.waiting: list[int] = []  # edges removed in this round

    @property
    def at_once(self) -> bool:
        """Whether removals enter the state at once."""
        return self._size is None

    def begins(self, edge: int) -> bool:
        """Whether the test of ``edge``, the next one, begins a round."""
        return self._size is not None and self.left(edge) == self._size

    def left(self, edge: int) -> int | None:
        """How many tests there may be until the round ends, that of ``edge``, the next one, included; None: no end."""
        if self._size is None:
            return None
        return self._size if self._stage_of(edge) != self._stage else self._size - self._tests % self._size

    def over(self) -> list[int]:
        """The removals that have waited, which wait no more."""
        waited, self.waiting = self.waiting, []
        return waited

    def decided(self, edge: int, removed: bool) -> None:
        """The test of ``edge`` is over."""
        stage = self._stage_of(edge)
        self._tests = 1 if stage != self._stage else self._tests + 1
        self._stage = stage
        if removed:
            self.waiting.append(edge)


def passes_of(decisions: Iterable[Decision], size: int, stage_of: Callable[[int], Hashable]) -> int:
    """How often removals entered the state in a search: so many passes in full precision."""
    rounds, passes = Rounds(size, stage_of), 0
    for decision in decisions:
        if rounds.begins(decision.edge):
            passes += bool(rounds.over())
        rounds.decided(decision.edge, decision.removed)
    return passes + bool(rounds.waiting)


class RoundFollower:
    """Like ``pahq.search.follow.Follower``, for an engine whose state moves by rounds of ``size`` tests.

    With ``moves`` False it is the search itself that moves the engine.
    """

    def __init__(self, engine: Engine, size: int, *, moves: bool = True) -> None:
        self._engine, self._moves = engine, moves
        self._rounds = Rounds(size, stages_of(engine.graph))

    def losses(self, edge: int) -> tuple[float, float]:
        """The loss before and after removing ``edge``, in the state of the search."""
        if self._rounds.begins(edge):
            self._enter()
        waiting = tuple(self._rounds.waiting)
        before, after = self._engine.measure([Trial(edge, waiting), Trial(edge, (*waiting, edge))])
        return before, after

    def decided(self, edge: int, removed: bool) -> None:
        """The test of ``edge`` is over."""
        if self._rounds.begins(edge):
            self._enter()
        self._rounds.decided(edge, removed)

    def _enter(self) -> None:
        waited = self._rounds.over()
        if waited and self._moves:
            self._engine.remove(waited)
