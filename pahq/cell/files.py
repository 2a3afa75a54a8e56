"""A cell's files: addresses, one writer, and a result that is whole or not there.

``results/cells/<id>/``: config.json (first), provenance.json, decisions.jsonl (a search's journal) or scores.json (of a
method that scores edges), circuit.json, result.json (last; its presence means done).
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pahq.cell.result import REPAIR, SCHEMA, Result
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.sealed import Damaged, digests, read_sealed, write_sealed
from pahq.files.text import loads, read_json
from pahq.sentences import one_sentence

FILES = ("config.json", "provenance.json", "decisions.jsonl", "circuit.json")  # of a cell, beside its result
SCORES = "scores.json"  # in place of decisions.jsonl, where edges are scored


@dataclass(frozen=True)
class SearchResult:
    """A finished cell: its folder and what its result.json says."""

    folder: Path
    result: Result

    @property
    def id(self) -> str:
        return self.result.id


def files_of(cell: CellConfig) -> tuple[str, ...]:
    """Names of a finished cell's files, beside its result."""
    return tuple(SCORES if cell.method.scores and name == "decisions.jsonl" else name for name in FILES)


def cell_folder(root: str | Path, cell_id: str) -> Path:
    return Path(root) / "cells" / cell_id


def read_result(folder: str | Path) -> Result:
    """What the result.json of a finished cell says.

    Raises PahqError if the cell is unfinished or the file is not a result, naming the field that is not as it should
    be, and Damaged if a byte of it has changed.
    """
    path = Path(folder) / "result.json"
    try:
        values = read_sealed(path, way_on=REPAIR)
    except Damaged:
        if _schema(path) not in (None, SCHEMA):
            raise _other_schema(path) from None
        raise
    if values.get("schema") != SCHEMA:
        raise _other_schema(path)
    return Result.from_json(values, path)


def _schema(path: Path) -> object:
    try:
        values = loads(path.read_bytes())
    except ValueError:
        return None
    return values.get("schema") if isinstance(values, dict) else None


def _other_schema(path: Path) -> PahqError:
    return PahqError(f"{path} is not a result of schema {SCHEMA}, which this version writes; {REPAIR}")


def write_result(folder: Path, result: Result) -> Result:
    """Finish a cell: its result, with the digests of the other files, sealed. Returns what was written."""
    whole = result.model_copy(update={"files": digests(folder, files_of(result.config))})
    write_sealed(folder / "result.json", whole.to_json())
    return whole


@contextmanager
def sole_writer(folder: Path, *, lock: bool = True) -> Iterator[None]:
    """Hold a cell's folder for this process; PahqError if another process is computing the cell.

    Also where the file system has no locks; without ``lock`` it needs none, and nothing holds another process off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not lock:
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter where a file system locks byte by byte
            raise PahqError(f"another process is computing the cell in {folder}; wait for it or stop it") from None
        except OSError as error:
            raise PahqError(
                f"the file system of {folder} cannot lock files ({error.strerror}), so two processes might compute the "
                "cell at once: take a run.root on another disk, or run.lock=false (pahq stability: --no-lock) where no "
                "other process has the same root"
            ) from None
        yield  # the kernel lets go when the file closes, be it by a kill


def is_done(folder: Path) -> bool:
    """Whether the cell in ``folder`` has a result. Raises PahqError, as ``read_result``, if that is not whole."""
    if not (folder / "result.json").exists():
        return False
    read_result(folder)
    return True


def read_cell(path: Path) -> CellConfig:
    """A stored cell's configuration; PahqError in one sentence if the file is no such thing."""
    values = read_json(path)
    try:
        return CellConfig.model_validate(values)
    except ValidationError as error:
        raise PahqError(f"{path} is no cell's configuration: {one_sentence(error, CellConfig)}") from None
