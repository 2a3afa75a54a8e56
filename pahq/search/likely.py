"""Which edges a search will probably keep, by what became of their like, or of them in another search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph


def as_in(circuit: Circuit) -> dict[int, bool]:
    """Whether edges will be removed in a search much like the one by which the circuit was found."""
    return {edge: not present for edge, present in enumerate(circuit.present)}


class Likely:
    """A sender that most heads of a layer listen to at one letter, or one head at its other letters, is listened to at
    the next one too, more often than not."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._balance: Counter[Hashable] = Counter()  # kept edges less removed ones

    def decided(self, edge: int, removed: bool) -> None:
        """Note what became of an edge."""
        for group in self._groups(edge):
            self._balance[group] += -1 if removed else 1

    def kept(self, edge: int) -> bool:
        """Whether most of its like were kept."""
        return sum(self._balance[group] for group in self._groups(edge)) > 0

    def _groups(self, edge: int) -> Iterator[Hashable]:
        at = self._graph.edges[edge]
        if at.sender is not None and at.receiver.kind == "head":
            yield at.sender, at.receiver.layer, at.receiver.letter
            yield at.sender, at.receiver.layer, at.receiver.head
