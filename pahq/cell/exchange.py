"""A cell's circuit in the formats of others, and a foreign one judged like ours."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pahq.cell.files import SCORES
from pahq.cell.journal import read_journal
from pahq.cell.outcome import judge
from pahq.cell.result import Fresh
from pahq.cell.run import load
from pahq.cell.scorefile import read_scores
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.foreign import from_eap_ig, rows, to_eap_ig, to_networkx
from pahq.circuits.scores import Scores
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.text import dump_json, read_json, write_atomic
from pahq.model.sources.find import open_model

FORMATS = ("eap-ig", "mib", "networkx", "csv")


def export(folder: Path, form: str) -> str:
    """A finished cell's circuit, with every edge's score (of a search: the effect when it was tested, else 0), as text.

    Raises PahqError for an unfinished or damaged cell and for a graph that the format cannot hold.
    """
    cell = check_cell(folder).config
    circuit = Circuit.read(folder / "circuit.json")
    values = _values(folder, cell, circuit)
    if form == "networkx":
        return dump_json(to_networkx(circuit, values))
    if form == "csv":
        out, table = io.StringIO(), list(rows(circuit, values))
        writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        return out.getvalue()
    config = open_model(cell.model.source, cell.model.revision).config
    return dump_json(to_eap_ig(circuit, values, config.d_model))


def _values(folder: Path, cell: CellConfig, circuit: Circuit) -> tuple[float, ...]:
    if cell.method.scores:
        return read_scores(folder / SCORES, circuit.graph, cell).values
    effects = {line.edge: line.after - line.before for line in read_journal(folder / "decisions.jsonl")}
    return tuple(effects.get(str(edge), 0.0) for edge in circuit.graph.edges)


def mib_path(folder: Path, out: Path, name: str | None = None) -> Path:
    """Where MIB looks for a cell's circuit in the folder of a submission; ``name``: TASK_MODEL, else the cell's own."""
    config = check_cell(folder).config
    name = name or f"{config.task.kind}_{config.model.name}"
    if "/" in name or name.startswith("."):
        raise PahqError(f"pahq export: --name {name!r} cannot be the name of a folder")
    return out / name / "importances.json"


@dataclass(frozen=True)
class Imported:
    """A foreign circuit and how good it is on fresh prompts of ``task``."""

    path: Path
    task: str
    circuit: Circuit
    fresh: Fresh

    def __str__(self) -> str:
        fresh = self.fresh
        faithful = "undefined" if fresh.faithfulness is None else f"{fresh.faithfulness:.3f}"
        return (
            f"{self.path}: {len(self.circuit)} of {len(self.circuit.graph.edges)} edges; on fresh prompts of "
            f"{self.task} KL {fresh.kl:.4g}, {fresh.metric} {fresh.value:.4g} (whole model {fresh.clean:.4g}, no edge "
            f"{fresh.corrupted:.4g}), faithfulness {faithful}"
        )

    def to_json(self) -> dict[str, Any]:
        counts = {"kept": len(self.circuit), "edges": len(self.circuit.graph.edges)}
        return {"file": str(self.path), "task": self.task, **counts, "fresh": self.fresh.model_dump(mode="json")}


def imported(path: Path, cell: CellConfig, out: Path | None, device: str, size: float | None = None) -> Imported:
    """Judge a foreign circuit on a cell's fresh prompts; ``out``: where to write it as a circuit.json of ours.

    ``size``: choose edges by the file's scores instead. Raises PahqError for a file that has chosen none, or all.
    """
    values: Any = read_json(path)
    model, task = load(cell, device)
    foreign = from_eap_ig(values, kv_heads=model.config.kv_heads, coupled=model.config.shape().coupled)
    circuit = foreign.circuit
    if size is None and len(circuit) in (0, len(circuit.present)):
        which = "no edge" if len(circuit) == 0 else "every edge"
        raise PahqError(f"{path} has {which} in its graph, so nothing is chosen; --size chooses by its scores")
    if size is not None:
        scores = Scores(
            circuit.graph, foreign.values, method="imported", metric=cell.task.metric, ablation=cell.task.ablation
        )
        circuit = scores.top(size)
    shape = model.config.shape(split_embed=False)
    if circuit.graph.shape != shape:
        raise PahqError(
            f"{path} is of a model of another shape ({circuit.graph.shape}) than {cell.model.name} ({shape})"
        )
    alike = cell.model_copy(
        update={
            "method": cell.method.model_copy(update={"direct_edges": False}),
            "task": cell.task.model_copy(update={"split_embed": False}),
        }
    )
    fresh = judge(model, task, circuit, alike)
    if out is not None:
        write_atomic(out, dump_json(circuit.to_json(ablation=cell.task.ablation)))
    return Imported(path, cell.task.name, circuit, fresh)
