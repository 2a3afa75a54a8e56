"""Confidence intervals by bootstrap over prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

Interval = tuple[float, float]


def interval(
    columns: Sequence[Float[ndarray, " example"]],
    statistic: Callable[..., Float[ndarray, "..."]],
    *,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> Interval | None:
    """Interval of ``statistic(*columns, axis)`` over resampled examples, all columns resampled together.

    Bias-corrected and accelerated (Efron 1987). A statistic that no resampling changes has the interval of that one
    value. None for fewer than two examples and where the statistic is not finite on some resample.
    """
    if len(columns[0]) < 2:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            tuple(columns),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            confidence_level=confidence,
            method="BCa",
            rng=rng,
        )
    spread = np.asarray(found.bootstrap_distribution)
    if not np.isfinite(spread).all():
        return None
    low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
    if np.isfinite([low, high]).all():
        return low, high
    if np.ptp(spread) == 0:
        return float(spread[0]), float(spread[0])
    low, high = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2])  # no acceleration to be had
    return float(low), float(high)
