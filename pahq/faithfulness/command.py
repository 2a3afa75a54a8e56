"""``pahq faithfulness``: a faithfulness.json beside the result.json of every cell, and a table a task."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pahq.cell.files import SCORES, cell_folder, is_done, read_result
from pahq.cell.journal import read_journal
from pahq.cell.provenance import versions
from pahq.cell.result import Result
from pahq.cell.run import load
from pahq.cell.scorefile import read_scores
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig
from pahq.errors import PahqError, nearest
from pahq.faithfulness.curve import ranking
from pahq.faithfulness.measure import measure, measure_curve
from pahq.faithfulness.rows import SCHEMA, merge_rows, row
from pahq.faithfulness.settings import Settings
from pahq.faithfulness.values import Values
from pahq.files.frames import analysis_folder
from pahq.files.sealed import read_sealed, write_sealed

LOG = logging.getLogger(__name__)
FILE = "faithfulness.json"


@dataclass(frozen=True)
class Judged:
    """A finished cell: where it lies, what it is, the circuit that it found."""

    folder: Path
    config: CellConfig
    digest: str  # of its model
    circuit: Circuit

    @classmethod
    def read(cls, folder: Path) -> Judged:
        """A cell whose files have been checked."""
        result = read_result(folder)
        return cls(folder, result.config, result.model_digest, Circuit.read(folder / "circuit.json"))

    def identity(self, settings: Settings) -> dict[str, Any]:
        """What a faithfulness.json must have been made from to be this cell's."""
        edges = hashlib.sha256("\n".join(self.circuit.edges).encode()).hexdigest()
        key = {"schema": SCHEMA, "id": self.config.id, "circuit": edges, "model": self.digest}
        return key | {"pahq": versions()["pahq"], "settings": asdict(settings)}


def judge_cells(
    folders: Sequence[Path], settings: Settings, *, device: str = "cpu", progress: bool = True
) -> Iterator[tuple[Judged, Mapping[str, Any]]]:
    """Yield every cell with the contents of its faithfulness.json, made where it is missing or of other settings.

    Cells of one model and one prompt set share them, and cells that found the same circuit share its numbers.
    """
    grounds: dict[str, list[Path]] = {}  # folders alone: the circuits of thousands of cells need not be in memory
    for folder in folders:
        grounds.setdefault(_ground(check_cell(folder)), []).append(folder)
    with tqdm(total=len(folders), unit="cell", disable=not progress or None, leave=False) as bar:
        for group in grounds.values():
            values: Values | None = None
            known: dict[bytes, dict[str, Any]] = {}
            for cell in map(Judged.read, group):
                bar.set_description(cell.config.id.rsplit("-", 1)[0])
                found = _made_before(cell, settings)
                if found is None:
                    values = values or _values(cell, device)
                    found = cell.identity(settings) | _judge(values, cell, settings, known)
                    write_sealed(cell.folder / FILE, found)
                bar.update()
                yield cell, found


def _ground(result: Result) -> str:
    """What cells have in common that share a model, prompts and values of circuits."""
    config = result.config
    task = config.task.model_dump() | {"metric": None, "name": None}  # the search's own affairs
    same = [task, config.model.model_dump(), result.model_digest, config.seed, config.engine.dtype]
    return json.dumps([*same, config.method.direct_edges])


def _made_before(cell: Judged, settings: Settings) -> dict[str, Any] | None:
    if not (cell.folder / FILE).exists():
        return None
    found = read_sealed(cell.folder / FILE)
    return found if found.items() >= cell.identity(settings).items() else None


def _values(cell: Judged, device: str) -> Values:
    model, task = load(cell.config, device)
    if model.digest != cell.digest:
        raise PahqError(f"{cell.folder} was found on another model: its digest is {cell.digest}, here {model.digest}")
    return Values.build(model, task, cell.config)


