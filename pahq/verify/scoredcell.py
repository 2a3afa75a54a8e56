"""A stored cell of a method that scores edges, computed again on this machine."""

from __future__ import annotations

from pathlib import Path

from pahq.cell.files import SCORES
from pahq.cell.run import load
from pahq.cell.scored import scores_of
from pahq.cell.scorefile import chosen, read_scores
from pahq.config.cell import CellConfig
from pahq.engine.problem import cell_problem
from pahq.verify.recordedscores import TOLERANCE, ScoresComparison

ROUNDING = {"float32": 10 * TOLERANCE, "float64": TOLERANCE}  # of the largest score, by dtype


def replay_scores_of(folder: Path, cell: CellConfig, again: CellConfig, device: str) -> ScoresComparison:
    """Compute the scores of ``cell`` anew as ``again`` says and compare edge by edge; its files are known to be whole.

    ``again`` is the same cell, or the same in another dtype.
    """
    model, task = load(again, device)
    problem = cell_problem(again, model, task.search, store="plain")
    recorded, found = read_scores(folder / SCORES, problem.graph, cell), scores_of(again, problem)
    scale = recorded.largest or 1.0
    errors = [abs(a - b) / scale for a, b in zip(recorded.values, found.values, strict=True)]
    worst = max(errors, default=0.0)
    first = None
    if worst > max(ROUNDING[one.engine.dtype] for one in (cell, again)):
        edge = errors.index(worst)
        name = problem.graph.edges[edge]
        first = f"{name} scored {found.values[edge]:.6g} where the cell has {recorded.values[edge]:.6g}"
    ties = len(set(chosen(cell, recorded).indices) ^ set(chosen(cell, found).indices))
    return ScoresComparison(name=cell.id, edges=len(found), worst=worst, circuits=int(ties > 0), ties=ties, first=first)
