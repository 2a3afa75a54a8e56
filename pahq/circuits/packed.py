"""Edges of one graph as one number: a bit an edge, so that thousands of circuits fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph


@dataclass(frozen=True, slots=True)
class Packed:
    """A set of edges: bit ``i`` of ``bits`` says whether ``graph.edges[i]`` belongs to it."""

    graph: Graph
    bits: int

    @classmethod
    def of(cls, circuit: Circuit) -> Packed:
        return cls(circuit.graph, int("".join("01"[present] for present in reversed(circuit.present)), 2))

    @classmethod
    def of_names(cls, graph: Graph, names: Iterable[str]) -> Packed:
        """The edges named; PahqError for a name that the graph lacks."""
        return cls.of(Circuit.from_names(graph, names))

    @property
    def circuit(self) -> Circuit:
        bits = f"{self.bits:0{len(self.graph.edges)}b}"
        return Circuit(self.graph, tuple(bit == "1" for bit in reversed(bits)))

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __and__(self, other: Packed) -> Packed:
        """The edges of both; they are of one graph."""
        return Packed(self.graph, self.bits & other.bits)

    def __sub__(self, other: Packed) -> Packed:
        """The edges that the other one, of the same graph, has not."""
        return Packed(self.graph, self.bits & ~other.bits)


class PackedCircuits(Mapping[str, Circuit]):
    """Circuits by name, each held packed and made anew for whoever asks for it."""

    def __init__(self, circuits: Mapping[str, Circuit] | None = None) -> None:
        self._packed: dict[str, Packed] = {}
        for name, circuit in (circuits or {}).items():
            self.add(name, circuit)

    def add(self, name: str, circuit: Circuit) -> None:
        self._packed[name] = Packed.of(circuit)

    def packed(self, name: str) -> Packed:
        return self._packed[name]

    def __getitem__(self, name: str) -> Circuit:
        return self._packed[name].circuit

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)
