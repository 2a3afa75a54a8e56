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
from pahq.experiments.workflow import Settings, join_runs


def test_settings_and_what_they_are_unsaid() -> None:
    assert Settings.of({}) == Settings()
    said = {"experiment": "smoke", "root": "a,b (ü)", "wandb": "offline", "stability_of": "all", "lock": "false"}
    said |= {"stability": "--n 3 --seeds 1", "faithfulness": "--random-circuits 40 --edges 9"}
    assert Settings.of(said) == Settings(
        "smoke",
        "a,b (ü)",
        "offline",
        "all",
        ("--n", "3", "--seeds", "1"),
        ("--random-circuits", "40", "--edges", "9"),
        lock=False,
    )
    assert Settings.of({"lock": True, "stability": None}).lock is True


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"experment": "smoke"}, r"unknown --config key 'experment' \(is it experiment\?\); known: experiment, root, "),
        ({"stabilty_of": "all"}, r"unknown --config key 'stabilty_of' \(is it stability_of\?\); known: "),
        ({"zzz": 1}, r"unknown --config key 'zzz'; known: experiment, root"),
        ({"stability": "--n x"}, "--config stability: pahq stability: argument --n: invalid int value: 'x'"),
        ({"stability": "--nn 3"}, "unrecognized arguments: --nn 3"),
        ({"stability": "--n"}, "argument --n: expected one argument"),
        ({"stability": "--n 1"}, "--config stability: n=1 resamples cannot be compared"),
        ({"stability": "--seeds -1"}, "seeds=-1 is no number of further seeds"),
        ({"stability": 20}, "--config stability: options such as --n 20 --seeds 5 were expected, got '20'"),
        ({"stability": "--n '3"}, "--config stability: No closing quotation"),
        (
            {"faithfulness": "--random-circuit x"},
            "--config faithfulness: pahq faithfulness: argument --random-circuits",
        ),
        ({"faithfulness": "--edges 0"}, "--config faithfulness: edges must be at least 1, got 0"),
        ({"faithfulness": 40}, "--config faithfulness: options such as --random-circuits 100 were expected, got 40"),
        ({"root": 2024}, "--config root: the name of a folder was expected, got 2024; write ./ before a name"),
        ({"root": ["x"]}, "--config root: the name of a folder was expected"),
        ({"root": None}, "--config root: the name of a folder was expected, got None"),
        ({"root": "a{b}"}, "--config root: Snakemake cannot have braces or line ends in a path"),
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
        ["models", "nano"],
    ],
)
def test_commands_refuse_in_one_sentence(capsys: pytest.CaptureFixture[str], typed: list[str]) -> None:
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"pahq: error: pahq {typed[0]}: ")
    assert told.endswith("(--help lists what it takes)\n")
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
