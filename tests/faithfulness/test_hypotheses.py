"""The tests of Shi et al. 2024 on data whose answer is known."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from pahq.faithfulness import hypotheses


def test_equivalence_by_hand() -> None:
    def p(wins: int, n: int, epsilon: float = 0.1) -> float:
        values = np.array([1.0] * wins + [-1.0] * (n - wins))
        return hypotheses.equivalence(values, np.zeros(n), epsilon=epsilon)[1]

    assert p(2, 2) == pytest.approx(0.6**2 + 0.4**2)
    assert p(0, 16) == p(16, 16) == pytest.approx(0.6**16 + 0.4**16)
    assert p(1, 3) == p(2, 3) == pytest.approx(1.0)  # every outcome of three is as far from 1/2
    assert p(4, 8) == 1.0
    # 5 of 20: at most 5 or at least 15 of 20 at chance .6, summed by hand
    tails = sum(math.comb(20, k) * 0.6**k * 0.4 ** (20 - k) for k in range(21) if abs(k - 10) >= 5)
    assert p(5, 20) == pytest.approx(tails)
    assert hypotheses.smallest_equivalence_p(16, epsilon=0.1) == pytest.approx(p(0, 16))
    assert hypotheses.smallest_equivalence_p(6, epsilon=0.1) > 0.05 > hypotheses.smallest_equivalence_p(7, epsilon=0.1)


def test_equivalence_of_a_circuit_that_is_the_model() -> None:
    full = np.linspace(-1, 1, 30)
    assert hypotheses.equivalence(full, full, epsilon=0.1) == (0.5, 1.0)
    assert hypotheses.equivalence(full + 1e-9, full, epsilon=0.1, rounding=1e-8) == (0.5, 1.0)
    assert hypotheses.equivalence(full + 1e-9, full, epsilon=0.1)[0] == 1.0


def test_equivalence_errs_as_often_as_it_may() -> None:
    rng = np.random.default_rng(0)
    fair = [hypotheses.equivalence(rng.normal(size=50), np.zeros(50), epsilon=0.1)[1] < 0.05 for _ in range(400)]
    worse = [hypotheses.equivalence(rng.normal(-0.8, 1, 50), np.zeros(50), epsilon=0.1)[1] < 0.05 for _ in range(400)]
    assert np.mean(fair) <= 0.05
    assert np.mean(worse) > 0.5


def slow_hsic(x: list[float], y: list[float]) -> float:
    """trace(K H L H) entry by entry, median widths."""

    def kernel(v: list[float]) -> list[list[float]]:
        width = float(np.median([abs(a - b) for a, b in itertools.combinations(v, 2)]))
        return [[math.exp(-((a - b) ** 2) / (2 * width**2)) for b in v] for a in v]

    n, k, m = len(x), kernel(x), kernel(y)
    h = [[(i == j) - 1 / n for j in range(n)] for i in range(n)]
    indices = range(n)
    return sum(
        k[a][b] * h[b][c] * m[c][d] * h[d][a] for a in indices for b in indices for c in indices for d in indices
    )


def test_independence_against_all_permutations() -> None:
    x, y = [0.3, -1.0, 2.0, 0.9], [0.1, 1.4, 3.0, 0.7]
    observed = slow_hsic(x, y)
    every = [slow_hsic([x[i] for i in order], y) for order in itertools.permutations(range(4))]
    expected = np.mean([value >= observed - 1e-12 for value in every])
    rng = np.random.default_rng(0)
    assert hypotheses.independence(np.array(x), np.array(y), permutations=100, rng=rng) == pytest.approx(expected)


def test_independence_finds_what_correlation_misses() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    found = hypotheses.independence(x**2, x, permutations=300, rng=rng)
    assert found is not None
    assert found < 0.01


def test_independence_errs_as_often_as_it_may() -> None:
    rng = np.random.default_rng(1)
    drawn = [rng.normal(size=(2, 16)) for _ in range(150)]
    rejected = [hypotheses.independence(x, y, permutations=99, rng=rng) <= 0.05 for x, y in drawn]  # type: ignore[operator]
    assert np.mean(rejected) < 0.11


def test_independence_holds_few_permutations_at_a_time_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    found = [hypotheses.independence(x, y, permutations=50, rng=np.random.default_rng(1)) for _ in range(2)]
    tracemalloc.start()
    monkeypatch.setattr(hypotheses, "BATCH", 1)
    found.append(hypotheses.independence(x, y, permutations=50, rng=np.random.default_rng(1)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == found[1] == found[2]
    assert peak < 50 * 8 * 30**2  # all kernels at once


def test_independence_of_what_does_not_vary() -> None:
    rng = np.random.default_rng(0)
    varying = np.arange(10.0)
    assert hypotheses.independence(np.ones(10), varying, permutations=9, rng=rng) is None
    assert hypotheses.independence(varying, 1e-9 * varying, permutations=9, rng=rng, rounding=1e-7) is None
    assert hypotheses.independence(varying[:2], varying[:2], permutations=9, rng=rng) is None


def test_minimality_by_hand() -> None:
    null = np.arange(10.0)
    p = hypotheses.minimality(np.array([100.0, 8.5, 0.0, -1.0]), null, quantile=0.9)
    assert p[0] == pytest.approx(1.0)
    assert p[1] == pytest.approx(1 - 0.9**10)  # wins 9 of 10
    assert p[2] == p[3] == pytest.approx(0.1**10)  # a tie is no win


def test_effects_are_squared_changes_free_of_rounding() -> None:
    whole = np.array([1.0, 2.0])
    without = np.array([[1.0, 4.0], [1.0 + 1e-9, 2.0]])
    assert hypotheses.effects(whole, without, rounding=1e-8).tolist() == [2.0, 0.0]


def test_exceeding_random_circuits() -> None:
    assert hypotheses.exceeds_random(1.0, np.zeros(30), quantile=0.9) == (1.0, pytest.approx(0.9**30))
    share, p = hypotheses.exceeds_random(0.0, np.zeros(30), quantile=0.9)
    assert (share, p) == (0.0, 1.0)
    assert 0.9**28 > 0.05 > 0.9**29  # what the settings say of the fewest draws
