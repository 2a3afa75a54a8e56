"""Random circuits to hold a circuit against (Shi et al. 2024, arXiv 2410.13032): unions of random paths.

A path walks from an embedding to the logits; every step is uniform over the edges that leave the node. A head is
entered by one of its inputs, whose Direct edge belongs to the path.
"""

from __future__ import annotations

from random import Random

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from pahq.circuits.graph import Graph

PATIENCE = 30  # paths in a row without a new edge, after which edges are drawn one by one


class Paths:
    """Random paths of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._sources = [i for i, node in enumerate(graph.senders) if node.kind in ("embed", "pos")]
        self._steps: list[list[tuple[list[int], range]]] = [[] for _ in graph.senders]  # edges, next senders
        for receiver in graph.receivers:
            direct = graph.direct(receiver) if receiver.kind == "head" else None
            for sender, edge in enumerate(graph.incoming(receiver)):
                edges = [edge] if direct is None else [edge, direct]
                self._steps[sender].append((edges, graph.outputs(receiver)))

    def path(self, rng: Random) -> list[int]:
        """Edges from an embedding to the logits, in order."""
        sender, edges = rng.choice(self._sources), []
        while True:
            step, following = rng.choice(self._steps[sender])
            edges += step
            if not following:
                return edges
            sender = rng.choice(following)

    def circuit(self, size: int, rng: Random) -> Bool[ndarray, " edge"]:
        """A union of paths of exactly ``size`` edges; of the last path only the end that is left to take."""
        circuit, left, fruitless = np.zeros(len(self.graph.edges), dtype=bool), size, 0
        while left and fruitless < PATIENCE:
            new = [edge for edge in self.path(rng) if not circuit[edge]][-left:]
            circuit[new] = True
            left -= len(new)
            fruitless = 0 if new else fruitless + 1
        if left:
            circuit[rng.sample(np.flatnonzero(~circuit).tolist(), left)] = True
        return circuit

    def inflated(
        self, circuit: Bool[ndarray, " edge"], rng: Random
    ) -> tuple[Bool[ndarray, " edge"], Bool[ndarray, " edge"]]:
        """The circuit with a random path that adds an edge at least, and the same without one of the edges added.

        The circuit must lack an edge. Where paths no longer find one, a single missing edge is added.
        """
        for _ in range(PATIENCE):
            new = [edge for edge in self.path(rng) if not circuit[edge]]
            if new:
                break
        else:
            new = [rng.choice(np.flatnonzero(~circuit).tolist())]
        larger = circuit.copy()
        larger[new] = True
        without = larger.copy()
        without[rng.choice(new)] = False
        return larger, without
