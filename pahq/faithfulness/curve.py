"""Faithfulness over circuit sizes: CPR and CMD of MIB (Mueller et al. 2025, arXiv 2504.13151), section 3.

CPR is the area under faithfulness over the fraction of edges, CMD the area between that curve and 1, both by the
trapezoid over MIB's grid of sizes, without the stretch below its smallest. CPR has no upper bound and large circuits
dominate it; so CMD leads here, and beside it stands the same distance over .1% to 5% of edges alone.

A ranking of edges is needed. A search by ACDC's rule has one: every edge's effect when it was tested. Edges that fell
with their node, untested, come last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SMALL = 0.05  # end of the stretch on which circuits are of a size that one would call a circuit


@dataclass(frozen=True)
class Curve:
    """Faithfulness at every fraction; no number at all where full and empty circuit are worth the same."""

    faithfulness: tuple[float, ...]
    fractions: tuple[float, ...] = FRACTIONS

    @property
    def cpr(self) -> float:
        """Area under the curve."""
        return trapezoid(self.fractions, self.faithfulness)

    @property
    def cmd(self) -> float:
        """Area between the curve and 1: of the distances at the grid's sizes, as MIB has it."""
        return trapezoid(self.fractions, [abs(1 - value) for value in self.faithfulness])

    @property
    def cmd_small(self) -> float:
        """Mean distance to 1 over the fractions up to 5% (ours: CMD of that stretch by its width)."""
        count = sum(fraction <= SMALL for fraction in self.fractions)
        x, y = self.fractions[:count], [abs(1 - value) for value in self.faithfulness[:count]]
        return trapezoid(x, y) / (x[-1] - x[0])


def trapezoid(x: Sequence[float], y: Sequence[float]) -> float:
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(zip(x, y, strict=True)))


def ranking(effects: Mapping[int, float], edges: int, *, absolute: bool = False) -> list[int]:
    """All edges, best first: by effect (``absolute``: its size), a tie or no test by index; NaN, which keeps, leads."""

    def key(edge: int) -> tuple[float, int]:
        effect = effects.get(edge, -math.inf)
        if math.isnan(effect):
            effect = math.inf
        return (-abs(effect) if absolute and edge in effects else -effect, edge)

    return sorted(range(edges), key=key)


def nested(ranked: Sequence[int], fractions: Sequence[float] = FRACTIONS) -> Bool[ndarray, "fraction edge"]:
    """The circuits of the best edges at every fraction, rounded down as MIB rounds."""
    circuits = np.zeros((len(fractions), len(ranked)), dtype=bool)
    for circuit, fraction in zip(circuits, fractions, strict=True):
        circuit[list(ranked[: int(fraction * len(ranked) + 1e-9)])] = True
    return circuits
