"""What a metric makes of logits: one number that damage raises. All in float64, no difference of large numbers.

``logits`` and ``clean`` (the full-precision clean model's) are [item, vocab], already taken where the metric reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def loss(metric: str, logits: np.ndarray, clean: np.ndarray, targets: Mapping[str, np.ndarray]) -> float:
    """Mean over items; scores that are good when large (logit_diff, prob_diff, margin) count negative."""
    rows = np.arange(len(logits))
    if metric == "kl":
        return float(np.mean([kl(now, was) for now, was in zip(logits, clean, strict=True)]))
    if metric == "logit_diff":
        return float(-np.mean(logits[rows, targets["answer"]] - logits[rows, targets["wrong"]]))
    if metric == "margin":
        most = np.take_along_axis(logits, targets["choices"], axis=1).max(axis=1)
        return float(-np.mean(logits[rows, targets["answer"]] - most))
    if metric == "prob_diff":
        return float(-np.mean(np.sum(np.exp(log_softmax(logits)) * targets["sign"], axis=1)))
    if metric == "nll":
        return float(-np.mean(log_softmax(logits)[rows, targets["answer"]]))
    assert metric == "mse", metric
    columns = targets["columns"]
    return float(np.mean((logits[:, columns] - clean[:, columns]) ** 2))


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def kl(now: np.ndarray, was: np.ndarray) -> float:
    """KL(softmax(was) || softmax(now)) in nats, from the change d of the logits.

    With p the clean distribution and d centred so that sum p d = 0 it is log sum p exp(d), which near no change is
    log1p(sum p (exp(d) - 1 - d)): terms that are never negative, so nothing cancels.
    """
    log_p = log_softmax(was)
    p = np.exp(log_p)
    d = now - was
    d = d - np.sum(p * d)
    if np.max(d) < 1:
        return float(np.log1p(np.sum(p * beyond_linear(d))))
    most = np.max(log_p + d)
    return float(most + np.log(np.sum(np.exp(log_p + d - most))))


def beyond_linear(d: np.ndarray) -> np.ndarray:
    """exp(d) - 1 - d; a power series where the terms would cancel."""
    small = np.where(np.abs(d) < 0.3, d, 0.0)
    series, term = np.zeros_like(d), small
    for n in range(2, 16):
        term = term * small / n
        series = series + term
    return np.where(np.abs(d) < 0.3, series, np.expm1(d) - d)
