"""The files of a cell tell one story: each decision follows from its losses, and the circuit from the decisions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pahq.cell.files import SCORES, files_of, read_result
from pahq.cell.journal import JournalLine, read_journal
from pahq.cell.result import REPAIR, Result
from pahq.cell.scorefile import chosen, read_scores
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.sealed import Damaged, check_digests, digests, read_sealed
from pahq.search.acdc import is_removed

GO_ON = "run.repair=true goes on from the line before it"
_DERIVED = ("faithfulness.json", "stability.json", "inclusion.parquet", "stability")  # made from a finished cell
_GROUND = ("config.json", "provenance.json", "decisions.jsonl")  # what a search goes on from


def fault_of(cell: CellConfig, lines: Sequence[JournalLine]) -> tuple[int, str] | None:
    """The first line that ACDC's rule or the line before contradicts, with what is wrong; None if there is none.

    A test's loss before is what the test before it left, but where a change of focus, or an audit's other network, has
    it measured again, or (where only changes are in low precision) a round ends, and its removals enter the state.
    """
    chained = cell.method.focus == "none" and cell.audit != "band" and cell.method.arithmetic == "network"
    left: float | None = None
    for line in lines:
        where = f"line {line.i + 1} ({line.edge})"
        removed = is_removed(line.after - line.before, cell.search_threshold, absolute=cell.method.absolute)
        if removed != line.removed:
            says = "removed" if line.removed else "kept"
            effect = f"an effect of {line.after - line.before:.6g} at threshold {cell.search_threshold:g}"
            return line.i, f"{where} says {says}, and {effect} says the opposite"
        before, after = line.rough or (line.before, line.after)
        if chained and left is not None and before != left:
            return line.i, f"{where} begins at a loss of {before:.9g} where the line before left {left:.9g}"
        left = after if line.removed else before
    return None


def sound_lines(cell: CellConfig, path: Path, *, repair: bool = False, way_on: str = GO_ON) -> list[JournalLine]:
    """A journal's lines, once they are known to follow from each other.

    Raises Damaged, which says the ``way_on``, at the first line that does not; with ``repair`` the lines before it are
    returned, and the journal as it was is kept aside.
    """
    lines = read_journal(path)
    fault = fault_of(cell, lines)
    if fault is None:
        return lines
    if repair:
        shutil.copy2(path, _place_aside(path.parent))
        return lines[: fault[0]]
    raise Damaged(path, fault[1], way_on)


def check_cell(folder: Path, cell: CellConfig | None = None) -> Result:
    """A finished cell's result, once all its files have been found to be those it finished with.

    ``cell``: the one that the folder should hold, by default whichever the result names. Raises PahqError for an
    unfinished cell and for another one, and Damaged, naming the file, where any byte of one has changed, where the
    decisions contradict themselves or the circuit contradicts them.
    """
    result = read_result(folder)
    if not set(files_of(result.config)) <= set(result.files):
        raise Damaged(folder / "result.json", "it does not name the digests of the cell's other files", REPAIR)
    check_digests(folder, result.files, way_on=REPAIR)
    cell = cell or result.config
    if result.id != cell.id:
        raise PahqError(f"{folder} holds the cell {result.id!r}, not {cell.id!r}; move it to where it belongs")
    if cell.method.scores:
        _check_choice(folder, cell, result)
        return result
    lines = read_journal(folder / "decisions.jsonl")
    fault = fault_of(cell, lines)
    if fault is not None:
        raise Damaged(folder / "decisions.jsonl", fault[1], REPAIR)
    _check_circuit(folder, result, lines, Circuit.read(folder / "circuit.json"))
    return result


def whole_result(folder: Path, cell: CellConfig) -> Result | None:
    """The result of that cell, whatever has become of its other files; None where it is not whole or of another."""
    try:
        result = read_result(folder)
    except PahqError:
        return None
    return result if result.id == cell.id else None


def damaged_beside(folder: Path) -> list[Damaged]:
    """What is wrong with the files that other commands left beside a cell's own: stability and faithfulness."""
    found = []
    makers = {"faithfulness.json": "pahq faithfulness", "stability.json": "pahq stability"}
    searches = sorted(path.relative_to(folder).as_posix() for path in (folder / "stability").glob("*.json"))
    for name, maker in {**makers, **dict.fromkeys(searches, "pahq stability")}.items():
        path, way_on = folder / name, f"once it is moved away, {maker} makes it anew"
        if not path.exists():
            continue
        try:
            values = read_sealed(path, way_on=way_on)
            check_digests(folder, values.get("files", {}), way_on=way_on)
        except Damaged as damage:
            found.append(damage)
    return found


def _check_circuit(folder: Path, result: Result, lines: Sequence[JournalLine], circuit: Circuit) -> None:
    kept = {line.edge for line in lines if not line.removed}
    if kept != set(circuit.edges):
        other = min(kept ^ set(circuit.edges))
        says = "kept" if other in kept else "did not keep"
        raise Damaged(folder / "circuit.json", f"decisions.jsonl {says} {other}", REPAIR)
    for name, said, count in (("tests", result.tests, len(lines)), ("kept", result.kept, len(circuit))):
        if said != count:
            raise Damaged(folder / "result.json", f"it counts {said} {name}, the other files {count}", REPAIR)


def _check_choice(folder: Path, cell: CellConfig, result: Result) -> None:
    """A circuit follows from its scores."""
    circuit = Circuit.read(folder / "circuit.json")
    scores = read_scores(folder / SCORES, circuit.graph, cell)
    if chosen(cell, scores) != circuit:
        raise Damaged(folder / "circuit.json", f"{SCORES} and the cell's size give another circuit", REPAIR)
    for name, said, count in (("tests", result.tests, len(scores)), ("kept", result.kept, len(circuit))):
        if said != count:
            raise Damaged(folder / "result.json", f"it counts {said} {name}, the other files {count}", REPAIR)


def set_aside(folder: Path) -> Path:
    """Move a damaged cell's files into a folder below it, and return that.

    A journal that is whole by its digest, and the cell's own, stays, with what it rests on: the search then goes on
    from its end. If it does not, what was made from the cell goes too.
    """
    names = ["result.json", "circuit.json", SCORES]
    try:
        result = read_result(folder)
        whole = digests(folder, _GROUND) == {name: result.files[name] for name in _GROUND}
        own = folder.as_posix().endswith(f"/{result.id}")
    except (PahqError, KeyError):
        whole = own = False
    return move_aside(folder, names if whole and own else [*names, *_GROUND, *_DERIVED])


def move_aside(folder: Path, names: Iterable[str]) -> Path:
    """Move those files of a cell that are there into a new folder below it, and return that."""
    place = _place_aside(folder)
    for name in names:
        if (folder / name).exists():
            (place / name).parent.mkdir(exist_ok=True)
            os.replace(folder / name, place / name)
    return place


def _place_aside(folder: Path) -> Path:
    number = 1
    while (place := folder / "damaged" / str(number)).exists():
        number += 1
    place.mkdir(parents=True)
    return place
