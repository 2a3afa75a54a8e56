"""One process a cell: who holds it, and file systems that cannot say."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from pahq.__main__ import main
from pahq.cell.files import sole_writer
from pahq.errors import PahqError

SMALL = ["task=tracr-proportion", "task.examples=4", "method=acdc", "threshold=0.1", "wandb=disabled"]
NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every file system fails to lock, with this error."""

    def flock(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_cell_that_is_held_is_said_to_be_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_writer(tmp_path), pytest.raises(PahqError, match="another process is computing the cell"):
        sole_writer(tmp_path).__enter__()
    with sole_writer(tmp_path):
        pass
    for number in (errno.EWOULDBLOCK, errno.EACCES):
        without_locks(monkeypatch, number)
        with pytest.raises(PahqError, match="another process is computing the cell"):
            sole_writer(tmp_path).__enter__()


@pytest.mark.parametrize("number", NO_LOCKS, ids=[errno.errorcode[number] for number in NO_LOCKS])
def test_a_file_system_without_locks_is_told_with_a_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    without_locks(monkeypatch, number)
    typed = [*SMALL, f"run.root={tmp_path}"]
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert f"cannot lock files ({os.strerror(number)})" in told
    assert "run.root on another disk, or run.lock=false" in told
    assert "another process is computing" not in told
    assert told.count("\n") == 1
    assert main([*typed, "run.lock=false"]) == 0
    assert len(list(tmp_path.glob("cells/*/*/result.json"))) == 1
    [cell] = tmp_path.glob("cells/*/*")
    stability = ["stability", str(cell), "--root", str(tmp_path), "--n", "2", "--seeds", "0", "--no-progress"]
    assert main(stability) == 2
    assert "pahq stability: --no-lock" in capsys.readouterr().err
    assert main([*stability, "--no-lock"]) == 0
