"""Packed edges against sets of names: the same counts, and the same circuit again."""

from __future__ import annotations

import random

import pytest

from pahq.circuits.agreement import Agreement, point
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.packed import Packed, PackedCircuits
from pahq.errors import PahqError

GRAPH = build_graph(ModelShape(2, 2, 2, mlp=True))
COUNT = len(GRAPH.edges)


@pytest.mark.parametrize("chosen", [[], [0], [COUNT - 1], [0, 3, COUNT - 1], range(COUNT)])
def test_the_circuit_comes_back(chosen: list[int]) -> None:
    circuit = Circuit.from_indices(GRAPH, chosen)
    packed = Packed.of(circuit)
    assert packed.circuit == circuit
    assert len(packed) == len(circuit)
    assert Packed.of_names(GRAPH, circuit.edges) == packed


def test_counts_are_those_of_sets_of_names() -> None:
    draw = random.Random(0)
    for _ in range(50):
        one, other = (Circuit.from_indices(GRAPH, draw.sample(range(COUNT), draw.randint(1, COUNT - 1))) for _ in "ab")
        names, packed = [frozenset(c.edges) for c in (one, other)], [Packed.of(c) for c in (one, other)]
        assert (packed[0] & packed[1]).circuit.edges == tuple(name for name in one.edges if name in names[1])
        assert (packed[0] - packed[1]).circuit.edges == tuple(name for name in one.edges if name not in names[1])
        assert point(packed[0], packed[1], COUNT) == point(names[0], names[1], COUNT)
        assert Agreement.of(packed[0], packed[1], COUNT) == Agreement.of(names[0], names[1], COUNT)


def test_an_edge_that_the_graph_lacks_is_refused() -> None:
    with pytest.raises(PahqError, match=r"has no edge 'a9\.h0->logits'"):
        Packed.of_names(GRAPH, ["a9.h0->logits"])


def test_circuits_by_name() -> None:
    one, other = Circuit.from_indices(GRAPH, [1]), Circuit.from_indices(GRAPH, [2, 3])
    held = PackedCircuits({"one": one})
    held.add("other", other)
    assert dict(held) == {"one": one, "other": other}
    assert held.packed("other") == Packed.of(other)
    assert len(held) == 2
