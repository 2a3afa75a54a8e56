"""A cell's files: addresses, atomic writes, and the journal that survives a kill.

``results/cells/<id>/``: config.json (first), provenance.json, decisions.jsonl (journal), circuit.json, result.json
(last; its presence means done).
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from pahq.errors import PahqError
from pahq.files.sealed import Damaged, digests, read_sealed, write_sealed
from pahq.files.text import write_atomic

SCHEMA = 2
FILES = ("config.json", "provenance.json", "decisions.jsonl", "circuit.json")  # of a cell, beside its result
REPAIR = "run.repair=true (or `pahq repair`) sets it aside and computes the cell anew"


@dataclass(frozen=True)
class SearchResult:
    """A finished cell: its folder and the contents of its result.json."""

    folder: Path
    values: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.values["id"])


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One decision as the journal stores it; ``edge`` by name, ``seconds`` spent on its test.

    ``audited`` and ``low`` (losses before and after in low precision) stay unsaid without an audit, and ``drift`` of
    carried losses where it has not grown. ``rough``: the engine's own losses where float64 decided.
    """

    i: int
    edge: str
    before: float
    after: float
    removed: bool
    seconds: float
    audited: bool = False
    low: tuple[float, float] | None = None
    drift: float | None = None
    rough: tuple[float, float] | None = None


def cell_folder(root: str | Path, cell_id: str) -> Path:
    return Path(root) / "cells" / cell_id


def read_result(folder: Path) -> dict[str, Any]:
    """The result.json of a finished cell.

    Raises PahqError if the cell is unfinished or the file is not a result, and Damaged if a byte of it has changed.
    """
    path = folder / "result.json"
    try:
        values = read_sealed(path, way_on=REPAIR)
    except Damaged:
        if _schema(path) not in (None, SCHEMA):
            raise _other_schema(path) from None
        raise
    if values.get("schema") != SCHEMA or not isinstance(values.get("id"), str):
        raise _other_schema(path)
    return values


def _schema(path: Path) -> object:
    try:
        values = json.loads(path.read_bytes())
    except ValueError:
        return None
    return values.get("schema") if isinstance(values, dict) else None


def _other_schema(path: Path) -> PahqError:
    return PahqError(f"{path} is not a result of schema {SCHEMA}, which this version writes; {REPAIR}")


def write_result(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Finish a cell: its result, with the digests of the other files, sealed. Returns what was written."""
    whole = {**values, "files": digests(folder, FILES)}
    write_sealed(folder / "result.json", whole)
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


class Journal:
    """Appends decisions, one JSON line each, flushed as they fall."""

    def __init__(self, path: Path, kept: Sequence[JournalLine]) -> None:
        """Go on after the lines ``kept``; anything behind them (a half-written line) is cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(_dump(line) for line in kept))
        self._file: TextIO = path.open("a")

    def append(self, line: JournalLine) -> None:
        self._file.write(_dump(line))
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


_SELDOM = ("audited", "low", "drift", "rough")  # unsaid where there is nothing to say


def _dump(line: JournalLine) -> str:
    values = {name: getattr(line, name) for name in JournalLine.__slots__}
    values = {name: value for name, value in values.items() if value or name not in _SELDOM}
    return json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n"


def _well_typed(line: JournalLine) -> bool:
    pairs, drift = (line.low or (), line.rough or ()), () if line.drift is None else (line.drift,)
    numbers = (line.before, line.after, line.seconds, *pairs[0], *pairs[1], *drift)
    plain = all(type(number) in (int, float) for number in numbers) and all(len(pair) in (0, 2) for pair in pairs)
    return plain and isinstance(line.edge, str) and isinstance(line.removed, bool) and isinstance(line.audited, bool)


def read_journal(path: Path) -> list[JournalLine]:
    """The journal's whole lines in order; reading stops at the first line that is cut or out of sequence."""
    lines: list[JournalLine] = []
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return lines
    for raw in content.split(b"\n")[:-1]:  # what follows the last line end was cut in mid-write
        try:
            values = json.loads(raw)
            for name in ("low", "rough"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            line = JournalLine(**values)
        except (ValueError, TypeError, AttributeError):
            break
        if line.i != len(lines) or not _well_typed(line):
            break
        lines.append(line)
    return lines
