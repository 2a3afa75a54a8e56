"""``make faults`` sees what it looks for, and two of its faults for real; the others take minutes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from faultbench import Bench
from faultcases import CASES, two_runs, unwritable_tracking
from faultdamage import damage
from faultlimits import CLOCK
from faultruns import OF_COST, TIMES, Going, differences, environment, left_behind
from faults import OUT, Kills, main
from support.places import ROOT

from pahq.cell.files import cell_folder
from pahq.cell.run import run_cell
from pahq.commandline.run import run_all
from pahq.config.cell import RunConfig
from pahq.experiments.compose import cells

COST = "task,seconds,kept,note\nx,1.5,9,\n"
CIRCUITS = "task,kept,note\nx,9,\n"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal folders of results, with a table that has times, one that has none, and a cell's journal."""
    whole = tmp_path / "whole"
    tables, cell = whole / "analysis" / "smoke" / "tables", whole / "cells" / next(iter(cells("smoke")))
    tables.mkdir(parents=True)
    (tables / "cost.csv").write_text(COST)
    (tables / "circuits.csv").write_text(CIRCUITS)
    (tables / "circuits.md").write_text("9 kept\n")
    cell.mkdir(parents=True)
    (cell / "decisions.jsonl").write_text(json.dumps({"i": 0, "after": 0.5, "seconds": 0.25}) + "\n")
    (cell / "circuit.json").write_text("{}\n")
    shutil.copytree(whole, tmp_path / "other")
    return whole, tmp_path / "other"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("analysis/smoke/tables/cost.csv", "1.5", "2.5"),
        ("analysis/smoke/tables/cost.csv", "9,\n", "9,1 resumed\n"),
        ("cells/CELL/decisions.jsonl", "0.25", "0.75"),
    ],
)
def test_times_may_differ(pair: tuple[Path, Path], name: str, old: str, new: str) -> None:
    _change(pair[1] / name.replace("CELL", next(iter(cells("smoke")))), old, new)
    assert differences(*pair) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("analysis/smoke/tables/cost.csv", "9", "8"),
        ("analysis/smoke/tables/cost.csv", ",kept", ",held"),
        ("analysis/smoke/tables/circuits.csv", "9,\n", "9,1 resumed\n"),
        ("analysis/smoke/tables/circuits.md", "9", "8"),
        ("cells/CELL/decisions.jsonl", "0.5", "0.50000000000000011"),
        ("cells/CELL/circuit.json", "{}", "{ }"),
    ],
)
def test_anything_else_is_a_difference(pair: tuple[Path, Path], name: str, old: str, new: str) -> None:
    name = name.replace("CELL", next(iter(cells("smoke"))))
    _change(pair[1] / name, old, new)
    assert differences(*pair) == [name]
    (pair[1] / name).unlink()
    assert differences(*pair) == [name]


def test_a_file_too_many_is_a_difference(pair: tuple[Path, Path]) -> None:
    (pair[1] / "analysis/smoke/tables/auc.csv").write_text(CIRCUITS)
    assert differences(*pair) == ["analysis/smoke/tables/auc.csv (one too many)"]


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_damage_is_done_and_leaves_the_time(tmp_path: Path) -> None:
    path, rng = tmp_path / "a", random.Random(1)
    for how in ("cut", "flip"):
        path.write_bytes(b"whole")
        os.utime(path, ns=(1, 2))
        damage(path, how, rng)
        assert path.read_bytes() != b"whole"
        assert path.stat().st_mtime_ns == 2
        assert (len(path.read_bytes()) < 5) == (how == "cut")


def test_what_a_kill_leaves_under_a_temporary_name_is_counted(tmp_path: Path) -> None:
    for name in (".result.json.x1", ".roc.x2.png", ".lock", "result.json"):
        (tmp_path / name).touch()
    assert left_behind(tmp_path) == 2


def test_a_kill_takes_the_whole_group(tmp_path: Path) -> None:
    """A shell, and a child of its child, which would sleep on."""
    inner = f"{sys.executable} -c 'import time; time.sleep(60)'"
    going = Going(["bash", "-c", f"({inner} & wait) & wait"], tmp_path, tmp_path / "log")
    try:
        deadline = time.monotonic() + 20
        while sum("sleep" in " ".join(words) and "bash" not in words[0] for words in going.processes().values()) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(going.processes()) >= 2
    finally:
        going.send(signal.SIGKILL, everyone=True)
    assert going.end(10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while going.processes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With one cell of the experiment, undisturbed: all that the two faults below compare with."""
    base = tmp_path_factory.mktemp("faults")
    one = next(iter(cells("smoke").values()))
    run_cell(one.config, RunConfig(root=str(base / "whole" / "results"), wandb="disabled", progress=False))
    return Bench(base, base / "whole", seconds=1, files=9)


def test_two_real_runs_on_one_cell(bench: Bench) -> None:
    assert two_runs(bench).startswith("the second was told that another process is computing the cell")


def test_a_clock_that_jumps_changes_no_cell(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: ``make faults`` has it in Snakemake and all its jobs."""
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, getattr(time, name))  # so that it is put back
    exec(CLOCK, {})
    looks = [time.time() for _ in range(50)]
    assert any(later < earlier for earlier, later in pairwise(looks))
    root = tmp_path / "results"
    runs = [
        (one.config, RunConfig(root=str(root), wandb="disabled", progress=False)) for one in cells("smoke").values()
    ]
    run_all(runs[:2], lambda cell, found: None)
    assert "2 of 2 cells done" in capsys.readouterr().err
    made, known = (cell_folder(place, runs[0][0].id) / "circuit.json" for place in (root, bench.whole / "results"))
    assert made.read_bytes() == known.read_bytes()


def test_a_folder_of_wandb_that_cannot_be_written(bench: Bench) -> None:
    assert "the cell was finished all the same, with one warning" in unwritable_tracking(bench)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--kills", "-1"], "--kills: a number from 0 on was expected, got -1"),
        (["--only", "flood"], "--only: no fault begins with 'flood'; known: damaged config.json, "),
    ],
)
def test_bad_input_is_told(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_environment_is_this_repositorys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert "WANDB_MODE" not in environment()
    assert environment()["PYTHONPATH"] == f"{ROOT}{os.pathsep}elsewhere"


def test_the_committed_record_is_of_todays_faults_and_lost_nothing() -> None:
    """A fault that nobody has run yet is not in it."""
    record = json.loads(OUT.read_text())
    run = [row["fault"] for row in record["faults"]]
    assert run == [case.name for case in CASES if case.name in run]
    assert len(run) >= 18
    assert {row["state"] for row in record["faults"]} <= {"well", "skipped"}
    mended = record["kill_9_before_a_fault_was_mended"]
    assert sum(kills["kills"] for kills in [*record["kill_9"], *mended]) >= 30
    for kills in record["kill_9"]:
        assert kills.keys() == Kills().to_json(0, 1.0).keys()
        assert kills["kills"] == sum(kills["kills_of_each_run"]) == sum(kills["killed_while_running"].values())
        assert (kills["lost"], kills["pipeline_runs"]) == ([], len(kills["kills_of_each_run"]))
    assert record["left_out"]["tables"] == list(TIMES)
    assert record["left_out"]["cost"] == list(OF_COST)
