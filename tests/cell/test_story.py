"""Files that cannot lie: bytes that changed, circuits and decisions that do not follow, are named, not taken over."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.made_cells import change_result

from pahq.__main__ import main
from pahq.analysis.collect import collect, read_cell
from pahq.cell import run as cell_module
from pahq.cell.files import FILES, cell_folder, read_result, write_result
from pahq.cell.journal import Journal, JournalLine, read_journal
from pahq.cell.run import run_cell
from pahq.cell.story import check_cell, fault_of, sound_lines
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.reference import ReferenceEngine
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.files.sealed import Damaged
from pahq.files.text import write_json
from pahq.verify import command as verify

NAMES = (*FILES, "result.json")
SMALL = ("task=tracr-proportion", "task.examples=6", "method=acdc", "engine=reference", "threshold=0.01")


@cache
def make(*overrides: str) -> CellConfig:
    [(cell, _)] = compose_runs([*SMALL, *overrides] if not overrides or "task" not in overrides[0] else overrides)
    return cell


def where(root: Path, *, repair: bool = False) -> RunConfig:
    return RunConfig(root=str(root), wandb="disabled", progress=False, repair=repair)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished cell's folder; not to be touched."""
    return run_cell(make(), where(tmp_path_factory.mktemp("finished"))).folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it below a root of its own, to be damaged."""
    shutil.copytree(finished.parents[2], tmp_path / "root")
    return cell_folder(tmp_path / "root", make().id)


def flipped(content: bytes, at: int, rng: random.Random) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def edit_journal(folder: Path, change: Callable[[list[dict[str, Any]]], object], *, seal: bool) -> None:
    """Change the journal's lines; with ``seal`` the result names the new digest, so that the rule alone can tell."""
    path = folder / "decisions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    if seal:
        write_result(folder, read_result(folder))


def exchange(folder: Path) -> tuple[str, str]:
    """Put another edge in the place of a kept one in circuit.json; the one that went and the one that came."""
    circuit = Circuit.read(folder / "circuit.json")
    gone = circuit.edges[0]
    come = next(str(edge) for edge in circuit.graph.edges if str(edge) not in circuit.edges)
    other = Circuit.from_names(circuit.graph, [*circuit.edges[1:], come])
    write_json(folder / "circuit.json", other.to_json())
    return gone, come


# a finished cell


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_of_a_finished_cell_counts(folder: Path, name: str) -> None:
    """One random bit of each byte, for the check itself and for the analysis' reader."""
    path, rng = folder / name, random.Random(name)
    content = path.read_bytes()
    assert len(content) < 20_000
    for at in range(len(content)):
        path.write_bytes(flipped(content, at, rng))
        for look in (check_cell, lambda place: read_cell(place, make().id)):
            with pytest.raises(PahqError, match=re.escape(str(path))):
                look(folder)
    path.write_bytes(content)
    check_cell(folder, make())


@pytest.mark.parametrize("name", NAMES)
def test_verify_and_the_analysis_name_a_damaged_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(verify, "rerun", lambda *_: pytest.fail("replayed a damaged cell"))
    path, rng = folder / name, random.Random(name)
    content = path.read_bytes()
    for at in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(60))]:
        path.write_bytes(flipped(content, at, rng))
        assert main(["verify", str(folder)]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith(f"pahq: error: {path} is ")
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        with pytest.raises(PahqError, match=re.escape(str(path))):
            collect(folder.parents[2], [make().id])
        with pytest.raises(PahqError, match=re.escape(str(path))):
            run_cell(make(), where(folder.parents[2]))
    if name == "result.json":
        return
    path.unlink()
    assert main(["verify", str(folder)]) == 2
    assert f"{path} is damaged: it is gone" in capsys.readouterr().err


def test_a_whole_cell_verifies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder)]) == 0
    tests = read_result(folder).tests
    assert f"{make().id}: {tests} of {tests} tests equal, worst " in capsys.readouterr().out


@pytest.mark.parametrize("seal", [False, True])
def test_a_kept_edge_that_was_exchanged_is_noticed(
    folder: Path, capsys: pytest.CaptureFixture[str], seal: bool
) -> None:
    gone, come = exchange(folder)
    if seal:
        write_result(folder, read_result(folder))
        told = f"circuit.json is damaged: decisions.jsonl (kept {gone}|did not keep {come});"
    else:
        told = r"circuit\.json is damaged: its sha256 is not the one that the result names;"
    with pytest.raises(Damaged, match=told):
        check_cell(folder)
    with pytest.raises(Damaged, match=told):
        collect(folder.parents[2], [make().id])
    assert main(["verify", str(folder)]) == 2
    assert re.search(told, capsys.readouterr().err)


