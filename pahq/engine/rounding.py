"""How far rounding alone can move values: a cautious guess for a problem's losses, and a bound between two forwards.

Rounding is what is told here, before anything is measured. What a search measures of it is its noise
(``pahq.search.doubt``).
"""

from __future__ import annotations

import math

import torch

from pahq.engine.problem import Problem
from pahq.tasks.metrics import Kl, SquaredError

ROUNDINGS = 4.0  # of the largest logit
USUAL = 8.0  # how far the largest of some hundred numbers stands out from their spread, and more
FLOOR = 1e-14  # losses below it are rounding themselves
FORWARDS = 16.0  # roundings of the largest value: what two forwards of one circuit may differ by


@torch.no_grad()
def per_unit(problem: Problem) -> float:
    """The guess for a loss that is straight in the logits: rounding of the largest of them, a few times over.

    Rounding of a residual stream is in proportion to its largest number, and the norm makes its spread 1: a stream far
    from zero, or with single numbers that outweigh all others, is rounded more coarsely by so much.
    """
    objective, stream, config = problem.objective, problem.reference, problem.store.config
    logits = objective.clean if isinstance(objective, Kl) else problem.logits_of(stream)
    coarser = 1.0
    if config.norm != "none":
        spread = (stream - stream.mean(-1, keepdim=True) if config.norm == "layer" else stream).square().mean(-1).sqrt()
        coarser = float((stream.abs().amax(-1) / spread.clamp(min=config.eps**0.5)).amax()) / USUAL
    eps = torch.finfo(stream.dtype).eps
    return ROUNDINGS * eps * max(float(logits.abs().amax()), 1.0) * max(coarser, 1.0)


def curved(problem: Problem) -> bool:
    """Whether the loss is zero at the clean run and curved there, so that errors enter times its root."""
    return isinstance(problem.objective, Kl | SquaredError)


def unit(loss: float, *, curved: bool) -> float:
    """What errors of a loss are in proportion to: near the clean run its root, far from it the loss itself."""
    return math.sqrt(2 * max(loss, FLOOR)) + loss if curved else 1.0


def alike(problem: Problem, one: float, other: float) -> bool:
    """Whether rounding alone may tell two values of the problem's metric apart."""
    return abs(one - other) <= per_unit(problem) * unit(max(abs(one), abs(other)), curved=curved(problem))


def between_forwards(largest: float, dtype: torch.dtype) -> float:
    """How far rounding may part two values of one circuit, computed in ``dtype`` among values of that size at most."""
    return FORWARDS * torch.finfo(dtype).eps * largest
