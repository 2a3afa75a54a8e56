"""Random circuits: sizes, connection, reach."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.faithfulness.nulls import Paths

GRAPHS = [
    build_graph(ModelShape(2, 3, 3, mlp=True)),
    build_graph(ModelShape(3, 4, 2, mlp=True)),
    build_graph(ModelShape(2, 1, 1, mlp=True, split_embed=True)),
    build_graph(ModelShape(2, 2, 2, mlp=False), direct_edges=False),
]
EVERY = pytest.mark.parametrize("graph", GRAPHS)


def circuit(graph: Graph, mask: np.ndarray) -> Circuit:
    return Circuit(graph, tuple(mask.tolist()))


@EVERY
def test_a_path_is_connected_from_end_to_end(graph: Graph) -> None:
    paths, rng = Paths(graph), Random(0)
    for _ in range(200):
        edges = paths.path(rng)
        whole = Circuit.from_indices(graph, edges)
        assert len(whole) == len(edges)
        assert whole.cleaned() == whole  # every edge lies on a way from an embedding to the logits
        assert str(graph.edges[edges[-1]]).endswith("->logits")


@EVERY
def test_paths_reach_every_edge(graph: Graph) -> None:
    paths, rng = Paths(graph), Random(1)
    assert {edge for _ in range(6000) for edge in paths.path(rng)} == set(range(len(graph.edges)))


@EVERY
def test_circuits_have_exactly_the_size_asked_for(graph: Graph) -> None:
    paths = Paths(graph)
    for size in range(0, len(graph.edges) + 1, 3):
        assert paths.circuit(size, Random(size)).sum() == size
    assert all(circuit(graph, paths.circuit(1, Random(seed))).edges[0].endswith("->logits") for seed in range(9))
    small = paths.circuit(9, Random(0))
    assert (small == paths.circuit(9, Random(0))).all()
    assert (small != paths.circuit(9, Random(1))).any()


@EVERY
def test_inflated_circuits(graph: Graph) -> None:
    paths = Paths(graph)
    base = paths.circuit(8, Random(5))
    for seed in range(50):
        larger, without = paths.inflated(base, Random(seed))
        assert (base <= without).all()
        assert (without <= larger).all()
        assert larger.sum() - without.sum() == 1
    almost = np.ones(len(graph.edges), dtype=bool)
    almost[3] = False
    larger, without = paths.inflated(almost, Random(0))
    assert larger.all()
    assert (without == almost).all()
