"""The loss of final residual streams, formed from what they *change* against the full-precision clean run.

Near the clean run a loss is a small number, and the difference of two large ones would drown it in rounding: in float32
a KL divergence taken as logsumexp minus a dot product of logits is off by up to 1e-5. So every loss starts from h, what
the normed final stream differs by from the clean one (taken in float64: a few numbers a row), and only h meets the
unembedding, so that rounding is in proportion to the change. Metrics over the vocabulary go on in ``vocabulary``;
differences of logits need the columns they name and no others.

A row (example, position) that several items read, as those of a prompt drawn twice do, is computed once.
"""

from __future__ import annotations

from copy import copy
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.engine.capped import CappedLosses
from pahq.engine.problem import Problem
from pahq.engine.vocabulary import TILE, Change, KlLosses, NllLosses, ProbabilityLosses, Vocabulary, at_items, rows_of
from pahq.tasks.metrics import Kl, LogitDifference, Margin, NegativeLogLikelihood, ProbabilityDifference, SquaredError

__all__ = ["KlLosses", "Losses", "PlainLosses", "carefully", "finite", "losses_for", "rows_of"]


class Losses(Protocol):
    """[*trial, row, d_model] residuals at the items' rows, before the final norm, to [*trial] losses in float64."""

    def __call__(self, resid: Float[Tensor, "*trial row d_model"]) -> Float[Tensor, "*trial"]: ...


def losses_for(problem: Problem, tile: int = TILE) -> Losses:
    """The problem's objective on final residual streams, the vocabulary in tiles of so many logits.

    Given the same streams, losses in float32 are those of float64 to 1e-8 where the KL divergence is below 1e-3, and to
    float32's relative rounding of the change elsewhere.
    """
    objective = problem.objective
    if problem.store.config.logit_cap is not None:
        return CappedLosses(problem, tile)
    if isinstance(objective, Kl):
        return KlLosses(problem, tile)
    if isinstance(objective, ProbabilityDifference):
        return ProbabilityLosses(problem, tile)
    if isinstance(objective, NegativeLogLikelihood):
        return NllLosses(problem, tile)
    if isinstance(objective, LogitDifference):
        return _ColumnLosses(problem, objective.answer, objective.wrong[:, None])
    if isinstance(objective, Margin):
        return _ColumnLosses(problem, objective.answer, objective.wrong)
    assert isinstance(objective, SquaredError)
    return _SquaredLosses(problem, objective.columns)


def finite(losses: Losses, resid: Tensor) -> Tensor:
    """The losses, asked again with care where some are no finite numbers. Waits for the device."""
    found = losses(resid)
    careful = None if bool(found.isfinite().all()) else carefully(losses)
    return found if careful is None else careful(resid)


def carefully(losses: Losses) -> Losses | None:
    """The same losses by sums in which no exponential overflows; None where there are none such, or these are they."""
    if not isinstance(losses, Vocabulary) or losses.careful:
        return None
    other = copy(losses)
    other.careful = True
    return other


class PlainLosses:
    """All logits, then the objective itself: slow, and what every other class here is held against."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._index = problem, rows_of(problem)[1]

    def __call__(self, resid: Tensor) -> Tensor:
        logits = self._problem.logits_of(resid)
        return self._problem.objective.loss(at_items(logits, self._index, -2)).double()


class _ColumnLosses:
    """Logit of the answer minus the largest logit of the wrong tokens, each item having tokens of its own.

    Differences of columns of the unembedding are formed first, so that what all logits have in common never enters.
    """

    def __init__(self, problem: Problem, answer: Int[Tensor, " item"], wrong: Int[Tensor, "item choice"]) -> None:
        self._change, model = Change(problem), problem.store.ends
        columns, bias = model.W_U.T, model.b_U.double()
        self._weights = columns[answer].double()[:, None] - columns[wrong].double()  # [item, choice, d_model]
        clean = at_items(self._change.clean, self._change.index, -2)
        self._clean = torch.einsum("id,icd->ic", clean, self._weights) + bias[answer][:, None] - bias[wrong]

    def __call__(self, resid: Tensor) -> Tensor:
        h = at_items(self._change(resid), self._change.index, -2)
        ahead = self._clean + torch.einsum("...id,icd->...ic", h, self._weights)
        return -ahead.amin(-1).mean(-1)


class _SquaredLosses:
    """Mean squared change of the outputs that the metric names."""

    def __init__(self, problem: Problem, columns: Int[Tensor, " column"]) -> None:
        self._change = Change(problem)
        self._weights = problem.store.ends.W_U[:, columns].double()

    def __call__(self, resid: Tensor) -> Tensor:
        each = (self._change(resid) @ self._weights).square().mean(-1)
        return at_items(each, self._change.index, -1).mean(-1)
