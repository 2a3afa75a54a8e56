"""Tests decided within float noise of the threshold, measured again in float64.

A search in float32 is only as certain as its margins: a test whose effect lies nearer to the threshold than the float
noise could fall either way on another machine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pahq.engine.base import Engine, Trial
from pahq.search.acdc import Decision, is_removed, margin

SAFETY = 10.0  # a test counts as at risk within this many times the noise seen
FLOOR = 2.0**-23  # noise relative to the loss that float32 has at the very least


@dataclass(frozen=True)
class Audit:
    """Tests measured again, those whose decision falls the other way, and the largest difference of an effect."""

    tests: tuple[int, ...]
    flipped: tuple[int, ...]
    worst: float


def noise_of(engine_loss: float, fresh_loss: float) -> float:
    """Float noise of a loss: what the engine's final loss differs by from a fresh forward of the same circuit."""
    return max(abs(engine_loss - fresh_loss), FLOOR * abs(fresh_loss), 1e-12)


def at_risk(
    decisions: Sequence[Decision], threshold: float, noise: float, *, absolute: bool = False
) -> tuple[int, ...]:
    """Indices of the tests that float noise could decide either way."""
    near = SAFETY * noise
    return tuple(d.index for d in decisions if not margin(d.effect, threshold, absolute=absolute) > near)


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