def _judge(values: Values, cell: Judged, settings: Settings, known: dict[bytes, dict[str, Any]]) -> dict[str, Any]:
    mask = np.array(cell.circuit.present)
    if mask.tobytes() not in known:
        known[mask.tobytes()] = measure(values, mask, settings)
    ranked = ranking(_effects(cell), len(mask), absolute=cell.config.method.absolute)
    return known[mask.tobytes()] | {"curve": measure_curve(values, ranked)}


def _effects(cell: Judged) -> dict[int, float]:
    """By edge: the effect that it had when it was tested, or its score."""
    graph = cell.circuit.graph
    if cell.config.method.scores:
        return dict(enumerate(read_scores(cell.folder / SCORES, graph, cell.config).values))
    tests = read_journal(cell.folder / "decisions.jsonl")
    return {graph.index_of(line.edge): line.after - line.before for line in tests}


def judge_experiment(
    root: Path,
    experiment: str,
    ids: Sequence[str],
    settings: Settings,
    *,
    others: Sequence[str] = (),
    device: str,
    progress: bool = True,
) -> list[Path]:
    """Judge an experiment's finished cells; write ``<root>/analysis/<experiment>/faithfulness/<task>.parquet``.

    ``others``: its cells that are not judged now; rows of theirs that are there stay. Unfinished cells are warned of
    and left out. Raises PahqError if none is finished.
    """
    done = [cell_id for cell_id in dict.fromkeys(ids) if is_done(cell_folder(root, cell_id))]
    if not done:
        raise PahqError(f"none of the {len(ids)} cells of the experiment {experiment!r} is finished below {root}")
    if len(done) < len(set(ids)):
        LOG.warning("%d of %d cells are not finished and left out", len(set(ids)) - len(done), len(set(ids)))
    folders = [cell_folder(root, cell_id) for cell_id in done]
    folder = analysis_folder(root, experiment) / "faithfulness"
    rows: dict[str, list[dict[str, Any]]] = {task: [] for task in map(_task, done)}
    for cell, found in judge_cells(folders, settings, device=device, progress=progress):
        rows[cell.folder.parent.name].append(row(found))
    return merge_rows(folder, rows, [one for one in others if _task(one) in rows])


def _task(cell_id: str) -> str:
    return cell_id.split("/")[0]


def judge_what_is_asked(
    what: Sequence[str],
    settings: Settings,
    ids: Callable[[str], Sequence[str]],
    *,
    root: Path,
    task: str | None = None,
    cells: Sequence[str] = (),
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[Path]:
    """Judge folders of cells, or an experiment's cells; yield the files written. ``ids``: an experiment's cells.

    ``task``, ``cells``: of an experiment these alone.
    """
    folders = [Path(name) for name in what if (Path(name) / "result.json").exists()]
    if folders and len(folders) < len(what):
        others = [name for name in what if not (Path(name) / "result.json").exists()]
        raise PahqError(f"{others[0]} holds no finished cell (no result.json)")
    if folders and (task is not None or cells):
        option = "--cells" if task is None else "--task"
        raise PahqError(
            f"{option} chooses among an experiment's cells, and {what[0]} is a cell's folder; leave one out"
        )
    if folders:
        for cell, _ in judge_cells(folders, settings, device=device, progress=progress):
            yield cell.folder / FILE
        return
    if len(what) > 1:
        raise PahqError(f"one experiment or folders of finished cells are expected, not {' '.join(what)}")
    if "/" in what[0]:
        raise PahqError(f"{what[0]} is no folder of a finished cell (no result.json), and an experiment has no slash")
    every = dict.fromkeys(ids(what[0]))
    if strange := [cell_id for cell_id in cells if cell_id not in every]:
        near = nearest(strange[0], every)
        raise PahqError(f"none of the {len(every)} cells of the experiment {what[0]!r} is {', '.join(strange)}{near}")
    chosen = [cell_id for cell_id in cells or every if task in (None, _task(cell_id))]
    if not chosen:
        known = ", ".join(dict.fromkeys(map(_task, cells or every)))
        raise PahqError(f"the experiment {what[0]!r} has no task {task!r}; known: {known}")
    others = list(every.keys() - chosen)
    yield from judge_experiment(root, what[0], chosen, settings, others=others, device=device, progress=progress)
