"""An engine that follows another one's search: it is brought to that search's state when it is asked, not before."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import groupby

from pahq.circuits.order import Visit, stage_numbers
from pahq.engine.base import Engine, Trial


class Follower:
    """Tells ``engine``'s losses of tests that another engine is searching.

    For each test of the search, in order, ``decided`` says how it ended; ``losses`` may be asked before that. What was
    removed meanwhile is taken away stage by stage, which is what engines can do at once. ``focus`` names what runs in
    full precision while an edge is under test: where it changes, the loss of a state is another.
    """

    def __init__(self, engine: Engine, focus: Callable[[int], Hashable] = lambda edge: None) -> None:
        self._engine, self._focus = engine, focus
        self._stages = stage_numbers(engine.graph)
        self._gone: list[int] = []  # removed by the search, not yet by the engine
        self._found: tuple[float, float] | None = None  # of the test at hand
        self._current: float | None = None  # the engine's loss under the focus ``_under``, if nothing is to be removed
        self._under: Hashable = None

    def losses(self, edge: int) -> tuple[float, float]:
        """The loss before and after removing ``edge``, in the state of the search."""
        rest: tuple[int, ...] = ()
        for stage, members in groupby(self._gone, key=self._stage):
            rest = tuple(members)
            if stage != self._stage(edge):
                self._engine.remove(rest)
                rest, self._current = (), None
        self._gone = list(rest)
        if rest or self._current is None or self._focus(edge) != self._under:
            before, after = self._engine.measure([Trial(edge, rest), Trial(edge, (*rest, edge))])
        else:
            before, after = self._current, self._engine.measure([Trial(edge, (edge,))])[0]
        self._found = before, after
        return before, after

    def decided(self, edge: int, removed: bool) -> None:
        """The test of ``edge`` is over."""
        if self._found is None:
            if removed:
                self._gone.append(edge)
            return
        (before, after), self._found = self._found, None
        self._engine.remove([*self._gone, edge] if removed else self._gone)
        self._gone, self._current, self._under = [], after if removed else before, self._focus(edge)

    def _stage(self, edge: int) -> int:
        """The number of the edge's stage: edges of one stage an engine may take away at once."""
        tested = self._engine.graph.edges[edge]
        return self._stages[Visit(tested.receiver, tested.direct)]
