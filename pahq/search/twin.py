"""The float64 twin of a search: the engine that settles its doubts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from pahq.engine.base import Engine
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.rounding import curved, per_unit, unit
from pahq.engine.suffix import SuffixEngine
from pahq.precision.store import focus_of
from pahq.search.band import layers_of
from pahq.search.doubt import Doubts, Noise


def doubts_for(
    problem: Problem,
    threshold: float,
    *,
    absolute: bool = False,
    settle: bool = True,
    memory_bytes: int | None = None,
) -> Doubts:
    """The judge of a search on ``problem``. In float64 nothing is settled, and noise is measured by other sums.

    ``memory_bytes`` is a ceiling for the twin.
    """
    return Doubts(
        lambda: twin_engine(problem, memory_bytes),
        Noise(per_unit(problem), partial(unit, curved=curved(problem))),
        threshold,
        absolute=absolute,
        settle=settle and problem.reference.dtype != torch.float64,
        layer_of=layers_of(problem.graph),
        focus=lambda edge: focus_of(problem.graph, problem.graph.edges[edge], problem.focus),
    )


def twin_engine(problem: Problem, memory_bytes: int | None = None) -> Engine:
    """An engine for the same network in float64, or for a problem in float64 one that adds up in another order.

    One trial at a time: it is asked for single tests.
    """
    with torch.no_grad():
        wide = problem.in_float64()
    if problem.focus in ("sender", "both"):
        return ReferenceEngine(wide)
    options: dict[str, Any] = {"composites": False, "memory_bytes": memory_bytes}
    if problem.reference.dtype == torch.float64:
        options |= {"positions": False, "cheap_losses": False}
    return SuffixEngine(wide, **options)
