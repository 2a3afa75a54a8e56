"""The hypothesis tests of Shi et al. 2024 (arXiv 2410.13032), sections 3 and 4, on values already measured.

Each function takes numbers and returns p-values. What a small p says differs: it speaks *against* a circuit in
equivalence, independence and minimality, *for* it in sufficiency and partial necessity.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats
from scipy.spatial.distance import pdist, squareform


def equivalence(
    circuit: Float[ndarray, " example"], full: Float[ndarray, " example"], *, epsilon: float, rounding: float = 0.0
) -> tuple[float, float]:
    """Does the circuit beat the full model about as often as not? (share of wins, p-value).

    H0: |P(circuit beats full) - 1/2| < epsilon. With n prompts p = P(|K/n - 1/2| >= |share - 1/2|) for K ~
    Bin(n, 1/2 + epsilon), the worst case of H0. A difference of ``rounding`` or less is a tie and half a win, so a
    circuit that equals the model everywhere has share 1/2 and p = 1.
    """
    difference = circuit - full
    tied = np.abs(difference) <= rounding
    share = float(np.where(tied, 0.5, difference > 0).mean())
    return share, _two_tails(len(circuit), abs(share - 0.5), epsilon)


def smallest_equivalence_p(examples: int, *, epsilon: float) -> float:
    """The p-value of a circuit that never wins. A test whose smallest p exceeds the level cannot reject."""
    return _two_tails(examples, 0.5, epsilon)


def _two_tails(n: int, distance: float, epsilon: float) -> float:
    if distance < 1e-12:
        return 1.0
    upper, lower = math.ceil(n * (0.5 + distance) - 1e-9), math.floor(n * (0.5 - distance) + 1e-9)
    return float(stats.binom.sf(upper - 1, n, 0.5 + epsilon) + stats.binom.cdf(lower, n, 0.5 + epsilon))


BATCH = 1 << 22  # numbers of permuted kernels that are held at a time


def independence(
    complement: Float[ndarray, " example"],
    full: Float[ndarray, " example"],
    *,
    permutations: int,
    rng: np.random.Generator,
    rounding: float = 0.0,
) -> float | None:
    """Is what the circuit's complement scores independent of what the full model scores? p-value of H0: it is.

    Hilbert-Schmidt independence criterion (Gretton et al. 2007) with Gaussian kernels of median width and a
    permutation test. None where either score does not vary by more than ``rounding``: independent in name only.
    """
    if len(full) < 3 or min(np.ptp(complement), np.ptp(full)) <= rounding:
        return None
    left, right = _centred_kernel(complement), _centred_kernel(full)

    def hsic(order: Float[ndarray, "*resample example"], axis: int = -1) -> Float[ndarray, "*resample"]:
        rows = np.moveaxis(np.asarray(order), axis, -1).astype(int)
        permuted = left[rows[..., :, None], rows[..., None, :]]
        return np.asarray((permuted * right).sum((-2, -1)))

    found = stats.permutation_test(
        (np.arange(len(full)),),
        hsic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, BATCH // len(full) ** 2),
        alternative="greater",
        rng=rng,
    )
    return float(found.pvalue)


def _centred_kernel(values: Float[ndarray, " example"]) -> Float[ndarray, "example example"]:
    distances = pdist(values[:, None])
    width = np.median(distances) or distances.mean()  # more than half are 0: a median of no use
    kernel = np.exp(-(squareform(distances) ** 2) / (2 * width**2))
    centring = np.eye(len(values)) - 1 / len(values)
    return np.asarray(centring @ kernel @ centring)


def smallest_independence_p(examples: int, *, permutations: int) -> float:
    """The p-value where no permutation comes near the order of the prompts: one of all, or of those drawn."""
    return 1 / min(math.factorial(examples), permutations + 1)


def effects(
    whole: Float[ndarray, "*circuit example"], without: Float[ndarray, "circuit example"], *, rounding: float = 0.0
) -> Float[ndarray, " circuit"]:
    """Mean squared change of the score by a knock-out; what does not exceed rounding is 0."""
    squared = np.square(without - whole).mean(-1)
    return np.where(squared <= rounding**2, 0.0, squared)


def minimality(
    effect: Float[ndarray, " edge"], null: Float[ndarray, " draw"], *, quantile: float
) -> Float[ndarray, " edge"]:
    """Does an edge matter more than random edges added to the circuit do? p-value of H0, edge by edge.

    H0: the edge's effect exceeds a random added edge's with probability ``quantile`` or more. A small p marks the edge
    as superfluous. Not corrected for the number of edges.
    """
    wins = (effect[:, None] > null).sum(1)
    return np.asarray(stats.binom.cdf(wins, len(null), quantile), dtype=float)


def smallest_minimality_p(draws: int, *, quantile: float) -> float:
    """The p-value of an edge that beats no random one."""
    return float(stats.binom.cdf(0, draws, quantile))


def smallest_exceeding_p(draws: int, *, quantile: float) -> float:
    """The p-value of a circuit that exceeds all random ones."""
    return quantile**draws


def exceeds_random(value: float, null: Float[ndarray, " draw"], *, quantile: float) -> tuple[float, float]:
    """Does a value exceed those of random circuits more often than ``quantile``? (share exceeded, p-value)."""
    wins = int((value > null).sum())
    return wins / len(null), float(stats.binomtest(wins, len(null), quantile, alternative="greater").pvalue)
