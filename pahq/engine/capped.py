"""Losses of a model that bends its logits by a soft cap (Gemma 2): from what the bent logits change, all of them.

Without a cap logits are linear in the normed stream, which is what the shorter ways (``pahq.engine.vocabulary``) stand
on. With c a clean logit before the cap, d what it changes by, and t = tanh(c / cap), T = tanh((c + d) / cap), the bent
logit changes by

    b = cap (T - t) = cap tanh(d / cap) (1 - t T),

so that rounding stays in proportion to the change here too. A divergence is log(sum p exp(b)) - sum p b, with p the
clean distribution. The vocabulary is walked once for all trials of a window, in tiles, and sums are taken in float64.
Metrics that read some logits need the columns they name and no others; those of probabilities take the whole vocabulary
of as many trials as fit a tile, and of one at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.engine.vocabulary import TILE, Change, at_items, first_items
from pahq.tasks.metrics import Kl, LogitDifference, Margin, Objective, SquaredError, divergence

WIDER = 4  # times what a tile's logits take: sums in float64, and what is made of the logits
NARROWEST = 256  # columns of a tile, whatever the number of trials
HIGHEST = 300.0  # cap up to which exp of a bent change (at most twice the cap) is finite in float64


class CappedLosses:
    """The problem's objective on final residual streams; see ``pahq.engine.losses.Losses``."""

    def __init__(self, problem: Problem, tile: int = TILE) -> None:
        self._change, self._tile, ends = Change(problem), tile, problem.store.ends
        assert ends.config.logit_cap is not None
        columns, self._objective = _read(problem.objective)
        some = columns is not None and len(columns) < ends.W_U.shape[1]
        self._W_U, b_U = (ends.W_U[:, columns], ends.b_U[columns]) if some else (ends.W_U, ends.b_U)
        self._cap = ends.config.logit_cap
        self._clean = self._change.clean.to(self._W_U.dtype) @ self._W_U + b_U  # [row, vocab], before the cap
        self._bent_clean = torch.tanh(self._clean / self._cap)
        if isinstance(self._objective, Kl):
            self._logs = self._objective.clean[first_items(problem)]
            parts = self._parts(len(self._logs))
            self._mass = torch.stack([self._probabilities(part).sum(-1) for part in parts]).sum(0)

    def __call__(self, resid: Float[Tensor, "*trial row d_model"]) -> Float[Tensor, "*trial"]:
        h = self._change(resid).to(self._W_U.dtype)
        h = h.reshape(-1, *h.shape[-2:])
        if isinstance(self._objective, Kl) and self._cap <= HIGHEST:
            return self._divergences(h).view(resid.shape[:-2])
        fit = max(1, self._tile // self._clean.numel())
        return torch.cat([self._losses(part) for part in torch.split(h, fit)]).view(resid.shape[:-2])

    def _divergences(self, h: Float[Tensor, "trial row d_model"]) -> Float[Tensor, " trial"]:
        mean, total, grown = (self._mass.new_zeros(h.shape[:-1]) for _ in range(3))
        for part in self._parts(h.shape[0] * h.shape[1]):
            p, change = self._probabilities(part), self._bent(h, part).double()
            mean += (p * change).sum(-1)
            total += (p * change.exp()).sum(-1)
            grown += (p * change.expm1()).sum(-1)
        # where likely tokens lose much, 1 + grown has few digits left; elsewhere total has few of a small divergence
        logs = torch.where(total < self._mass / 2, (total / self._mass).log(), (grown / self._mass).log1p())
        return at_items(logs - mean / self._mass, self._change.index, -1).mean(-1)

    def _parts(self, rows: int) -> Iterator[slice]:
        vocabulary = self._W_U.shape[1]
        width = min(vocabulary, max(NARROWEST, self._tile // (WIDER * rows)))
        return (slice(start, start + width) for start in range(0, vocabulary, width))

    def _probabilities(self, part: slice) -> Float[Tensor, "row tile"]:
        """Clean ones, in float64."""
        return self._logs[:, part].double().exp()

    def _bent(
        self, h: Float[Tensor, "trial row d_model"], part: slice = slice(None)
    ) -> Float[Tensor, "trial row tile"]:
        """What the bent logits change by."""
        change, cap = h @ self._W_U[:, part], self._cap
        slope = 1 - self._bent_clean[:, part] * torch.tanh((self._clean[:, part] + change) / cap)
        return torch.tanh(change / cap).mul_(slope).mul_(cap)

    def _losses(self, h: Float[Tensor, "trial row d_model"]) -> Float[Tensor, " trial"]:
        change, objective, index = self._bent(h), self._objective, self._change.index
        if isinstance(objective, Kl):
            logs = self._logs.double()
            each = torch.stack([divergence(trial.double(), logs, logs.exp()) for trial in change])
            return at_items(each, index, -1).mean(-1)
        if isinstance(objective, SquaredError):
            return at_items(change.double().square().mean(-1), index, -1).mean(-1)
        logits = (self._bent_clean * self._cap).double() + change
        return objective.loss(at_items(logits, index, -2)).double()


def _read(objective: Objective) -> tuple[Int[Tensor, " column"] | None, Objective]:
    """The columns of the logits that an objective reads, and the objective on these alone; None: it reads all."""
    if isinstance(objective, SquaredError):
        return objective.columns, objective
    if not isinstance(objective, LogitDifference | Margin):
        return None, objective
    answer, wrong = objective.answer, objective.wrong
    columns, index = torch.unique(torch.cat((answer, wrong.flatten())), return_inverse=True)
    return columns, replace(objective, answer=index[: len(answer)], wrong=index[len(answer) :].view_as(wrong))
