"""``pahq export``, ``pahq import``: a cell's circuit in the formats of others, and a foreign one judged like ours."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pahq.cell.files import SCORES
from pahq.cell.journal import read_journal
from pahq.cell.outcome import judge
from pahq.cell.run import load
from pahq.cell.scorefile import read_scores
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.foreign import from_eap_ig, rows, to_eap_ig, to_networkx
from pahq.circuits.scores import Scores
from pahq.config.arguments import Arguments
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.text import dump_json, read_json, write_atomic
from pahq.model.sources.find import check_device, open_model

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


def main_export(argv: Sequence[str]) -> int:
    """``CELL --format NAME [--out PATH]``. 0, or 2 on bad input."""
    parser = Arguments(prog="pahq export", description="a finished cell's circuit and scores in another format")
    parser.add_argument("cell", type=Path, metavar="CELL", help="a finished cell's folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="mib is eap-ig's file in MIB's folders")
    parser.add_argument("--out", type=Path, help="a file; of mib the folder of a submission. Default: standard output")
    parser.add_argument("--name", help="of mib: TASK_MODEL, as ioi_gpt2; by default the cell's kind of task and model")
    try:
        given = parser.parse_args(argv)
        if given.name is not None and given.format != "mib":
            raise PahqError("pahq export: --name is for --format mib")
        if given.format == "mib" and given.out is None:
            raise PahqError("pahq export --format mib writes a folder: say --out FOLDER")
        text, path = export(given.cell, given.format), given.out
        if given.format == "mib":
            config = check_cell(given.cell).config
            name = given.name or f"{config.task.kind}_{config.model.name}"
            if "/" in name or name.startswith("."):
                raise PahqError(f"pahq export: --name {name!r} cannot be the name of a folder")
            path = given.out / name / "importances.json"
        if path is not None and path.is_dir():
            raise PahqError(f"--out {path} is a folder; name a file in it")
        if path is None:
            sys.stdout.write(text)
        else:
            write_atomic(path, text)
            sys.stdout.write(f"{path}\n")
    except PahqError as error:
        sys.stderr.write(f"pahq: error: {error}\n")
        return 2
    return 0


def main_import(argv: Sequence[str]) -> int:
    """``FILE --like CELL [--out FILE]``. 0, or 2 on bad input."""
    parser = Arguments(prog="pahq import", description="a graph of EAP-IG or MIB as a circuit, judged like one of ours")
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON, as EAP-IG's code and MIB's track write it")
    parser.add_argument("--like", type=Path, required=True, metavar="CELL", help="whose task and model it is of")
    parser.add_argument("--size", type=_size, help="choose so many edges (50), or a share (0.02), by the file's scores")
    parser.add_argument("--out", type=Path, help="where to write it as a circuit.json of ours")
    parser.add_argument("--device", default="cpu")
    try:
        given = parser.parse_args(argv)
        check_device(given.device)
        cell = check_cell(given.like).config
        if given.out is not None and given.out.is_dir():
            raise PahqError(f"--out {given.out} is a folder; name a file in it")
        sys.stdout.write(f"{imported(given.file, cell, given.out, given.device, given.size)}\n")
    except PahqError as error:
        sys.stderr.write(f"pahq: error: {error}\n")
        return 2
    return 0


def _size(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def imported(path: Path, cell: CellConfig, out: Path | None, device: str, size: float | None = None) -> str:
    """Judge a foreign circuit on a cell's fresh prompts; one line that says how good it is.

    ``size``: choose edges by the file's scores instead. Raises PahqError for a file that has chosen none, or all.
    """
    values: Any = read_json(path)
    model, task = load(cell, device)
    foreign = from_eap_ig(values, kv_heads=model.config.kv_heads)
    circuit = foreign.circuit
    if size is None and len(circuit) in (0, len(circuit.present)):
        which = "no edge" if len(circuit) == 0 else "every edge"
        raise PahqError(f"{path} has {which} in its graph, so nothing is chosen; --size chooses by its scores")
    if size is not None:
        scores = Scores(circuit.graph, foreign.values, method="imported", metric=cell.task.metric)
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
    faithful = "undefined" if fresh.faithfulness is None else f"{fresh.faithfulness:.3f}"
    return (
        f"{path}: {len(circuit)} of {len(circuit.graph.edges)} edges; on fresh prompts of {cell.task.name} KL "
        f"{fresh.kl:.4g}, {fresh.metric} {fresh.value:.4g} (whole model {fresh.clean:.4g}, no edge "
        f"{fresh.corrupted:.4g}), faithfulness {faithful}"
    )