def test_a_decision_that_contradicts_its_losses_is_noticed(finished: Path, folder: Path) -> None:
    """Each line in turn, the circuit and the digests made to fit the lie."""
    lines = read_journal(finished / "decisions.jsonl")
    for line in lines:
        shutil.copytree(finished, folder, dirs_exist_ok=True)
        edit_journal(folder, lambda found, i=line.i: found[i].update(removed=not found[i]["removed"]), seal=False)
        kept = [one.edge for one in read_journal(folder / "decisions.jsonl") if not one.removed]
        circuit = Circuit.from_names(Circuit.read(folder / "circuit.json").graph, kept)
        write_json(folder / "circuit.json", circuit.to_json())
        change_result(folder, kept=len(kept))
        says = "kept" if line.removed else "removed"
        told = (
            rf"decisions\.jsonl is damaged: line {line.i + 1} \({line.edge}\) says {says}, and an effect of .* opposite"
        )
        with pytest.raises(Damaged, match=told):
            check_cell(folder)


def test_a_loss_that_the_line_before_did_not_leave_is_noticed(folder: Path) -> None:
    """Both losses moved alike, so that the effect and the decision stand."""

    def shift(lines: list[dict[str, Any]]) -> None:
        lines[7] |= {"before": lines[7]["before"] + 0.5, "after": lines[7]["after"] + 0.5}

    edit_journal(folder, shift, seal=True)
    with pytest.raises(Damaged, match=r"line 8 .* begins at a loss of .* where the line before left"):
        check_cell(folder)


def test_a_result_that_counts_otherwise_or_names_no_digests_is_noticed(folder: Path) -> None:
    result = read_result(folder)
    for name in ("tests", "kept"):
        other = getattr(result, name) + 1
        write_result(folder, result.model_copy(update={name: other}))
        with pytest.raises(Damaged, match=f"result.json is damaged: it counts {other} {name}, the other"):
            check_cell(folder)
    (folder / "provenance.json").unlink()
    write_result(folder, result)
    with pytest.raises(Damaged, match="it does not name the digests of the cell's other files"):
        check_cell(folder)


def test_a_folder_that_holds_another_cell_is_noticed(folder: Path, finished: Path) -> None:
    other = make("seed=1")
    place = cell_folder(folder.parents[2], other.id)
    shutil.copytree(finished, place)
    told = f"holds the cell {make().id!r}, not {other.id!r}; move it to where it belongs"
    with pytest.raises(PahqError, match=re.escape(told)):
        run_cell(other, where(folder.parents[2]))
    assert run_cell(other, where(folder.parents[2], repair=True)).id == other.id
    check_cell(place, other)


# repair


def count_measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []
    measure = ReferenceEngine.measure

    def counted(engine: ReferenceEngine, trials: Any) -> list[float]:
        count.append(len(trials))
        return measure(engine, trials)

    monkeypatch.setattr(ReferenceEngine, "measure", counted)
    return count


