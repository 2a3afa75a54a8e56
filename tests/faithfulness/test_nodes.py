"""Completeness and minimality on a metric that adds up, so that every answer is known."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.faithfulness.nodes import Nodes, completeness, incompleteness, minimality

GRAPH = build_graph(ModelShape(2, 2, 2, mlp=True))
WORTH = np.random.default_rng(0).normal(size=len(GRAPH.edges))
NAMES = ("embed->a0.h0<v>", "a0.h0<v>", "a0.h0->m1", "a0.h0->logits", "embed->m0", "m0->logits", "m1->logits")
MASK = np.array(Circuit.from_names(GRAPH, NAMES).present)
NODES = Nodes(GRAPH, MASK)


def metric(circuits: np.ndarray) -> np.ndarray:
    return np.asarray(circuits @ WORTH)


def leaving(mask: np.ndarray, senders: list[int]) -> float:
    """Worth of the present edges that leave the senders, summed one by one."""
    names = {str(GRAPH.senders[i]) for i in senders}
    return sum(WORTH[i] for i, edge in enumerate(GRAPH.edges) if mask[i] and str(edge.sender) in names)


def test_nodes_are_the_heads_and_mlps_that_send() -> None:
    assert NODES.names(NODES.senders) == ("a0.h0", "m0", "m1")


def test_knocking_out_takes_what_leaves() -> None:
    gone = MASK & ~NODES.knock_out(MASK, NODES.senders[:1])
    assert {str(GRAPH.edges[i]) for i in np.flatnonzero(gone)} == {"a0.h0->m1", "a0.h0->logits"}


def test_incompleteness_by_hand() -> None:
    everything = np.ones_like(MASK)
    sets = [list(chosen) for size in range(4) for chosen in combinations(NODES.senders, size)]
    expected = [
        abs((WORTH[MASK].sum() - leaving(MASK, chosen)) - (WORTH.sum() - leaving(everything, chosen)))
        for chosen in sets
    ]
    assert incompleteness(NODES, metric, sets) == pytest.approx(expected)
    found = completeness(NODES, metric, subsets=5, rounds=3, candidates=9, rng=Random(0))
    assert len(found.random) == 5
    assert found.greedy <= max(expected) + 1e-12
    assert found.greedy >= max(expected[:4]) - 1e-12  # with all candidates the first round finds the worst node
    best = [i for i in NODES.senders if str(GRAPH.senders[i]) in found.greedy_set]
    assert found.greedy == pytest.approx(expected[sets.index(best)])


def test_the_whole_graph_is_complete() -> None:
    whole = Nodes(GRAPH, np.ones_like(MASK))
    found = completeness(whole, metric, subsets=4, rounds=2, candidates=3, rng=Random(0))
    assert max([*found.random, found.greedy]) == 0


def test_minimality_by_hand() -> None:
    scores = minimality(NODES, metric, subsets=3, rng=Random(0))
    assert list(scores) == ["a0.h0", "m0", "m1"]
    for node in NODES.senders:
        assert scores[str(GRAPH.senders[node])] == pytest.approx(abs(leaving(MASK, [node])))


def test_minimality_sees_what_only_a_subset_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes that stand in for each other: each alone changes nothing, each without the other everything."""
    names = ("embed->m0", "m0->logits", "embed->m1", "m1->logits")
    mask = np.array(Circuit.from_names(GRAPH, names).present)
    pair = [GRAPH.index_of("m0->logits"), GRAPH.index_of("m1->logits")]

    def either(circuits: np.ndarray) -> np.ndarray:
        return np.asarray(circuits[:, pair].any(1), dtype=float)

    nodes = Nodes(GRAPH, mask)
    assert set(minimality(nodes, either, subsets=0, rng=Random(0)).values()) == {0.0}
    assert set(minimality(nodes, either, subsets=20, rng=Random(0)).values()) == {1.0}
    monkeypatch.setattr(nodes, "subsets", lambda *_: [nodes.senders])  # K holds the node itself: it counts without it
    assert set(minimality(nodes, either, subsets=1, rng=Random(0)).values()) == {1.0}


def test_a_circuit_without_nodes() -> None:
    nodes = Nodes(GRAPH, np.zeros_like(MASK))
    assert minimality(nodes, metric, subsets=2, rng=Random(0)) == {}
    assert completeness(nodes, metric, subsets=0, rounds=2, candidates=2, rng=Random(0)).greedy_set == ()
