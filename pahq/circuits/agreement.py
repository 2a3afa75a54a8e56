"""ROC curves of circuits, as ACDC draws them (Conmy et al. 2023, arXiv 2304.14997, and its released code).

A point is one circuit against a reference circuit: false positive rate and true positive rate over the
universe of Addition and Direct edges. The end points (0, 0) and (1, 1) always belong to a curve. A point is
dropped if another has both a strictly lower false positive rate and a strictly higher true positive rate.

Two areas, always named: ``auc_steps`` is ACDC's (pessimistic steps), ``auc_trapezoid`` joins the same
points by straight lines. They differ a lot where a sweep has few points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pahq.errors import PahqError


class Edges(Protocol):
    """Edges of a circuit: a set of names or indices, or a ``Packed``."""

    def __len__(self) -> int: ...
    def __and__(self, other: Any, /) -> Sized: ...
    def __sub__(self, other: Any, /) -> Sized: ...


FEW_POINTS = 3  # an area from fewer distinct interior points says little


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """False and true positive rate, each in [0, 1]."""

    fpr: float
    tpr: float


ENDS = (Point(0.0, 0.0), Point(1.0, 1.0))


def point(edges: Edges, reference: Edges, universe: int) -> Point:
    """The point of a circuit; ``universe`` counts all edges of the graph.

    Raises PahqError if the reference is empty or the whole graph, since one of the rates is undefined then.
    """
    if not 0 < len(reference) < universe:
        raise PahqError(f"a reference circuit of {len(reference)} of {universe} edges leaves a rate undefined")
    return Point(len(edges - reference) / (universe - len(reference)), len(edges & reference) / len(reference))


@dataclass(frozen=True)
class Curve:
    """The points of one sweep, in any order, ties included."""

    points: tuple[Point, ...]

    @cached_property
    def front(self) -> tuple[Point, ...]:
        """The distinct points left after dominance dropping, end points included, in ascending order."""
        distinct = sorted({*self.points, *ENDS})
        return tuple(p for p in distinct if not any(q.fpr < p.fpr and q.tpr > p.tpr for q in distinct))

    @property
    def interior(self) -> int:
        """How many distinct points of the sweep the curve rests on: its front without the two end points."""
        return len(set(self.front) - set(ENDS))

    @property
    def few_points(self) -> bool:
        return self.interior < FEW_POINTS

    @property
    def auc_steps(self) -> float:
        """ACDC's area: sum of (1 - x_i)(y_i - y_{i-1}), each rise counted from where it is reached."""
        return sum((1 - b.fpr) * (b.tpr - a.tpr) for a, b in self._segments)

    @property
    def auc_trapezoid(self) -> float:
        """Area below the straight lines between the same points."""
        return sum((b.fpr - a.fpr) * (a.tpr + b.tpr) / 2 for a, b in self._segments)

    @property
    def _segments(self) -> Iterable[tuple[Point, Point]]:
        return zip(self.front, self.front[1:], strict=False)


@dataclass(frozen=True)
class Agreement:
    """Two circuits of one graph, edge by edge. For tasks without a published circuit: ours against ACDC's."""

    shared: int
    only_here: int
    only_reference: int
    universe: int

    @classmethod
    def of(cls, edges: Edges, reference: Edges, universe: int) -> Agreement:
        return cls(len(edges & reference), len(edges - reference), len(reference - edges), universe)

    @property
    def differing(self) -> int:
        """How many edges are in one circuit and not in the other."""
        return self.only_here + self.only_reference

    @property
    def jaccard(self) -> float:
        """Shared edges over all edges of either; 1 for two empty circuits."""
        either = self.shared + self.differing
        return self.shared / either if either else 1.0

    @property
    def jaccard_by_chance(self) -> float:
        """What two random circuits of the same two sizes would share on average, over all edges of either.

        Dense circuits on small graphs agree by chance alone; a Jaccard index means something above this
        value only.
        """
        here, there = self.shared + self.only_here, self.shared + self.only_reference
        if not here + there:
            return 1.0
        expected = here * there / self.universe
        return expected / (here + there - expected)
