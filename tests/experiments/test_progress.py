"""How many cells are left, and how long they take: from files, of a sweep or of a run that planned them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.experiments.progress import FEW, Progress, Telling, write_plan


def finish(root: Path, cell_id: str, at: float) -> None:
    path = root / "cells" / cell_id / "result.json"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (at, at))


def test_cells_left_need_what_this_runs_cells_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"task/{i}" for i in range(12)]
    write_plan(tmp_path / "cells.txt", ids)
    os.utime(tmp_path / "cells.txt", (1000, 1000))
    finish(tmp_path, ids[0], 500)  # by an earlier run, in no time of this one's
    monkeypatch.setattr(time, "time", lambda: 1090.0)

    def said() -> str:
        return Progress.planned(str(tmp_path / "cells.txt"), str(tmp_path)).sentence()

    assert said() == "1 of 12 cells done"
    finish(tmp_path, ids[1], 1080)
    assert said() == "2 of 12 cells done, about 15 min left"  # ten cells of 90 s
    finish(tmp_path, ids[2], 1085)
    assert said() == "3 of 12 cells done, about 7 min left"  # nine of 45 s
    for cell_id in ids[3:11]:
        finish(tmp_path, cell_id, 1086)
    assert said() == "11 of 12 cells done, less than a minute left"
    finish(tmp_path, ids[11], 1088)
    assert said() == "12 of 12 cells done"


def test_of_many_cells_the_first_tell_no_time_and_long_times_are_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = compose_runs(["threshold=range(1,41)", f"run.root={tmp_path}"], sweep=True)
    progress = Progress.begun(runs)
    began = time.time()
    for i, (cell, _) in enumerate(runs[:2]):
        assert "left" not in progress.sentence()
        finish(tmp_path, cell.id, began + i + 1)
    monkeypatch.setattr(time, "time", lambda: began + 3600)
    assert progress.sentence() == "2 of 40 cells done, about 19.0 h left"


@pytest.mark.parametrize(("cells", "told"), [(FEW, 1000), (FEW + 1, 10)])
def test_of_many_cells_looking_takes_a_hundredth_of_the_time(tmp_path: Path, cells: int, told: int) -> None:
    """A look of one second, and a cell a second: a fake clock moves on at every other reading of it."""
    write_plan(tmp_path / "cells.txt", [f"task/{i}" for i in range(cells)])
    looks: list[float] = []
    now = iter(range(10_000))

    def clock() -> float:
        looks.append(float(next(now)))
        return looks[-1]

    telling = Telling(Progress.planned(str(tmp_path / "cells.txt"), str(tmp_path)), clock)
    said = [telling.sentence(last=False) for _ in range(1000)]
    assert said[0] == f"0 of {cells} cells done"
    assert abs(sum(sentence is not None for sentence in said) - told) <= 1
    assert telling.sentence(last=True) == said[0]


def test_a_plan_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match=r"run\.plan: .*/cells\.txt: No such file or directory"):
        Progress.planned(str(tmp_path / "cells.txt"), str(tmp_path))
