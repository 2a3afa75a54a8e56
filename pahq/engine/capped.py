"""Losses of a model that bends its logits by a soft cap (Gemma 2): from what the bent logits change, all of them.

Without a cap logits are linear in the normed stream, which is what the shorter ways (``pahq.engine.vocabulary``) stand
on. With c a clean logit before the cap, d what it changes by, and t = tanh(c / cap), T = tanh((c + d) / cap), the bent
logit changes by

    cap (T - t) = cap tanh(d / cap) (1 - t T),

so that rounding stays in proportion to the change here too. One trial at a time, since it takes the whole vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.engine.vocabulary import Change, at_items, first_items
from pahq.tasks.metrics import Kl, SquaredError, divergence


class CappedLosses:
    """The problem's objective on final residual streams; see ``pahq.engine.losses.Losses``."""

    def __init__(self, problem: Problem) -> None:
        self._change, self._objective = Change(problem), problem.objective
        ends = problem.store.ends
        assert ends.config.logit_cap is not None
        self._W_U, self._cap = ends.W_U, ends.config.logit_cap
        self._clean = self._change.clean.to(ends.W_U.dtype) @ ends.W_U + ends.b_U  # [row, vocab], before the cap
        if isinstance(self._objective, Kl):
            self._logs = self._objective.clean[first_items(problem)].double()

    def __call__(self, resid: Float[Tensor, "*trial row d_model"]) -> Float[Tensor, "*trial"]:
        h = self._change(resid).to(self._W_U.dtype)
        each = [self._loss(self._bent(trial)) for trial in h.reshape(-1, *h.shape[-2:])]
        return torch.stack(each).view(resid.shape[:-2])

    def _bent(self, h: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """What the bent logits change by."""
        change, cap = h @ self._W_U, self._cap
        slope = 1 - torch.tanh(self._clean / cap) * torch.tanh((self._clean + change) / cap)
        return torch.tanh(change / cap).mul_(slope).mul_(cap)

    def _loss(self, change: Float[Tensor, "row vocab"]) -> Float[Tensor, ""]:
        objective, index = self._objective, self._change.index
        if isinstance(objective, Kl):
            return at_items(divergence(change.double(), self._logs, self._logs.exp()), index, 0).mean()
        if isinstance(objective, SquaredError):
            return at_items(change[:, objective.columns].double().square().mean(-1), index, 0).mean()
        logits = torch.tanh(self._clean / self._cap).mul_(self._cap).double() + change
        return objective.loss(at_items(logits, index, 0)).double()
