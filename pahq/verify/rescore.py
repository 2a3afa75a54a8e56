"""A bundle's scores computed again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pahq.cell.files import SCORES
from pahq.cell.scored import scores_of
from pahq.cell.scorefile import read_scores
from pahq.config.cell import CellConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.errors import PahqError
from pahq.verify.claimed import Claim
from pahq.verify.redecide import chosen_tests
from pahq.verify.scoredcell import ROUNDING


def rescore(claim: Claim, folder: Path, cell: CellConfig, problem: Problem, sample: int | None, seed: int) -> Claim:
    """The claim, with what computing its scores again found.

    Exact scores are measured edge by edge by the reference engine in float64 (all, or a ``sample``). Those of other
    methods, and audited ones, come all at once from the method's own code, in the cell's dtype. Raises PahqError for a
    sample of these.
    """
    recorded, edge_by_edge = read_scores(folder / SCORES, problem.graph, cell), cell.method.name == "exact"
    edge_by_edge = edge_by_edge and cell.audit == "none"
    if sample is not None and not edge_by_edge:
        raise PahqError(
            f"method {cell.method.label} gives all scores at once, so that no sample of them is to be had; leave it out"
        )
    if edge_by_edge:
        chosen = chosen_tests(len(recorded), sample, seed)
        engine, values = ReferenceEngine(problem.in_float64()), dict[int, float]()
        for edge in sorted(chosen):
            before, after = engine.measure([Trial(edge, ()), Trial(edge, (edge,))])
            values[edge] = after - before
    else:
        values = dict(enumerate(scores_of(cell, problem).values))
        claim = replace(claim, by=f"the method's own code in {cell.engine.dtype}")
    scale = recorded.largest or 1.0
    off = {edge: abs(value - recorded.values[edge]) / scale for edge, value in values.items()}
    wrong = [edge for edge, difference in off.items() if not difference <= ROUNDING[cell.engine.dtype]]
    first = None
    if wrong:
        edge = wrong[0]
        first = f"{problem.graph.edges[edge]} scored {values[edge]:.6g}, the bundle says {recorded.values[edge]:.6g}"
    return replace(
        claim,
        checked=len(values),
        equal=len(values) - len(wrong),
        worst=max(off.values(), default=0.0),
        seed=seed if len(values) < len(recorded) else None,
        first=first,
    )
