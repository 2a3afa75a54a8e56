"""A full disk in a search: one sentence, nothing lost, and the same command goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from pahq.__main__ import main
from pahq.cell.files import cell_folder, is_done, read_result
from pahq.cell.journal import Journal, JournalLine, read_journal
from pahq.cell.run import run_cell
from pahq.config.cell import CellConfig, RunConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.files.fulldisk import FULL, told_if_full
from pahq.model import load_model, save_model
from pahq.model.sources import find as sources

SMALL = ["task=tracr-proportion", "task.examples=4", "method=acdc", "threshold=0.1", "wandb=disabled"]
[(CELL, _)] = compose_runs(SMALL)
SENTENCE = (
    r"the disk is full \(.*\), that of .* or of .*; nothing .* is lost: the same command goes on once there is room"
)


def run_in(root: Path) -> RunConfig:
    return RunConfig(root=str(root), wandb="disabled", progress=False)


def decided(root: Path, cell: CellConfig = CELL) -> list[tuple[object, ...]]:
    lines = read_journal(cell_folder(root, cell.id) / "decisions.jsonl")
    return [(line.i, line.edge, line.before, line.after, line.removed) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where the cell ran undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    run_cell(CELL, run_in(root))
    return root


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("half", [False, True], ids=["no line", "half a line"])
def test_a_journal_that_cannot_be_written_goes_on_later(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole: Path,
    number: int,
    half: bool,
) -> None:
    append, typed = Journal.append, [*SMALL, f"run.root={tmp_path}", "run.progress=false"]

    def full(journal: Journal, line: JournalLine) -> None:
        if line.i < 5:
            return append(journal, line)
        if half:
            journal._file.write('{"i":5,"edge":"m')
            journal._file.flush()
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        assert main(typed) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"pahq: error: the disk is full ({os.strerror(number)}), that of {tmp_path}")
        assert told.count("\n") == 1
        with pytest.raises(PahqError, match=SENTENCE):  # and from Python, where it has been
            run_cell(CELL, run_in(tmp_path))
    assert decided(tmp_path) == decided(whole)[:5]
    assert main(typed) == 0
    assert decided(tmp_path) == decided(whole)
    assert read_result(cell_folder(tmp_path, CELL.id)).resumed is True


def test_no_file_of_a_cell_is_lost_by_the_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    """The disk is full at each flush in turn: of config.json, of the journal's start, of circuit.json, result.json."""
    real, failed = os.fsync, 0
    for at in range(20):
        left = [at]

        def fsync(file: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            real(file)

        root = tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                run_cell(CELL, run_in(root))
            except PahqError:
                failed += 1
                assert not is_done(cell_folder(root, CELL.id))
            else:
                break
        run_cell(CELL, run_in(root))
        assert decided(root) == decided(whole)
    assert failed >= 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few pages; skipped where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("pages", [0, 1, 3, 4])
def test_a_search_on_a_disk_that_is_full(
    small_disk: Path, capsys: pytest.CaptureFixture[str], whole: Path, pages: int
) -> None:
    typed = [*SMALL, f"run.root={small_disk}", "run.progress=false"]
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, filler.stat().st_size - pages * 4096)
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert told.startswith("pahq: error: the disk is full (No space left on device), that of ")
    assert told.count("\n") == 1
    filler.unlink()
    assert main(typed) == 0
    assert decided(small_disk) == decided(whole)


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(OSError, match="Input/output"), told_if_full():
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(PahqError, match=r"that of here\.json or of"), told_if_full():
        raise OSError(errno.ENOSPC, "No space left on device", "here.json")


def test_weights_that_cannot_be_written_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    model = load_model("tracr-proportion")
    monkeypatch.setattr(sources, "save_file", full)
    with pytest.raises(PahqError, match=r"model\.safetensors cannot be written \(.*No space left on device"):
        save_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
