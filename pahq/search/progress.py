"""How far a search is: of all edges, tested or not, how many lie behind it. A bar of it ends at 100%."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pahq.circuits.graph import Graph
from pahq.circuits.order import Order, visits
from pahq.search.acdc import visit_edges


def places(graph: Graph, order: Order) -> list[int]:
    """By edge: its place in the order of visits, from 1, which counts edges that need no test too."""
    place = [0] * len(graph.edges)
    ordered = (edge for visit in visits(graph) for edge in visit_edges(graph, visit, order))
    for number, edge in enumerate(ordered, 1):
        place[edge] = number
    return place


class SearchBar:
    """A bar over all edges of a graph, which names tests, kept edges and the time left."""

    def __init__(
        self, graph: Graph, order: Order, earlier: Iterable[tuple[int, bool]] = (), *, kind: Any = tqdm, **settings: Any
    ) -> None:
        """``earlier``: edges decided before, and whether they were removed. ``kind``: which of tqdm's bars."""
        self._places, self._tests, self._kept, begun = places(graph, order), 0, 0, 0
        for edge, removed in earlier:
            begun = self._count(edge, removed)
        self._bar = kind(total=len(graph.edges), initial=begun, unit="edge", **settings)

    def decided(self, edge: int, removed: bool) -> None:
        """Note a test; the edges before it that needed none are done too."""
        place = self._count(edge, removed)
        self._bar.set_postfix({"tests": self._tests, "kept": self._kept}, refresh=False)
        self._bar.update(place - self._bar.n)

    def finish(self) -> None:
        """The search is over: whatever is left needs no test."""
        self._bar.update(self._bar.total - self._bar.n)

    def _count(self, edge: int, removed: bool) -> int:
        self._tests += 1
        self._kept += not removed
        return self._places[edge]

    def __enter__(self) -> SearchBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
