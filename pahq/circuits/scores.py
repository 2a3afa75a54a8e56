"""Scores: one number for every edge of a graph, and the circuits that follow from them.

Every method that is no greedy search yields scores; how a circuit is made of them is said here and nowhere else.
Searches at several thresholds yield them too (``of_sweep``). A score is positive where removing the edge raises the
loss. Edges are chosen by |score| unless ``signed`` is asked for:

- ``top``: the edges with the highest scores.
- ``threshold``: every edge whose score is at least so high.
- ``greedy``: from the logits up, always the highest edge into a node that the circuit has already (``apply_greedy`` of
  EAP-IG's code, Hanna et al. 2024, arXiv 2403.17806). So every edge has a path to the logits.

Edges that are connected to nothing are then dropped (``Circuit.cleaned``), unless ``clean=False``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, Receiver
from pahq.errors import PahqError


@dataclass(frozen=True)
class ScoreAudit:
    """What an audit of scores did (``pahq.scores.audit``).

    It scored ``rescored`` of the edges (a ``share``) again, ``sample`` of them drawn; ``band`` is the last one.
    ``largest_error``: of a score measured in both precisions, relative to |score| + cut. ``changed``: edges that the
    audited top n has and that of the rounded network has not. ``beyond``: with 95% confidence at most this share of all
    edges err by more than the largest of the sample.
    """

    rescored: int
    share: float
    sample: int
    band: float
    largest_error: float
    changed: int
    beyond: float


@dataclass(frozen=True)
class Scores:
    """``values[i]`` is the score of ``graph.edges[i]``; a graph without Direct edges has no scores of them.

    What made them: ``method``, ``metric``, ``steps`` (None where a method has none), ``convention`` (mean | eap-ig) and
    ``ablation``, which also decides what cleaning a circuit may drop.
    """

    graph: Graph
    values: tuple[float, ...]
    method: str
    metric: str
    steps: int | None = None
    convention: str = "mean"
    ablation: str = "corrupted"
    audit: ScoreAudit | None = None

    def __post_init__(self) -> None:
        if len(self.values) != len(self.graph.edges):
            raise PahqError(f"{len(self.values)} scores for a graph of {len(self.graph.edges)} edges")
        for edge, value in zip(self.graph.edges, self.values, strict=True):
            if not math.isfinite(value):
                raise PahqError(f"the score of {edge} is {value}, which is no finite number")

    @classmethod
    def of_sweep(
        cls,
        circuits: Mapping[float, Circuit],
        *,
        method: str = "acdc",
        metric: str = "kl",
        ablation: str = "corrupted",
    ) -> Scores:
        """What a search says of every edge: the highest threshold at which it is kept, 0 if it never is.

        ``circuits``: by threshold, of one graph, searched with that ``ablation``. PahqError for none, and for circuits
        of different graphs.
        """
        graphs = {circuit.graph for circuit in circuits.values()}
        if len(graphs) != 1:
            raise PahqError(f"circuits of one graph were expected, by threshold (got {len(graphs)} graphs)")
        (graph,) = graphs
        values = [0.0] * len(graph.edges)
        for threshold in sorted(circuits):
            for edge in circuits[threshold].indices:
                values[edge] = float(threshold)
        return cls(graph, tuple(values), method=method, metric=metric, ablation=ablation)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        highest = ", ".join(f"{self.graph.edges[edge]} {self.values[edge]:.3g}" for edge in self.ranked()[:4])
        return f"Scores of {len(self):,} edges by {self.method} ({self.metric})\nhighest: {highest}, ..."

    def __getitem__(self, edge: str) -> float:
        """The score of an edge by its name, as ``a3.h2->a5.h1<q>``; PahqError if the graph has none of that name."""
        return self.values[self.graph.index_of(edge)]

    @property
    def by_name(self) -> dict[str, float]:
        return {str(edge): value for edge, value in zip(self.graph.edges, self.values, strict=True)}

    @property
    def largest(self) -> float:
        """The largest |score|: the scale of all of them."""
        return max(map(abs, self.values), default=0.0)

    def ranked(self, *, signed: bool = False) -> tuple[int, ...]:
        """Indices of all edges from the highest score to the lowest; equal ones stay in the graph's order."""
        rank = _rank(signed)
        return tuple(sorted(range(len(self.values)), key=lambda edge: -rank(self.values[edge])))

    def top(self, size: int | float, *, signed: bool = False, clean: bool = True) -> Circuit:
        """The ``size`` highest edges (a whole number), or that share of all edges (a fraction up to 1.0)."""
        return self._circuit(self.ranked(signed=signed)[: self.count(size)], clean)

    def threshold(self, threshold: float, *, signed: bool = False, clean: bool = True) -> Circuit:
        """Every edge whose score is at least ``threshold``."""
        rank = _rank(signed)
        return self._circuit([edge for edge, value in enumerate(self.values) if rank(value) >= threshold], clean)

    def greedy(self, size: int | float, *, signed: bool = False, clean: bool = True) -> Circuit:
        """Grown from the logits edge by edge until it has ``size`` edges (or that share), or no more can be reached.

        A Direct edge stands between a head and what its input receives, so it has to be taken before those edges can.
        """
        grown = _Growth(self, _rank(signed))
        return self._circuit([edge for edge, _ in zip(grown.edges(), range(self.count(size)), strict=False)], clean)

    def count(self, size: int | float) -> int:
        """How many edges a size means; PahqError for a negative one, too large a one, and a share above 1."""
        return counted(size, len(self.values))

    def _circuit(self, edges: tuple[int, ...] | list[int], clean: bool) -> Circuit:
        circuit = Circuit.from_indices(self.graph, edges)
        return circuit.cleaned(ablation=self.ablation) if clean else circuit


def counted(size: int | float, total: int) -> int:
    """How many of ``total`` edges a size means; PahqError for a negative one, too large a one, and a share above 1."""
    share = isinstance(size, float)
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size <= (1 if share else total):
        raise PahqError(f"size: a number of edges from 0 to {total} or a share from 0.0 to 1.0 (got {size!r})")
    return round(size * total) if share else int(size)


def _rank(signed: bool) -> Callable[[float], float]:
    return (lambda value: value) if signed else abs


class _Growth:
    """Edges in the order in which a circuit grows from the logits."""

    def __init__(self, scores: Scores, rank: Callable[[float], float]) -> None:
        self._scores, self._rank, self._graph = scores, rank, scores.graph
        self._open: list[tuple[float, int]] = []  # edges that could come next, the highest first
        self._reached: set[Receiver | int] = set()  # receivers and senders that have a path to the logits

    def edges(self) -> Iterator[int]:
        graph = self._graph
        self._receive(Receiver("logits"))
        while self._open:
            edge = heapq.heappop(self._open)[1]
            yield edge
            sender, receiver = graph.edges[edge].sender, graph.edges[edge].receiver
            if sender is None:
                self._offer(graph.incoming(receiver))
            elif (index := graph.sender_index[sender]) not in self._reached:
                self._reached.add(index)
                for above in graph.inputs(index):
                    self._receive(above)

    def _receive(self, receiver: Receiver) -> None:
        """What enters a receiver may be taken now; where it has a Direct edge, that one first."""
        if receiver in self._reached:
            return
        self._reached.add(receiver)
        direct = self._graph.direct(receiver) if receiver.kind == "head" else None
        self._offer(self._graph.incoming(receiver) if direct is None else range(direct, direct + 1))

    def _offer(self, edges: range) -> None:
        for edge in edges:
            heapq.heappush(self._open, (-self._rank(self._scores.values[edge]), edge))
