"""Seeded samples of tests, and what a sample is sure of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence


def drawn(seed: int, index: int, share: float) -> bool:
    """Whether a test belongs to a seeded sample: the same answer whenever and wherever it is asked."""
    digits = hashlib.sha256(f"{seed} {index}".encode()).digest()[:8]
    return int.from_bytes(digits) < share * 2.0**64


def upper_rate(hits: int, n: int, confidence: float) -> float:
    """Upper confidence bound of a rate of which ``hits`` of ``n`` were seen (Clopper and Pearson 1934); 1 for n = 0."""
    if hits >= n:
        return 1.0
    low, high = hits / n, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        if sum(binomial(n, i, rate) for i in range(hits + 1)) > 1 - confidence:
            low = rate
        else:
            high = rate
    return high


def unseen_share(shares: Sequence[float], confidence: float) -> float:
    """With ``confidence`` at most this share of tests are such as no test of the sample was.

    ``shares`` are the probabilities with which each was drawn, apart from each other. So many tests of one kind, be
    they those that are drawn most seldom, would have been missed altogether with a probability of 1 - confidence.
    """
    chance = 1.0
    for count, share in enumerate(sorted(shares), 1):
        chance *= 1 - share
        if chance <= 1 - confidence:
            return count / len(shares)
    return 1.0


def binomial(n: int, k: int, p: float) -> float:
    """Probability of k hits in n draws of probability p."""
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p))
