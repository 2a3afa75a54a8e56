"""How far down a search has come, and what it may still ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pahq.circuits.graph import Graph
from pahq.circuits.order import Stage, Visit, stage_numbers, stages
from pahq.engine.base import Trial
from pahq.errors import PahqError
from pahq.precision.store import Focus, focus_of


class Descent:
    """Holds a search to what an engine may rely on (``pahq.engine.base.Engine``).

    Values of an earlier stage are gone and those of a later one not there yet, so an edge of another stage would be
    passed over without a word; and all trials of a wave are computed under one focus.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._stages = graph, tuple(stages(graph))
        places = stage_numbers(graph)
        self._places = [places[Visit(edge.receiver, edge.direct)] for edge in graph.edges]
        self.restart()

    def __len__(self) -> int:
        """How many stages there are."""
        return len(self._stages)

    def restart(self) -> None:
        """Before the first stage."""
        self._at = -1

    @property
    def stage(self) -> Stage:
        """The one at hand."""
        return self._stages[self._at]

    def check_trials(self, trials: Iterable[Trial], focus: str) -> None:
        """Raise PahqError unless the trials can be measured together, and now."""
        tested = dict.fromkeys(trial.edge for trial in trials)
        self.check(set(tested).union(*(trial.removed for trial in trials)))
        first, *others = tested
        wanted = self._focus_of(first, focus)
        for other in others:
            if self._focus_of(other, focus) != wanted:
                raise PahqError(
                    f"the suffix engine measures trials of one focus together; {self._graph.edges[first]} and "
                    f"{self._graph.edges[other]} have two"
                )

    def check(self, edges: Iterable[int]) -> None:
        """Raise PahqError unless the edges are of one stage that has not been left."""
        known = {self._places[edge]: edge for edge in edges}
        if len(known) > 1:
            one, other = (self._graph.edges[known[place]] for place in sorted(known)[:2])
            raise PahqError(f"the suffix engine takes edges of one stage together; {one} and {other} are of two")
        for place, edge in known.items():
            if place < self._at:
                raise PahqError(
                    "the suffix engine tests from the output down; "
                    f"{self._graph.edges[edge]} comes before what was tested last"
                )

    def down_to(self, edge: int) -> Iterator[tuple[Stage, Stage]]:
        """Move on to the stage of ``edge``, through every stage on the way: resuming may skip whole stages.

        Each comes with the stage that was left for it; the first of all comes after itself.
        """
        while self._at < self._places[edge]:
            left = self._stages[max(self._at, 0)]
            self._at += 1
            yield left, self.stage

    def _focus_of(self, edge: int, rule: str) -> Focus:
        return focus_of(self._graph, self._graph.edges[edge], rule)
