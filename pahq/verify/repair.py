"""``pahq repair NAME | FOLDER ...``: finished cells whose files are damaged are computed anew, and only those."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from pahq.cell.files import cell_folder, read_cell, read_result
from pahq.cell.provenance import check_weights
from pahq.cell.run import run_cell
from pahq.cell.story import check_cell, config_of, damaged_beside, move_aside
from pahq.config.arguments import Arguments
from pahq.config.cell import CellConfig, RunConfig
from pahq.errors import PahqError
from pahq.files.sealed import Damaged
from pahq.model.sources.find import check_device
from pahq.sentences import one_sentence

DESCRIPTION = (
    "check every file of finished cells; say what is damaged, set it aside, and compute those cells anew and no others"
)
Composed = Callable[[str], Mapping[str, CellConfig]]


def main(argv: Sequence[str], composed: Composed) -> int:
    """``composed`` gives the configurations of an experiment by id. Exit status 0 if all is whole at the end, else 1.

    One line for each file that was found damaged and each cell that was computed anew, and a last one with counts.
    """
    parser = Arguments(prog="pahq repair", description=DESCRIPTION)
    parser.add_argument("names", nargs="+", metavar="NAME", help="an experiment, or folders of finished cells")
    parser.add_argument("--root", default="results", metavar="FOLDER", help="of an experiment's cells")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-gb", type=float, help="ceiling of a search, as run.memory_gb")
    parser.add_argument("--no-lock", dest="lock", action="store_false", help="as run.lock=false")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no bar")
    given = parser.parse_args(argv)
    settings = {key: getattr(given, key) for key in ("root", "device", "threads", "memory_gb", "lock", "progress")}
    try:
        run = RunConfig(**settings, repair=True)
    except ValidationError as error:
        raise PahqError(one_sentence(error, RunConfig)) from None
    check_device(run.device)
    asked = [one for name in given.names for one in _asked(name, run, composed)]
    finished = {folder: (cell, where) for folder, cell, where in asked if (folder / "result.json").exists()}
    if not finished:
        raise PahqError(f"none of {len(asked)} cells is finished below {run.root}: there is nothing to repair")
    counts = {"whole": 0, "repaired": 0, "damaged": 0}
    for folder, (cell, where) in finished.items():
        counts[_repaired(folder, cell, where)] += 1
    unfinished = len({folder for folder, *_ in asked}) - len(finished)
    told = f"{counts['whole']} of {len(finished)} finished cells were whole, {counts['repaired']} repaired"
    told += f", {counts['damaged']} still damaged" if counts["damaged"] else ""
    sys.stdout.write(f"{told}; {unfinished} are not finished\n" if unfinished else f"{told}\n")
    return 1 if counts["damaged"] else 0


def _asked(name: str, run: RunConfig, composed: Composed) -> list[tuple[Path, CellConfig | None, RunConfig]]:
    """Folders with what they should hold, where that is known, and how to compute it."""
    if "/" not in name and not Path(name, "config.json").exists():
        there = run.model_copy(update={"experiment": name})
        return [(cell_folder(run.root, cell_id), cell, there) for cell_id, cell in composed(name).items()]
    folder = Path(name).resolve()
    if not (folder / "result.json").exists():
        raise PahqError(f"{name} holds no finished cell (no result.json)")
    if folder.parents[1].name != "cells":
        raise PahqError(f"{name} is not where cells lie: below the folder cells/TASK of a root")
    return [(folder, None, run.model_copy(update={"root": str(folder.parents[2])}))]


def _repaired(folder: Path, cell: CellConfig | None, run: RunConfig) -> str:
    """Look at a finished cell, and repair it if need be: ``whole``, ``repaired`` or (still) ``damaged``."""
    try:
        cell = cell or _config(folder)
        fault = _fault(folder, cell)
        if fault is None:
            check_weights(folder, cell, check_cell(folder, cell))
        else:
            _say(f"{cell.id}: {fault}")
            result = run_cell(cell, run)
            _say(f"{result.id}: computed anew, {result.values['tests']} tests, {result.values['kept']} kept")
        beside = damaged_beside(folder)
        for damage in beside:
            place = move_aside(folder, [damage.path.relative_to(folder).as_posix()])
            _say(f"{cell.id}: {damage.path} is damaged: {damage.what}; {damage.way_on} (moved to {place})")
        return "repaired" if fault or beside else "whole"
    except PahqError as error:
        sys.stderr.write(f"pahq: error: {error}\n")
        return "damaged"


def _fault(folder: Path, cell: CellConfig) -> str | None:
    try:
        check_cell(folder, cell)
    except Damaged as damage:
        return f"{damage.path} is damaged: {damage.what}"
    except PahqError as error:
        return str(error)
    return None


def _config(folder: Path) -> CellConfig:
    """What a folder should hold by its own files: as the result names it, or as config.json does.

    Raises PahqError if neither is of the folder's own name.
    """
    own = "/".join(folder.parts[-2:])
    said: tuple[Callable[[], CellConfig], ...] = (
        lambda: config_of(folder, read_result(folder)),
        lambda: read_cell(folder / "config.json"),
    )
    for read in said:
        with suppress(PahqError):
            cell = read()
            if cell.id == own:
                return cell
    raise PahqError(
        f"{folder} is damaged, its configuration too, so nothing there says what to compute; type the words of its "
        "search once more, with run.repair=true"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
