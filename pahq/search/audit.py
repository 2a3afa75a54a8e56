"""Tests of a finished search measured again by another engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pahq.engine.base import Engine, Trial
from pahq.search.acdc import Decision, is_removed


@dataclass(frozen=True)
class Audit:
    """Tests measured again, those whose decision falls the other way, and the largest difference of an effect."""

    tests: tuple[int, ...]
    flipped: tuple[int, ...]
    worst: float


def audit(
    engine: Engine,
    decisions: Sequence[Decision],
    chosen: Collection[int],
    threshold: float,
    *,
    absolute: bool = False,
) -> Audit:
    """Measure the chosen tests again, each in the state that the search was in, by a float64 ``engine``.

    The decisions before a test are taken as they fell: the audit asks of each test alone whether it would flip.
    """
    flipped, worst, wanted = [], 0.0, set(chosen)
    for decision in decisions:
        if decision.index in wanted:
            before, after = engine.measure([Trial(decision.edge, ()), Trial(decision.edge, (decision.edge,))])
            worst = max(worst, abs((after - before) - decision.effect))
            if is_removed(after - before, threshold, absolute=absolute) != decision.removed:
                flipped.append(decision.index)
        if decision.removed:
            engine.remove([decision.edge])
    return Audit(tuple(sorted(wanted)), tuple(flipped), worst)
