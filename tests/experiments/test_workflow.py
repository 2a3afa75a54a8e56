"""Snakemake's settings, checked before any job; locks of killed runs go, those of live ones stay."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.experiments.jobs import Asked
from pahq.experiments.workflow import LEAST, Settings, join_runs
from pahq.faithfulness import settings as faithfulness
from pahq.resamples.variants import check_counts


def test_settings_and_what_they_are_unsaid() -> None:
    assert Settings.of({}) == Settings()
    said = {"experiment": "smoke", "root": "a,b (ü)", "wandb": "offline", "stability_of": "all", "lock": "false"}
    said |= {"resamples": 3, "seeds": 0, "random_circuits": 40, "inflated": 9, "device": "cuda"}
    assert Settings.of(said) == Settings("smoke", "a,b (ü)", "offline", "all", 3, 0, 40, 9, lock=False, device="cuda")
    assert Settings.of({"lock": True}).lock is True


def test_numbers_of_searches_are_the_rows_unless_said() -> None:
    assert Settings().counts(Asked(resamples=8)) == (8, 2)
    assert Settings(seeds=7).counts(Asked(resamples=8)) == (8, 7)
    assert Settings(resamples=40).counts(Asked(resamples=8)) == (40, 2)
    assert Settings(resamples=3, seeds=0).counts(Asked(resamples=8)) == (3, 0)


def test_sample_sizes_are_words_that_faithfulness_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def judged(what: object, settings: object, ids: object, **more: object) -> list[Path]:
        read.append(settings)
        return []

    monkeypatch.setattr("pahq.faithfulness.command.judge_what_is_asked", judged)
    assert Settings().sample_sizes == []
    for words in ([], Settings(random_circuits=40, inflated=9).sample_sizes):
        assert main(["faithfulness", "smoke", *words]) == 0
    assert read == [faithfulness.Settings(), faithfulness.Settings(random_circuits=40, inflated=9)]
    for name in ("random_circuits", "inflated"):  # the least that is accepted here is the least that is accepted there
        with pytest.raises(PahqError, match=f"{name} must be at least {LEAST[name]}"):
            faithfulness.Settings(**{name: LEAST[name] - 1})


@pytest.mark.parametrize("key", ["resamples", "seeds"])
def test_the_least_numbers_are_those_that_can_be_measured(key: str) -> None:
    numbers = {"resamples": 2, "seeds": 0}
    check_counts(*(numbers | {key: LEAST[key]}).values())
    with pytest.raises(PahqError):
        check_counts(*(numbers | {key: LEAST[key] - 1}).values())


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"experment": "smoke"}, r"unknown --config key 'experment' \(is it experiment\?\); known: experiment, root, "),
        ({"stabilty_of": "all"}, r"unknown --config key 'stabilty_of' \(is it stability_of\?\); known: "),
        ({"resample": 3}, r"unknown --config key 'resample' \(is it resamples\?\); known: "),
        ({"zzz": 1}, r"unknown --config key 'zzz'; known: experiment, root"),
        ({"resamples": "x"}, "--config resamples: a whole number from 2 on was expected, got 'x'"),
        ({"resamples": 1}, "--config resamples: a whole number from 2 on was expected, got 1"),
        ({"resamples": 2.5}, "--config resamples: a whole number from 2 on was expected, got 2.5"),
        ({"resamples": None}, "--config resamples: a whole number from 2 on was expected, got None"),
        (
            {"resamples": 10_001},
            "--config resamples: 10001 are too many searches of one cell; at most 10000 are expected",
        ),
        ({"seeds": 10**9}, "--config seeds: 1000000000 are too many searches of one cell"),
        ({"seeds": -1}, "--config seeds: a whole number from 0 on was expected, got -1"),
        ({"seeds": True}, "--config seeds: a whole number from 0 on was expected, got True"),
        ({"random_circuits": 0}, "--config random_circuits: a whole number from 1 on was expected, got 0"),
        ({"inflated": "1 2"}, "--config inflated: a whole number from 1 on was expected, got '1 2'"),
        ({"root": 2024}, "--config root: the name of a folder was expected, got 2024; write ./ before a name"),
        ({"root": ["x"]}, "--config root: the name of a folder was expected"),
        ({"root": None}, "--config root: the name of a folder was expected, got None"),
        ({"root": "a{b}"}, "--config root: Snakemake cannot have braces or line ends in a path"),
        ({"device": "gpu"}, "unknown device 'gpu'; known: cpu, cuda"),
        ({"lock": "perhaps"}, "--config lock: true or false was expected, got 'perhaps'"),
    ],
)
def test_what_is_said_wrongly_is_one_sentence(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PahqError, match=sentence) as caught:
        Settings.of(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        ["stability", "default", "--n", "x"],
        ["stability"],
        ["faithfulness", "--edges", "x"],
        ["evaluate", "--rot", "x"],
        ["tables", "a", "b"],
        ["figures", "--colour"],
        ["models"],
    ],
)
def test_commands_refuse_in_one_sentence(capsys: pytest.CaptureFixture[str], typed: list[str]) -> None:
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"pahq: error: pahq {typed[0]}: ")
    assert "; known: " in told or told.endswith("(--help lists what it takes)\n")
    assert told.count("\n") == 1


def locks(folder: Path) -> dict[str, Path]:
    """Locks as Snakemake writes them: below two roots, a list cut short, and an empty one."""
    (folder / "locks").mkdir(parents=True)
    found = {}
    for name, text in {
        "0.input": "results/models/nano.json\n",
        "0.output": "results/cells/a/result.json\nresults/analysis/x.png\n",
        "1.output": "elsewhere/cells/a/result.json\n",
        "2.output": "",
        "3.output": "results/cells/a/result.json\nother/b.json\n",
    }.items():
        found[name] = folder / "locks" / f"{name}.lock"
        found[name].write_text(text)
    return found


@pytest.mark.parametrize("root", ["results", "./results/"])
def test_a_dead_runs_locks_go_and_no_others(tmp_path: Path, root: str) -> None:
    found = locks(tmp_path / ".snakemake")
    with join_runs(root, tmp_path / ".snakemake"):
        assert [name for name, path in found.items() if path.exists()] == ["1.output", "3.output"]


def test_while_a_run_lives_its_locks_stay_and_with_its_death_they_go(tmp_path: Path) -> None:
    folder = tmp_path / ".snakemake"
    code = (
        "import sys, time; from pathlib import Path; from pahq.experiments.workflow import join_runs;"
        "kept = join_runs('results', Path(sys.argv[1])); Path(sys.argv[1], 'ready').touch(); time.sleep(60)"
    )
    living = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    try:
        deadline = time.monotonic() + 60
        while not (folder / "ready").exists():
            assert living.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = locks(folder)
        with join_runs("results", folder), join_runs("results", folder):  # any number side by side
            assert all(path.exists() for path in found.values())
            living.send_signal(signal.SIGKILL)
            living.wait()
            with join_runs("results", folder):
                assert all(path.exists() for path in found.values())  # two are alive still
    finally:
        living.kill()
        living.wait()
    with join_runs("results", folder):
        assert not found["0.output"].exists()


def test_without_locks_of_the_kernels_snakemakes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    found = locks(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    with join_runs("results", tmp_path):
        assert all(path.exists() for path in found.values())


def test_files_dated_in_the_future_are_told_and_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A table can be older than a cell that is computed now, and a cell newer than the tables that are there."""
    root, now = tmp_path / "results", time.time()
    ahead = {"cells/t/a/result.json", "cells/t/a/stability/n2.done", "analysis/e/cells.parquet", "report/e/t/a.html"}
    right = {"cells/t/b/result.json": now - 9, "analysis/e/tables/auc.csv": now + 9, "logs/e.log": now + 9**6}
    for name, at in {**dict.fromkeys(ahead, now + 9**6), **right}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
        os.utime(root / name, (at, at))

    def refuse(path: Path, times: tuple[float, float]) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    with join_runs(str(root), tmp_path / ".snakemake", dry=True), monkeypatch.context() as others:
        others.setattr(os, "utime", refuse)
        with join_runs(str(root), tmp_path / "other"), (tmp_path / "other" / "pahq.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another run can join
    assert all((root / name).stat().st_mtime > now + 9**5 for name in ahead)
    for _ in range(2):
        with join_runs(str(root), tmp_path / ".snakemake"):
            pass
    dates = {name: (root / name).stat().st_mtime for name in ahead}
    assert now - 1 < dates.pop("cells/t/a/result.json") < now + 60
    assert set(dates.values()) == {1.0}
    assert {name: (root / name).stat().st_mtime for name in right} == pytest.approx(right)
    dry, refused, sentence = [record.getMessage() for record in caplog.records]
    assert dry.startswith(f"4 files below {root} are dated in the future (a clock was ahead), analysis/e/cells.parquet")
    assert refused.startswith(f"4 files below {root} cannot be dated anew, though a clock was ahead")
    assert sentence.startswith(f"4 files below {root} were dated in the future (a clock was ahead), analysis/e/cells.p")
