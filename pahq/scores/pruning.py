"""Edge Pruning (Bhaskar et al. 2024, arXiv 2406.16778): a mask an edge, learnt for circuits of one size.

The loss is the problem's (KL to the full model in the paper and by default), and the penalty

    multiplier_1 (t - s) + multiplier_2 (t - s)^2

with s the expected share of edges that are gone and t its target, which grows on a straight line from 0 to that of the
size asked for. Gradient descent in the masks and ascent in the multipliers hold s at t. An edge's score is the
probability that its mask is not 0 in the end; the circuit of the size is then that of the highest scores.

Other than in the paper there are no masks of senders, with which circuits of the model nano were worse. The masks begin
at a lower parameter, Adam's memory of squares is shorter, and the second multiplier does not begin at 0 but high, so
that s follows t from the start: all of these since a training has hundreds of steps here, and thousands there. The
multipliers begin and grow in proportion to what one edge of the circuit costs when all are lost together (``unit``), so
that the same settings do for losses of any size and for small circuits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.problem import Problem

BEGIN = 2.0  # log_alpha of every mask
MULTIPLIERS = (0.0, 15.0)  # before the first step, in units
RATE = 0.05  # of the multipliers, in units


def unit_of(problem: Problem, kept: int) -> float:
    """The loss of the empty circuit less that of the whole one, by the share of edges that are to be left."""
    empty, whole = problem.item_logits(problem.corrupted.final), problem.logits_of(problem.reference)
    lost = abs(float(problem.objective.loss(empty) - problem.objective.loss(whole)))
    return lost * len(problem.graph.edges) / max(1, kept)


@dataclass(frozen=True)
class EdgePruning:
    """``kept``: how many of the ``edges`` are to be left; ``warmup``: the share of steps in which that is reached;
    ``unit``: of the multipliers, as ``unit_of`` gives it."""

    edges: int
    kept: int
    steps: int
    learning_rate: float
    warmup: float
    unit: float

    @property
    def rate_of_multipliers(self) -> float:
        return RATE * self.unit

    def start(self) -> Float[Tensor, " mask"]:
        return torch.full((self.edges,), BEGIN)

    def multipliers(self) -> Float[Tensor, " multiplier"]:
        return self.unit * torch.tensor(MULTIPLIERS)

    def spread(self, masks: Float[Tensor, " mask"]) -> tuple[Float[Tensor, " edge"], None]:
        return masks, None

    def penalty(self, present: Float[Tensor, " mask"], multipliers: Tensor, step: int) -> Float[Tensor, ""]:
        target = (1 - self.kept / self.edges) * min(1.0, step / max(1.0, self.warmup * self.steps))
        missing = target - (1 - present.mean())
        return multipliers[0] * missing + multipliers[1] * missing.square()

    def scores(self, present: Float[Tensor, " mask"]) -> Float[Tensor, " edge"]:
        return present
