"""A cell's scores as a file, and the circuit that follows from them by the cell's size.

``scores.json``: what made them, and every edge's score by name, in the graph's order. Sealed, so that any change is
noticed; ``pahq.circuits.scores`` says what a score is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pahq.cell.result import REPAIR
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph
from pahq.circuits.scores import ScoreAudit, Scores
from pahq.config.cell import CellConfig
from pahq.files.sealed import Damaged, read_sealed, write_sealed


def write_scores(path: Path, scores: Scores, more: Mapping[str, Any] | None = None) -> None:
    """``more``: what else the file says, of where they come from and what they took."""
    made = {"method": scores.method, "metric": scores.metric, "steps": scores.steps, "convention": scores.convention}
    audit = {} if scores.audit is None else {"audit": asdict(scores.audit)}
    write_sealed(path, made | {"ablation": scores.ablation} | audit | dict(more or {}) | {"scores": scores.by_name})


def read_scores(path: Path, graph: Graph, cell: CellConfig) -> Scores:
    """A cell's scores; PahqError if they are no scores of its graph by its method."""
    return scores_from(path, read_sealed(path, way_on=REPAIR), graph, cell)


def scores_from(path: Path, values: Mapping[str, Any], graph: Graph, cell: CellConfig) -> Scores:
    """The same from what the file says."""
    named, method = values.get("scores"), cell.method
    if not isinstance(named, dict) or list(named) != [str(edge) for edge in graph.edges]:
        raise Damaged(path, "it does not name the edges of the cell's graph", REPAIR)
    made = values.get("method"), values.get("metric"), values.get("convention"), values.get("ablation")
    if made != (method.name, cell.task.metric, method.convention, cell.task.ablation):
        raise Damaged(path, "it holds scores of another method or metric than the cell's", REPAIR)
    audit = values.get("audit")
    if (audit is None) != (cell.audit == "none"):
        raise Damaged(
            path, f"the cell has audit={cell.audit}, and its scores have {'none' if audit is None else 'one'}", REPAIR
        )
    try:
        return Scores(
            graph,
            tuple(map(float, named.values())),
            method=method.name,
            metric=cell.task.metric,
            steps=values.get("steps"),
            convention=method.convention,
            ablation=cell.task.ablation,
            audit=None if audit is None else ScoreAudit(**audit),
        )
    except (TypeError, ValueError) as error:
        raise Damaged(path, f"it holds no scores, or no audit of scores ({error})", REPAIR) from None


def chosen(cell: CellConfig, scores: Scores) -> Circuit:
    """The circuit of a cell's size (or from its threshold on), edges that are connected to nothing left out."""
    signed = not cell.method.absolute
    if cell.select == "threshold":
        return scores.threshold(cell.search_threshold, signed=signed)
    assert cell.size is not None
    return getattr(scores, cell.select)(cell.size, signed=signed)  # type: ignore[no-any-return]
