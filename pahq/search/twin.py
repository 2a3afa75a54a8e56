"""The float64 twin of a search: the engine that settles its doubts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pahq.engine.base import Engine, Resettable
from pahq.engine.changereference import ChangeReference
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.rounding import curved, per_unit, unit
from pahq.engine.suffix import ChangeEngine, SuffixEngine
from pahq.engine.suffix.budget import WORKSPACE, least_bytes, loss_rows, trial_bytes
from pahq.model.run import Narrow
from pahq.precision.store import focus_of
from pahq.search.band import layers_of
from pahq.search.doubt import Doubts, Noise


def doubts_for(
    problem: Problem,
    threshold: float,
    *,
    absolute: bool = False,
    settle: bool = True,
    tight: bool = False,
    twin: Callable[[], Engine] | None = None,
) -> Doubts:
    """The judge of a search on ``problem``. In float64 nothing is settled, and noise is measured by other sums.

    ``tight``: the twin takes ``twin_bytes`` and no more. ``twin`` makes it, where not as ``twin_engine`` does.
    """
    return Doubts(
        twin or (lambda: twin_engine(problem, tight=tight)),
        Noise(per_unit(problem), partial(unit, curved=curved(problem))),
        threshold,
        absolute=absolute,
        settle=settle and problem.reference.dtype != torch.float64,
        focus=lambda edge: focus_of(problem.graph, problem.graph.edges[edge], problem.focus),
        layer_of=layers_of(problem.graph),
        round_size=problem.round_size,
    )


def twin_engine(problem: Problem, *, tight: bool = False) -> Resettable:
    """An engine for the same network in float64, or for a problem in float64 one that adds up in another order.

    ``tight``: within ``twin_bytes`` beside the search.
    """
    with torch.no_grad():
        wide = problem.in_float64(TIGHT_BYTES) if tight else problem.in_float64()
    if problem.focus in ("sender", "both"):
        return ReferenceEngine(wide) if problem.changes is None else ChangeReference(wide)
    options: dict[str, Any] = {"composites": False}
    if tight:
        options["memory_bytes"] = twin_bytes(problem) + problem.weight_bytes  # which the two share
    if problem.reference.dtype == torch.float64:
        options |= {"positions": False, "cheap_losses": False}
    return SuffixEngine(wide, **options) if problem.changes is None else ChangeEngine(wide, **options)


TIGHT_BYTES = 32 << 20  # of widened weights that a twin under a ceiling keeps
ROOM = 1 << 20  # for what is rounded in the estimate


def twin_bytes(problem: Problem) -> int:
    """What a float64 twin under a ceiling takes beside a search, whose store it shares.

    Its ends and up to ``TIGHT_BYTES`` of weights widened; all else is what the search needs at least, twice as wide,
    and a second trial.
    """
    ends, run = problem.store.ends, problem.corrupted
    wide = [x.numel() * 8 for x in (ends.W_pos, ends.ln_final_w, ends.ln_final_b, ends.W_U, ends.b_U) if x is not None]
    own = least_bytes(problem) - problem.weight_bytes - WORKSPACE
    rows = loss_rows(problem, run.final.shape[0] * run.final.shape[1])
    narrow = 2 * run.nbytes if isinstance(run.z, Narrow) else 0  # held in 16 bits by the search
    return sum(wide) + TIGHT_BYTES + WORKSPACE + 2 * own + narrow + trial_bytes(problem, rows, 8) + ROOM
