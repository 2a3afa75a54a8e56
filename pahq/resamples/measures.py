"""Circuits of repeated searches beside the first one: sets of edges, no tensors, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from pahq.circuits.agreement import Agreement
from pahq.circuits.circuit import Circuit


@dataclass(frozen=True)
class Spread:
    """How numbers are spread; quantiles are interpolated linearly."""

    mean: float
    min: float
    q25: float
    median: float
    q75: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None for no numbers at all."""
        numbers = np.array(list(values), dtype=float)
        if not len(numbers):
            return None
        return cls(float(numbers.mean()), *(float(value) for value in np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1))))


@dataclass(frozen=True)
class Repeats:
    """What one kind of change did to a circuit: ``circuits`` by the name of the search, of ``original``'s graph."""

    original: Circuit
    circuits: Mapping[str, Circuit]

    def __len__(self) -> int:
        return len(self.circuits)

    @cached_property
    def _edges(self) -> dict[str, frozenset[int]]:
        return {name: frozenset(circuit.indices) for name, circuit in self.circuits.items()}

    @cached_property
    def _against(self) -> dict[str, Agreement]:
        own, universe = frozenset(self.original.indices), len(self.original.present)
        return {name: Agreement.of(edges, own, universe) for name, edges in self._edges.items()}

    @property
    def jaccard(self) -> dict[str, float]:
        """By search: the Jaccard index to the original circuit (shared edges over edges of either)."""
        return {name: agreement.jaccard for name, agreement in self._against.items()}

    @property
    def to_original(self) -> Spread | None:
        """Of the Jaccard indices to the original circuit."""
        return Spread.of(self.jaccard.values())

    @property
    def by_chance(self) -> float | None:
        """Mean Jaccard index that random circuits of these sizes would have to one of the original's size."""
        found = Spread.of(agreement.jaccard_by_chance for agreement in self._against.values())
        return found.mean if found else None

    @cached_property
    def pairwise(self) -> Spread | None:
        """Of the Jaccard indices of all pairs of them; None for fewer than two."""
        universe = len(self.original.present)
        pairs = combinations(self._edges.values(), 2)
        return Spread.of(Agreement.of(one, other, universe).jaccard for one, other in pairs)

    @property
    def kept(self) -> Spread | None:
        """Of the numbers of kept edges."""
        return Spread.of(len(edges) for edges in self._edges.values())

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """By edge of the graph: in how many of them it was kept."""
        counted = Counter(edge for edges in self._edges.values() for edge in edges)
        return tuple(counted[edge] for edge in range(len(self.original.present)))

    @property
    def inclusion(self) -> dict[str, float]:
        """By name of every edge of the graph: the share of searches that kept it, nan without any."""
        count = len(self)
        shares = [kept / count if count else float("nan") for kept in self.counts]
        return {str(edge): share for edge, share in zip(self.original.graph.edges, shares, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Numbers alone; ``always`` and ``ever`` count edges kept in all searches and in any."""
        spreads = {"kept": self.kept, "pairwise": self.pairwise, "to_original": self.to_original}
        return {
            "circuits": len(self),
            **{name: asdict(spread) if spread else None for name, spread in spreads.items()},
            "by_chance": self.by_chance,
            "always": sum(count == len(self) for count in self.counts) if len(self) else None,
            "ever": sum(count > 0 for count in self.counts) if len(self) else None,
            "each": {
                name: {"kept": len(self._edges[name]), "jaccard": jaccard} for name, jaccard in self.jaccard.items()
            },
        }


@dataclass(frozen=True)
class Stability:
    """A circuit and what became of it: on resampled prompts, in other orders of the search, on other prompts."""

    original: Circuit
    resamples: Repeats
    orders: Repeats
    seeds: Repeats

    @property
    def inclusion(self) -> dict[str, float]:
        """By name of every edge of the graph: the share of resamples that kept it."""
        return self.resamples.inclusion

    @classmethod
    def of(cls, original: Circuit, kept: Mapping[str, Mapping[str, Iterable[str]]]) -> Stability:
        """From names of kept edges, by kind (resamples, orders, seeds) and name of the search.

        Raises PahqError for an edge that the graph lacks.
        """

        def repeats(kind: str) -> Repeats:
            named = kept.get(kind, {}).items()
            return Repeats(original, {name: Circuit.from_names(original.graph, edges) for name, edges in named})

        return cls(original, repeats("resamples"), repeats("orders"), repeats("seeds"))
