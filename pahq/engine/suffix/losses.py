"""The loss of many trials from their final residual streams, at the least cost each objective allows.

KL(clean || patched) needs no log-probabilities of the vocabulary. With p the clean distribution, x the patched normed
residual, KL = sum(p log p) + logsumexp(x W_U + b) - x . (W_U p) - b . p. The vocabulary is walked in tiles that stay in
cache, and the dot product is taken in float64, since it cancels against the logsumexp. Differences of logits need the
columns they name and no others.

A row (example, position) that several items read, as those of a prompt drawn twice do, is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.engine.suffix.headlogits import HeadChange, HeadLogits
from pahq.metrics import Kl, LogitDifference, Margin, Objective
from pahq.model.forward import normalise

TILE = 400_000  # logits of one vocabulary tile: 1.6 MB of float32, about one core's second-level cache


class Losses(Protocol):
    """[*trial, row, d_model] residuals at the items' rows, before the final norm, to [*trial] losses in float64."""

    def __call__(self, resid: Float[Tensor, "*trial row d_model"]) -> Float[Tensor, "*trial"]: ...


def rows_of(problem: Problem) -> tuple[Int[Tensor, "row 2"], Int[Tensor, " item"] | None]:
    """The distinct rows (example, position) that items read, and each item's among them; None: one each, in order."""
    items = problem.prompts.items.cpu()
    rows, index = torch.unique(items, dim=0, return_inverse=True)
    device = problem.corrupted.final.device
    return rows.to(device), None if torch.equal(rows, items) else index.to(device)


def _at(values: Tensor, index: Tensor | None, dim: int) -> Tensor:
    """An entry for each item, from one for each row."""
    return values if index is None else values.index_select(dim, index)


def losses_for(problem: Problem, tile: int = TILE) -> Losses:
    """The cheapest exact evaluation of the problem's objective, the vocabulary in tiles of so many logits."""
    objective = problem.objective
    if isinstance(objective, Kl):
        return KlLosses(problem, tile)
    if isinstance(objective, LogitDifference):
        columns = torch.stack((objective.answer, objective.wrong), dim=1)
        return _ColumnLosses(problem, columns)
    if isinstance(objective, Margin):
        return _ColumnLosses(problem, torch.cat((objective.answer[:, None], objective.wrong), dim=1))
    return PlainLosses(problem)


class PlainLosses:
    """All logits, then the objective itself."""

    def __init__(self, problem: Problem) -> None:
        self._model, self._objective = problem.store.ends, problem.objective
        self._index = rows_of(problem)[1]

    def __call__(self, resid: Tensor) -> Tensor:
        model = self._model
        normed = normalise(model.config, resid, model.ln_final_w, model.ln_final_b)
        return self._objective.loss(_at(normed @ model.W_U + model.b_U, self._index, -2)).double()


class _ColumnLosses:
    """Logit of column 0 minus the largest of the other columns, each item having columns of its own."""

    def __init__(self, problem: Problem, columns: Tensor) -> None:
        model = self._model = problem.store.ends
        self._weights = model.W_U.T[columns]  # [item, column, d_model]
        self._bias = model.b_U[columns]
        self.objective: Objective = problem.objective
        self._index = rows_of(problem)[1]

    def __call__(self, resid: Tensor) -> Tensor:
        model = self._model
        normed = _at(normalise(model.config, resid, model.ln_final_w, model.ln_final_b), self._index, -2)
        logits = torch.einsum("...id,icd->...ic", normed, self._weights) + self._bias
        return -(logits[..., 0] - logits[..., 1:].amax(-1)).double().mean(-1)


class KlLosses:
    """The identity of the module's text."""

    def __init__(self, problem: Problem, tile: int = TILE) -> None:
        self._tile, self._model = tile, problem.store.ends
        model = self._model
        assert isinstance(problem.objective, Kl)
        rows, self._index = rows_of(problem)
        logs = problem.objective.clean
        if self._index is not None:  # of each row its first item's: any has the same
            index, items = self._index.cpu(), torch.arange(len(logs))
            first = items[: len(rows)].scatter_reduce(0, index, items, "amin", include_self=False)
            logs = logs[first.to(logs.device)]
        probabilities = logs.exp()
        self._direction = (probabilities @ model.W_U.T).double()  # W_U p, [row, d_model]
        self._mean_bias = (probabilities @ model.b_U).double()
        self._has_bias = bool((model.b_U != 0).any())
        # 1 but for rounding, which the logsumexp would multiply
        self._mass = probabilities.sum(-1, dtype=torch.float64)
        each = zip(probabilities, logs, strict=True)  # one at a time: float64 is twice as wide
        self._entropy = torch.stack([-(p.double() * clean.double()).sum() for p, clean in each])

    def __call__(self, resid: Tensor) -> Tensor:
        normed = self._normed(resid)
        return self._loss(normed, self._logsumexp(normed))

    def from_heads(
        self, kept: HeadLogits, current: Tensor, resid: Tensor, heads: Mapping[int, HeadChange]
    ) -> Float[Tensor, "trial"]:
        """The same for streams [trial, row, d_model] that differ from ``current`` [row, d_model] by heads alone."""
        return self._loss(self._normed(resid), kept.logsumexp(current, resid, heads, self._tile))

    def _normed(self, resid: Tensor) -> Tensor:
        model = self._model
        return normalise(model.config, resid, model.ln_final_w, model.ln_final_b)

    def _loss(self, normed: Tensor, logsumexp: Tensor) -> Tensor:
        mean_logit = (normed.double() * self._direction).sum(-1) + self._mean_bias
        return _at(self._mass * logsumexp - mean_logit - self._entropy, self._index, -1).mean(-1)

    def _logsumexp(self, normed: Tensor) -> Tensor:
        """Over the vocabulary in tiles, each row's running maximum taken out first, so that nothing overflows."""
        rows = normed.reshape(-1, normed.shape[-1])
        vocabulary = self._model.W_U.shape[1]
        tile = min(vocabulary, max(256, self._tile // rows.shape[0]))
        highest = rows.new_full((rows.shape[0], 1), float("-inf"))
        total = rows.new_zeros(rows.shape[0], dtype=torch.float64)
        for start in range(0, vocabulary, tile):
            part = slice(start, start + tile)
            logits = rows @ self._model.W_U[:, part]
            if self._has_bias:
                logits += self._model.b_U[part]
            before, highest = highest, torch.maximum(highest, logits.amax(-1, keepdim=True))
            total *= (before - highest)[:, 0].double().exp()
            total += logits.sub_(highest).exp_().sum(-1)
        return (total.log() + highest[:, 0]).view(normed.shape[:-1])
