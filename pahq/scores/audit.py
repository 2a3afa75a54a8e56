"""The audit of exact scores: edges near the cut of a size are scored again in full precision.

It is what ``audit=band`` is to a search. Scores of the rounded network decide which edges are surely in the top n and
which surely are not; full precision decides the rest:

1. A seeded sample of edges is scored in full precision. The errors of all that were, relative to |score| + cut, give
   the band: ``SAFETY`` times the largest.
2. Every edge whose score lies within the band of the cut (the n-th highest score) is scored in full precision.
3. That moves the cut, and may widen the band; so again, until no edge that was not scored in full precision is near.

An edge that errs by more than the band, and lies beyond it, would be missed: of all edges at most the share ``beyond``
errs by more than the largest of the sample, with 95% confidence.

Gradients have no such audit: in full precision they give all edges at once, for what the rounded ones have cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.scores import ScoreAudit
from pahq.engine.problem import Problem
from pahq.errors import PahqError
from pahq.scores.exact import exact_scores
from pahq.scores.focused import scores_in_focus

SAFETY = 2.5  # as a search's band has it where the network is rounded
SAMPLE, LEAST = 0.01, 30  # of the edges: drawn beforehand, and no fewer
CONFIDENCE = 0.95


def audited_scores(
    low: Problem, full: Problem, size: int, *, seed: int = 0, report: Callable[[int], object] = lambda scored: None
) -> tuple[Float[Tensor, " edge"], ScoreAudit]:
    """Exact scores in which the ``size`` edges with the highest |score| are as good as surely full precision's.

    ``low`` is the problem in low precision (with its focus, if it has one), ``full`` the same in full precision.
    ``report`` is told how many more edges low precision has scored.
    Raises PahqError for a size that leaves nothing to choose.
    """
    count = len(low.graph.edges)
    if not 0 < size < count:
        raise PahqError(f"size: a number of edges from 1 to {count - 1} was expected (got {size})")
    in_focus = low.focus == "receiver" and not low.store.uniform
    score = partial(exact_scores, report=report)
    rough = scores_in_focus(low, lambda part, edges: score(part, edges=edges)) if in_focus else score(low)
    drawn = min(count, max(LEAST, math.ceil(SAMPLE * count)))
    near = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:drawn].sort().values.tolist()
    found, known = rough.clone(), torch.zeros(count, dtype=torch.bool, device=rough.device)
    band = worst = 0.0
    while near:
        found[near] = exact_scores(full, edges=near)[near]
        known[near] = True
        cut = float(found.abs().sort(descending=True).values[size - 1])
        worst = float(_over((found - rough).abs(), rough.abs() + cut)[known].max())
        band = SAFETY * worst
        away = _over((found.abs() - cut).abs(), found.abs() + cut)
        near = (~known & (away <= band)).nonzero()[:, 0].tolist()
    rescored = int(known.sum())
    changed = len(_top(found, size) - _top(rough, size))
    beyond = 1 - (1 - CONFIDENCE) ** (1 / drawn)
    return found, ScoreAudit(rescored, rescored / count, drawn, band, worst, changed, beyond)


def _over(part: Float[Tensor, " edge"], whole: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """The ratio, and nought where both are."""
    return torch.where(whole > 0, part / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0)


def _top(scores: Float[Tensor, " edge"], size: int) -> set[int]:
    return set(scores.abs().sort(descending=True, stable=True).indices[:size].tolist())
