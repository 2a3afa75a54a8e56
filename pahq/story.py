"""The files of a cell tell one story: each decision follows from its losses, and the circuit from the decisions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pahq.circuit import Circuit
from pahq.config import CellConfig
from pahq.errors import PahqError
from pahq.files.sealed import Damaged, check_digests, digests
from pahq.results import FILES, REPAIR, JournalLine, read_journal, read_result
from pahq.search.acdc import is_removed
from pahq.sentences import one_sentence

GO_ON = "run.repair=true goes on from the line before it"
_DERIVED = ("faithfulness.json", "stability.json", "inclusion.parquet", "stability")  # made from a finished cell
_GROUND = ("config.json", "provenance.json", "decisions.jsonl")  # what a search goes on from


def fault_of(cell: CellConfig, lines: Sequence[JournalLine]) -> tuple[int, str] | None:
    """The first line that ACDC's rule or the line before contradicts, with what is wrong; None if there is none.

    A test's loss before is what the test before it left, but where a change of focus, or an audit's other network, has
    it measured again.
    """
    chained = cell.method.focus == "none" and cell.audit != "band"
    left: float | None = None
    for line in lines:
        where = f"line {line.i + 1} ({line.edge})"
        removed = is_removed(line.after - line.before, cell.threshold, absolute=cell.method.absolute)
        if removed != line.removed:
            says = "removed" if line.removed else "kept"
            effect = f"an effect of {line.after - line.before:.6g} at threshold {cell.threshold:g}"
            return line.i, f"{where} says {says}, and {effect} says the opposite"
        before, after = line.rough or (line.before, line.after)
        if chained and left is not None and before != left:
            return line.i, f"{where} begins at a loss of {before:.9g} where the line before left {left:.9g}"
        left = after if line.removed else before
    return None


def sound_lines(cell: CellConfig, path: Path, *, repair: bool = False) -> list[JournalLine]:
    """A journal's lines, once they are known to follow from each other.

    Raises Damaged at the first line that does not; with ``repair`` the lines before it are returned.
    """
    lines = read_journal(path)
    fault = fault_of(cell, lines)
    if fault is None:
        return lines
    if repair:
        return lines[: fault[0]]
    raise Damaged(path, fault[1], GO_ON)


def check_cell(folder: Path, cell: CellConfig | None = None) -> dict[str, Any]:
    """A finished cell's result, once all its files have been found to be those it finished with.

    Raises PahqError for an unfinished cell, and Damaged, naming the file, where any byte of one has changed, where the
    decisions contradict themselves or the circuit contradicts them.
    """
    result = read_result(folder)
    written = result.get("files")
    if not isinstance(written, dict) or not set(FILES) <= set(written):
        raise Damaged(folder / "result.json", "it does not name the digests of the cell's other files", REPAIR)
    check_digests(folder, written, way_on=REPAIR)
    cell = cell or _cell_of(folder, result)
    if result["id"] != cell.id:
        raise PahqError(f"{folder} holds the cell {result['id']!r}, not {cell.id!r}; move it to where it belongs")
    lines = read_journal(folder / "decisions.jsonl")
    fault = fault_of(cell, lines)
    if fault is not None:
        raise Damaged(folder / "decisions.jsonl", fault[1], REPAIR)
    _check_circuit(folder, result, lines, Circuit.read(folder / "circuit.json"))
    return result


def _cell_of(folder: Path, result: Mapping[str, Any]) -> CellConfig:
    try:
        return CellConfig.model_validate(result.get("config"))
    except ValidationError as error:
        sentence = one_sentence(error, CellConfig)
        raise PahqError(f"{folder / 'result.json'} has a configuration of another version: {sentence}") from None


def _check_circuit(folder: Path, result: Mapping[str, Any], lines: Sequence[JournalLine], circuit: Circuit) -> None:
    kept = {line.edge for line in lines if not line.removed}
    if kept != set(circuit.edges):
        other = min(kept ^ set(circuit.edges))
        says = "kept" if other in kept else "did not keep"
        raise Damaged(folder / "circuit.json", f"decisions.jsonl {says} {other}", REPAIR)
    counted = {"tests": len(lines), "kept": len(circuit)}
    for name, count in counted.items():
        if result.get(name) != count:
            raise Damaged(
                folder / "result.json", f"it counts {result.get(name)} {name}, the other files {count}", REPAIR
            )


def set_aside(folder: Path) -> Path:
    """Move a damaged cell's files into a folder below it, and return that.

    A journal that is whole by its digest stays, with what it rests on: the search then goes on from its end. If it does
    not, what was made from the cell goes too.
    """
    names = ["result.json", "circuit.json"]
    try:
        written = read_result(folder)["files"]
        whole = digests(folder, _GROUND) == {name: written[name] for name in _GROUND}
    except (PahqError, KeyError, TypeError):
        whole = False
    names += [] if whole else [*_GROUND, *_DERIVED]
    number = 1
    while (place := folder / "damaged" / str(number)).exists():
        number += 1
    place.mkdir(parents=True)
    for name in names:
        if (folder / name).exists():
            os.replace(folder / name, place / name)
    return place
