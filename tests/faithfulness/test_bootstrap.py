"""Intervals cover what they should, and say nothing where there is nothing to say."""

from __future__ import annotations

from typing import Any

import numpy as np

from pahq.faithfulness.bootstrap import interval


def mean(x: Any, axis: int = -1) -> Any:
    return x.mean(axis)


def ratio(top: Any, bottom: Any, axis: int = -1) -> Any:
    return top.sum(axis) / bottom.sum(axis)


def made(columns: list[np.ndarray], statistic: Any, seed: int = 0, confidence: float = 0.95) -> Any:
    return interval(columns, statistic, confidence=confidence, resamples=400, rng=np.random.default_rng(seed))


def coverage(confidence: float) -> float:
    data = np.random.default_rng(7).normal(3.0, 2.0, (200, 24))
    bounds = [made([row], mean, seed, confidence) for seed, row in enumerate(data)]
    return float(np.mean([low <= 3.0 <= high for low, high in bounds]))


def test_coverage_is_about_what_it_says() -> None:
    assert 0.88 <= coverage(0.95) <= 0.99
    assert 0.40 <= coverage(0.5) <= 0.60


def test_columns_are_resampled_together() -> None:
    """Numerator and denominator of one prompt belong together: their ratio is 2 on every resample."""
    bottom = np.random.default_rng(0).uniform(1, 100, 20)
    low, high = made([2 * bottom, bottom], ratio)
    assert abs(low - 2) < 1e-12
    assert abs(high - 2) < 1e-12


def test_the_seed_decides() -> None:
    data = np.random.default_rng(1).normal(size=12)
    assert made([data], mean, 3) == made([data], mean, 3) != made([data], mean, 4)


def test_edges() -> None:
    assert made([np.array([1.0])], mean) is None
    assert made([np.full(5, 1.5)], mean) == (1.5, 1.5)
    assert made([np.ones(3), np.zeros(3)], ratio) is None  # 1/0 on every resample
