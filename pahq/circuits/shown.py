"""What people are shown of a circuit: its edges with what is known of each, and how it stands to a published one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Receiver
from pahq.circuits.grid import Wire, group_name

LIMIT = 400  # lines of one picture; a circuit with more is drawn node by node
HIT, EXTRA, MISSED = "hit", "extra", "missed"


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of an edge. ``effect``: the rise in loss when it was tested, or its score.

    ``margin``: how far that lies from the threshold; ``precision``: of the weights that decided; ``order``: which test
    it was, from 1, or of scores its rank. None where there is no such thing.
    """

    effect: float
    margin: float | None = None
    precision: str | None = None
    order: int | None = None


@dataclass(frozen=True)
class Line:
    """A wire with its looks. ``letter``: q, k, v or none; ``mark``: hit, extra or missed, empty without a reference.

    ``edges``: indices of the graph's edges that it stands for.
    """

    wire: Wire
    letter: str
    mark: str
    edges: tuple[int, ...]


@dataclass(frozen=True)
class Shown:
    """A circuit with what is known of its edges.

    ``facts`` by an edge's index, perhaps of edges outside the circuit too. ``published``: indices of a published
    circuit's edges, None where there is none, and ``classes`` its classes of nodes. ``measure``: what effects are, in
    words. ``notes`` are whole sentences.
    """

    circuit: Circuit
    title: str = ""
    facts: Mapping[int, Fact] = field(default_factory=dict)
    published: frozenset[int] | None = None
    measure: str = "effect"
    notes: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def effect(self, edge: int) -> float | None:
        return self.facts[edge].effect if edge in self.facts else None

    def mark(self, edge: int) -> str:
        """How an edge stands to the published circuit; empty where there is none, or the edge is in neither."""
        if self.published is None or not (self.circuit.present[edge] or edge in self.published):
            return ""
        if not self.circuit.present[edge]:
            return MISSED
        return HIT if edge in self.published else EXTRA

    @property
    def strongest(self) -> tuple[int, ...]:
        """The circuit's edges by |effect|, the largest first; those without one in the graph's order."""
        return tuple(sorted(self.circuit.indices, key=lambda edge: -abs(self.effect(edge) or 0.0)))

    def lines(self, *, limit: int = LIMIT) -> tuple[tuple[Line, ...], bool, str]:
        """The lines to draw, the strongest first, whether each is one edge, and a note where they are not all edges.

        A Direct edge has no line: it is the slot of its input. More than ``limit`` lines are aggregated by node, and of
        more than ``limit`` pairs of nodes only the strongest are drawn.
        """
        single = sorted(self._single(), key=_weight)
        if len(single) <= limit:
            return tuple(single), True, ""
        merged = sorted(self._by_node(single), key=_weight)
        note = f"{len(single):,} edges, drawn as {len(merged):,} lines from node to node"
        if len(merged) > limit:
            note += f", of which the {limit} strongest are shown"
        return tuple(merged[:limit]), False, f"{note}."

    def _single(self) -> Iterator[Line]:
        graph = self.circuit.graph
        edges = set(self.circuit.indices) | (self.published or frozenset())
        for i in sorted(edges):
            edge = graph.edges[i]
            if not edge.direct:
                kept = self.circuit.present[i]
                wire = Wire(str(edge.sender), str(edge.receiver), abs(self.effect(i) or 0.0) if kept else 0.0, kept)
                yield Line(wire, edge.receiver.letter, self.mark(i), (i,))

    def _by_node(self, lines: Iterable[Line]) -> Iterator[Line]:
        """One line for all edges between two nodes that stand alike to the published circuit."""
        pairs: dict[tuple[str, str, str], list[Line]] = {}
        for line in lines:
            receiver = self.circuit.graph.edges[line.edges[0]].receiver
            pairs.setdefault((line.wire.sender, self._node(receiver), line.mark), []).append(line)
        for (sender, node, mark), alike in pairs.items():
            *_, weight = accumulate(line.wire.weight for line in alike)  # the same on any Python, as sum's is not
            wire = Wire(sender, node, weight, mark != MISSED)
            yield Line(wire, "", mark, tuple(edge for line in alike for edge in line.edges))

    def _node(self, receiver: Receiver) -> str:
        """The node that an edge enters; of a key or value input of several heads, the bar that they share."""
        shape = self.circuit.graph.shape
        if receiver.letter in ("k", "v") and shape.kv_heads < shape.heads:
            return group_name(receiver.layer, receiver.head)
        return str(receiver).split("<")[0]


def _weight(line: Line) -> float:
    return -line.wire.weight
