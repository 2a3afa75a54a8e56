"""Completeness and minimality of Wang et al. 2022 (arXiv 2211.00593), section 4 and appendix, on nodes.

Nodes are heads and MLPs. Knocking out a set K takes away every edge that leaves one of its nodes, in the circuit C or
in the whole model M; F is the task's own metric over all fresh prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from pahq.circuits.graph import Graph

Circuits = Bool[ndarray, "circuit edge"]
Metric = Callable[[Circuits], Float[ndarray, " circuit"]]


@dataclass(frozen=True)
class Completeness:
    """Incompleteness |F(C without K) - F(M without K)| over random sets, and the largest that a greedy K reached."""

    random: tuple[float, ...]
    greedy: float
    greedy_set: tuple[str, ...]


class Nodes:
    """The heads and MLPs of a circuit that send along one of its edges."""

    def __init__(self, graph: Graph, circuit: Bool[ndarray, " edge"]) -> None:
        self.graph, self.circuit = graph, circuit
        index = graph.sender_index
        self._sender = np.array([-1 if edge.sender is None else index[edge.sender] for edge in graph.edges])
        senders = sorted(set(self._sender[circuit].tolist()) - {-1})
        self.senders = [i for i in senders if graph.senders[i].kind in ("head", "mlp")]

    def names(self, senders: Sequence[int]) -> tuple[str, ...]:
        return tuple(str(self.graph.senders[i]) for i in senders)

    def knock_out(self, edges: Bool[ndarray, " edge"], senders: Sequence[int]) -> Bool[ndarray, " edge"]:
        """``edges`` less those that leave one of ``senders``."""
        return np.asarray(edges & ~np.isin(self._sender, list(senders)))

    def subsets(self, count: int, rng: Random) -> list[list[int]]:
        """Random sets of nodes: each node is in with probability 1/2."""
        return [[i for i in self.senders if rng.random() < 0.5] for _ in range(count)]


def incompleteness(nodes: Nodes, metric: Metric, sets: Sequence[Sequence[int]]) -> list[float]:
    """|F(C without K) - F(M without K)| of every set."""
    if not sets:
        return []
    everything = np.ones_like(nodes.circuit)
    circuit = metric(np.stack([nodes.knock_out(nodes.circuit, chosen) for chosen in sets]))
    model = metric(np.stack([nodes.knock_out(everything, chosen) for chosen in sets]))
    return [float(value) for value in np.abs(circuit - model)]


def completeness(
    nodes: Nodes, metric: Metric, *, subsets: int, rounds: int, candidates: int, rng: Random
) -> Completeness:
    """Random sets, and the greedy search: in every round the worst of some random nodes joins the set."""
    random = incompleteness(nodes, metric, nodes.subsets(subsets, rng))
    chosen: list[int] = []
    [best] = incompleteness(nodes, metric, [chosen])
    worst_set = tuple(chosen)
    for _ in range(rounds):
        left = [i for i in nodes.senders if i not in chosen]
        if not left:
            break
        trials = [[*chosen, node] for node in rng.sample(left, min(candidates, len(left)))]
        found = incompleteness(nodes, metric, trials)
        chosen = trials[int(np.argmax(found))]
        if max(found) > best:
            best, worst_set = max(found), tuple(chosen)
    return Completeness(tuple(random), best, nodes.names(worst_set))


def minimality(nodes: Nodes, metric: Metric, *, subsets: int, rng: Random) -> dict[str, float]:
    """By node v: the largest |F(C without K) - F(C without K and v)| over sets K without v, the empty one included."""
    sets = [[], *nodes.subsets(subsets, rng)]
    scores = {}
    for node in nodes.senders:
        pairs = [([i for i in chosen if i != node], [*chosen, node]) for chosen in sets]
        masks = [nodes.knock_out(nodes.circuit, chosen) for pair in pairs for chosen in pair]
        values = metric(np.stack(masks)).reshape(-1, 2)
        scores[str(nodes.graph.senders[node])] = float(np.abs(values[:, 0] - values[:, 1]).max())
    return scores
