"""Finished cells whose files are damaged are computed anew, and only those."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pahq.cell.files import cell_folder, read_cell, read_result
from pahq.cell.provenance import check_weights
from pahq.cell.run import run_cell
from pahq.cell.story import check_cell, damaged_beside, move_aside
from pahq.config.cell import CellConfig, RunConfig
from pahq.errors import PahqError
from pahq.experiments.jobs import unmark
from pahq.files.sealed import Damaged
from pahq.model.sources.find import check_device

Composed = Callable[[str], Mapping[str, CellConfig]]
State = Literal["whole", "repaired", "damaged"]


@dataclass(frozen=True)
class Looked:
    """A finished cell: how it is now, and what was said of it on the way."""

    folder: Path
    state: State
    said: tuple[str, ...]


@dataclass(frozen=True)
class Repairs:
    """Every finished cell that was looked at, and how many of those asked for are not finished."""

    cells: tuple[Looked, ...]
    unfinished: int

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.cells)

    def __str__(self) -> str:
        told = (
            f"{self.count('whole')} of {len(self.cells)} finished cells were whole, {self.count('repaired')} repaired"
        )
        told += f", {self.count('damaged')} still damaged" if self.count("damaged") else ""
        return f"{told}; {self.unfinished} are not finished" if self.unfinished else told

    def to_json(self) -> dict[str, Any]:
        states: tuple[State, ...] = get_args(State)
        cells = [{"folder": str(one.folder), "state": one.state, "said": list(one.said)} for one in self.cells]
        return {state: self.count(state) for state in states} | {"unfinished": self.unfinished, "cells": cells}


def repair(names: Sequence[str], run: RunConfig, composed: Composed, say: Callable[[str], None]) -> Repairs:
    """Check every file of the finished cells that are named, and compute the damaged ones anew as ``run`` says.

    ``names``: an experiment, of which ``composed`` gives the configurations by id, or folders of cells. ``say`` is told
    of each file that was found damaged and of each cell that was computed anew.
    """
    check_device(run.device)
    asked = [one for name in names for one in _asked(name, run, composed)]
    finished = {folder: (cell, where) for folder, cell, where in asked if (folder / "result.json").exists()}
    if not finished:
        raise PahqError(f"none of {len(asked)} cells is finished below {run.root}: there is nothing to repair")
    looked = []
    for folder, (cell, where) in finished.items():
        said: list[str] = []

        def noted(line: str, said: list[str] = said) -> None:
            said.append(line)
            say(line)

        try:
            state = _repaired(folder, cell, where, noted)
        except PahqError as error:
            sys.stderr.write(f"pahq: error: {error}\n")
            said.append(str(error))
            state = "damaged"
        looked.append(Looked(folder, state, tuple(said)))
    return Repairs(tuple(looked), len({folder for folder, *_ in asked}) - len(finished))


def _asked(name: str, run: RunConfig, composed: Composed) -> list[tuple[Path, CellConfig | None, RunConfig]]:
    """Folders with what they should hold, where that is known, and how to compute it."""
    if "/" not in name and not Path(name, "config.json").exists():
        there = run.model_copy(update={"experiment": name})
        return [(cell_folder(run.root, cell_id), cell, there) for cell_id, cell in composed(name).items()]
    folder = Path(name).resolve()
    if not (folder / "result.json").exists():
        raise PahqError(f"{name} holds no finished cell (no result.json)")
    if len(folder.parents) < 3 or folder.parents[1].name != "cells":
        raise PahqError(f"{name} is not where cells lie: below the folder cells/TASK of a root")
    return [(folder, None, run.model_copy(update={"root": str(folder.parents[2])}))]


def _repaired(folder: Path, cell: CellConfig | None, run: RunConfig, say: Callable[[str], None]) -> State:
    """Look at a finished cell, and repair it if need be; PahqError for what cannot be."""
    cell = cell or _config(folder)
    fault = _fault(folder, cell)
    if fault is None:
        check_weights(folder, cell, check_cell(folder, cell))
    else:
        say(f"{cell.id}: {fault}")
        result = run_cell(cell, run).result
        say(f"{result.id}: computed anew, {result.tests} tests, {result.kept} kept")
    beside = damaged_beside(folder)
    for damage in beside:
        place = move_aside(folder, [damage.path.relative_to(folder).as_posix()])
        say(f"{cell.id}: {damage.path} is damaged: {damage.what}; {damage.way_on} (moved to {place})")
    if any(damage.path != folder / "faithfulness.json" for damage in beside):
        unmark(folder)
    return "repaired" if fault or beside else "whole"


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
        lambda: read_result(folder).config,
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
