"""How far rounding alone can move a problem's losses: a cautious guess, from the clean run's logits."""

from __future__ import annotations

import math

import torch

from pahq.engine.problem import Problem
from pahq.metrics import Kl, SquaredError

ROUNDINGS = 4.0  # of the largest logit
FLOOR = 1e-14  # losses below it are rounding themselves


@torch.no_grad()
def per_unit(problem: Problem) -> float:
    """The guess for a loss that is straight in the logits: rounding of the largest of them, a few times over."""
    objective = problem.objective
    logits = objective.clean if isinstance(objective, Kl) else problem.logits_of(problem.reference)
    return ROUNDINGS * torch.finfo(problem.reference.dtype).eps * max(float(logits.abs().amax()), 1.0)


def curved(problem: Problem) -> bool:
    """Whether the loss is zero at the clean run and curved there, so that errors enter times its root."""
    return isinstance(problem.objective, Kl | SquaredError)


def unit(loss: float, *, curved: bool) -> float:
    """What errors of a loss are in proportion to: near the clean run its root, far from it the loss itself."""
    return math.sqrt(2 * max(loss, FLOOR)) + loss if curved else 1.0


def alike(problem: Problem, one: float, other: float) -> bool:
    """Whether rounding alone may tell two values of the problem's metric apart."""
    return abs(one - other) <= per_unit(problem) * unit(max(abs(one), abs(other)), curved=curved(problem))