@pytest.mark.parametrize("name", NAMES)
def test_repair_computes_a_damaged_cell_anew_and_keeps_what_was_there(
    folder: Path, finished: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (folder / name).read_bytes()
    damaged = flipped(content, len(content) // 2, random.Random(1))
    (folder / name).write_bytes(damaged)
    count = count_measured(monkeypatch)
    run_cell(make(), where(folder.parents[2], repair=True))
    assert (folder / "circuit.json").read_bytes() == (finished / "circuit.json").read_bytes()
    check_cell(folder, make())
    assert (folder / "damaged" / "1" / name).read_bytes() == damaged
    journal = (folder / "decisions.jsonl").read_bytes() == (finished / "decisions.jsonl").read_bytes()
    assert journal == (name == "circuit.json")  # whole by its digest, so that nothing was searched
    tests = read_result(finished).tests
    assert sum(count) == (0 if name == "circuit.json" else tests + 1)
    (folder / name).write_bytes(damaged)
    run_cell(make(), where(folder.parents[2], repair=True))
    assert (folder / "damaged" / "2" / name).read_bytes() == damaged


def test_repair_leaves_a_whole_cell_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_module, "_compute", lambda *_: pytest.fail("computed a whole cell anew"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    run_cell(make(), where(folder.parents[2], repair=True))
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


# an unfinished cell


@pytest.mark.parametrize("fault", ["removed", "before"])
def test_a_search_does_not_go_on_from_a_line_that_lies(
    folder: Path, finished: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder.parents[2]
    for name in ("result.json", "circuit.json"):
        (folder / name).unlink()

    def lie(lines: list[dict[str, Any]]) -> None:
        del lines[20:]
        if fault == "removed":
            lines[11]["removed"] = not lines[11]["removed"]
        else:
            lines[11] |= {"before": lines[11]["before"] + 0.5, "after": lines[11]["after"] + 0.5}

    edit_journal(folder, lie, seal=False)
    told = {"removed": "says", "before": "begins at a loss of"}[fault]
    before = {path: path.read_bytes() for path in folder.glob("[!.]*")}
    goes_on = "run.repair=true goes on from the line before it"
    with pytest.raises(Damaged, match=rf"decisions\.jsonl is damaged: line 12 .*{told}.*; {goes_on}") as caught:
        run_cell(make(), where(root))
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.glob("[!.]*")}
    assert main([*SMALL, f"run.root={root}", "run.progress=false", "wandb=disabled"]) == 2
    count = count_measured(monkeypatch)
    assert main([*SMALL, f"run.root={root}", "run.progress=false", "wandb=disabled", "run.repair=true"]) == 0
    assert sum(count) > 0
    lines, whole = read_journal(folder / "decisions.jsonl"), read_journal(finished / "decisions.jsonl")
    assert lines[:11] == whole[:11]
    assert [replace(line, seconds=0) for line in lines] == [replace(line, seconds=0) for line in whole]
    assert (folder / "circuit.json").read_bytes() == (finished / "circuit.json").read_bytes()
    kept = (folder / "damaged" / "1" / "decisions.jsonl").read_bytes()
    assert kept == before[folder / "decisions.jsonl"]
    check_cell(folder, make())


def test_the_lines_before_the_first_that_lies_are_sound(tmp_path: Path) -> None:
    lines = [JournalLine(i, f"e{i}", 0.0, 0.005 if i % 2 else 0.5, False, 0.1) for i in range(4)]
    path = tmp_path / "decisions.jsonl"
    with Journal(path, []) as journal:
        for line in lines:
            journal.append(line)
    with pytest.raises(Damaged, match=r"line 2 \(e1\) says kept, and an effect of 0\.005 at threshold 0\.01 says the"):
        sound_lines(make(), path)
    with pytest.raises(Damaged, match="; somewhere else"):
        sound_lines(make(), path, way_on="somewhere else")
    assert sound_lines(make(), path, repair=True) == lines[:1]
    assert sound_lines(make(), tmp_path / "none") == []


def test_what_a_line_leaves_is_the_engines_own_loss() -> None:
    """Where float64 decided, the search goes on with what it had measured itself."""
    settled = JournalLine(0, "e0", 0.1, 0.3, False, 0.0, rough=(0.11, 0.12))
    after = [JournalLine(1, "e1", left, left + 1, False, 0.0) for left in (0.11, 0.1)]
    assert fault_of(make(), [settled, after[0]]) is None
    assert fault_of(make(), [settled, after[1]]) is not None
    removed = replace(settled, after=0.05, removed=True)
    assert fault_of(make(), [removed, JournalLine(1, "e1", 0.12, 1.0, False, 0.0)]) is None
    focused = make("task=nano-ioi", "method=pahq")  # has its baseline measured again at each focus
    assert fault_of(focused, [settled, after[1]]) is None
    absolute = make("method.absolute=true")
    harmful = JournalLine(0, "e0", 0.5, 0.1, False, 0.0)
    assert fault_of(absolute, [harmful]) is None
    assert fault_of(make(), [harmful]) == (
        0,
        "line 1 (e0) says kept, and an effect of -0.4 at threshold 0.01 says the opposite",
    )


REAL = [
    ("task=tracr-reverse", "method=acdc", "threshold=0.01", "engine=suffix"),
    ("task=tracr-proportion", "method=acdc", "threshold=0.2", "method.absolute=true", "task.ablation=zero"),
    ("task=nano-greaterthan", "task.examples=3", "method=acdc", "threshold=1e-6"),
    ("task=nano-induction", "task.examples=3", "method=rtn-q", "precision=int4", "threshold=0.1"),
    ("task=nano-induction", "task.examples=3", "method=pahq", "precision=int8", "threshold=0.1"),
    ("task=nano-induction", "task.examples=3", "method=pahq", "precision=int4", "threshold=0.1", "audit=band"),
]


@pytest.mark.parametrize("overrides", REAL, ids=[" ".join(words) for words in REAL])
def test_what_a_search_leaves_is_sound_however_often_it_was_interrupted(
    tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make(*overrides)
    append = Journal.append
    for stop in (7, 33, 90):

        def interrupted(journal: Journal, line: JournalLine, stop: int = stop) -> None:
            if line.i == stop:
                raise KeyboardInterrupt
            append(journal, line)

        with monkeypatch.context() as broken:
            broken.setattr(Journal, "append", interrupted)
            try:
                run_cell(cell, where(tmp_path))
            except KeyboardInterrupt:
                continue
    result = run_cell(cell, where(tmp_path))
    check_cell(result.folder, cell)
    assert main(["verify", str(result.folder)]) == 0
