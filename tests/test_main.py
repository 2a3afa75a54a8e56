"""The command line: what runs, what is refused before anything runs, and in which words."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.made_cells import make_result

from pahq import __version__
from pahq.__main__ import main
from pahq.cell import run as cell
from pahq.cell.files import SearchResult, cell_folder
from pahq.commandline.application import PANELS
from pahq.config.cell import CellConfig, RunConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs

SMALL = ("task=tracr-proportion", "task.examples=4", "wandb=disabled")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CellConfig, RunConfig]]:
    """The cells that would have run."""
    seen: list[tuple[CellConfig, RunConfig]] = []

    def run_cell(what: CellConfig, where: RunConfig, page: object) -> SearchResult:
        assert callable(page)
        seen.append((what, where))
        return SearchResult(cell_folder(where.root, what.id), make_result(what, tests=24, kept=9, seconds=1.25))

    monkeypatch.setattr(cell, "run_cell", run_cell)
    monkeypatch.setattr(sys, "argv", ["pahq"])  # Hydra's entry writes there
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return seen


def test_a_cell_from_its_overrides_to_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "method=acdc", "threshold=0.001", f"run.root={tmp_path}"]) == 0
    [folder] = (tmp_path / "cells" / "tracr-proportion").iterdir()
    assert folder.name.startswith("acdc-float32-t0.001-")
    values = json.loads((folder / "result.json").read_text())
    assert values["tests"] == len((folder / "decisions.jsonl").read_text().splitlines())
    out = capsys.readouterr().out
    assert out == (
        f"{values['id']}: {values['tests']} tests, {values['kept']} kept, {values['seconds']:.1f} s, {folder}\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]  # no folder of Hydra's, no log file


def test_a_sweep_runs_every_combination_once(
    ran: list[tuple[CellConfig, RunConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "method=pahq,rtn-q", "precision=int8,int4,auto", "threshold=0.1,0.2,0.10"]) == 0
    names = {(c.method.name, c.precision.name, c.threshold) for c, _ in ran}
    assert len(ran) == len(names) == 2 * 2 * 2
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 8
    assert lines[0] == f"{ran[0][0].id}: 24 tests, 9 kept, 1.2 s, results/cells/{ran[0][0].id}"
    assert len(shown.err.splitlines()) == 8  # how many are left


def test_a_sweep_says_how_many_are_left_and_a_single_cell_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["-m", *SMALL, "method=acdc", "threshold=0.1,0.2", f"run.root={tmp_path}", "run.progress=false"]
    assert main(sweep) == 0
    first, last = capsys.readouterr().err.splitlines()
    assert first == "1 of 2 cells done, less than a minute left"
    assert last == "2 of 2 cells done"
    assert main([*SMALL, "method=acdc", "threshold=0.3", f"run.root={tmp_path}", "run.progress=false"]) == 0
    assert capsys.readouterr().err == ""


def test_a_cell_of_a_planned_run_says_how_many_of_it_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "a, b.txt"
    cell = [*SMALL, "method=acdc", "threshold=0.3", f"run.root={tmp_path}", "run.progress=false", f"run.plan={plan}"]
    assert main(cell) == 2
    assert capsys.readouterr().err == f"pahq: error: run.plan: {plan}: No such file or directory\n"
    plan.write_text(f"{compose_runs(cell)[0][0].id}\nother/cell\n")
    assert main(cell) == 0
    assert capsys.readouterr().err == "1 of 2 cells done, less than a minute left\n"


FAULTS = [
    (["task=nano-oi"], "unknown task 'nano-oi'; known: attn4l-docstring, gemma3-docstring"),
    (["model=gpt5"], "unknown model 'gpt5'; known: attn-only-4l, gemma3, gpt2, nano"),
    (["thresold=0.1"], "unknown key 'thresold'; known: audit, band, engine, focus, method, model"),
    (["task.exampels=1"], "unknown key 'exampels' in 'task'; known: ablation, examples, kind"),
    (
        ["run.rot=x"],
        "unknown key 'rot' in 'run'; known: device, experiment, lock, memory_gb, plan, progress, repair, root",
    ),
    (["+task.colour=red"], "unknown key 'task.colour'; known: ablation, bos, examples"),
    (["precision=int4,int8"], "several values in 'precision=int4,int8' are a sweep; put -m in front"),
    (["threshold=["], "cannot read the override 'threshold='"[:-1]),
    (["threshold=high"], "threshold: Input should be a valid number"),
    (["method=eap", "size=many"], "pahq: error: size: a number of edges (50) or a share of them (0.02) was expected"),
    (["threshold=-1"], "pahq: error: threshold must be a finite number of at least 0, got -1"),
    (["threshold=nan"], "threshold must be a finite number of at least 0"),
    (["method=acdc", "precision=int8"], "method acdc is full precision"),
    (["wandb=maybe"], "wandb: Input should be 'auto', 'online', 'offline' or 'disabled'"),
    (["-m", "precision=int8,int5"], "unknown precision 'int5'; known: auto, bf16"),
    (["-m", "threshold=interval(0,1)"], "BasicSweeper does not support sweep type"),
    (["~threshold"], "Could not delete from config. 'threshold' does not exist"),
    (
        ["verfy", "here"],
        "unknown command 'verfy'; commands: run, show, diff, verify, repair, stability, faithfulness, evaluate",
    ),
    (["--colour"], "unknown option '--colour'; known: -m, --multirun, --json, "),
    (["--multirum", "threshold=0.1,0.2"], "did you mean '--multirun'?"),
    (["run", "verfy"], "unknown command 'verfy'"),
    (["run=5"], "run: a mapping was expected (got 5); known keys: device, "),
    (["run", "method.training=5"], "method.training: a mapping was expected (got 5); known keys: learning_rate, "),
    (["--cfg", "job", "task=nano-oi"], "unknown task 'nano-oi'"),
    (["-m", "--cfg", "job"], "--cfg and --multirun cannot both be given; leave one out"),
    (["--info", "-m", "--resolve", "--cfg", "job"], "--cfg, --info and --multirun cannot all be given"),
    (["--resolve", "task=nano-ioi"], "--resolve is for --cfg"),
    (["--cfg"], "--cfg/-c: expected one argument; --hydra-help lists Hydra's own options"),
    (["--cfg", "xyz"], "--cfg/-c: invalid choice: 'xyz' (choose from 'job', 'hydra', 'all')"),
    (["--cfg", "job", "--package"], "--package/-p: expected one argument"),
    (["--cfg", "job", "--colour"], "unrecognized arguments: --colour"),
    (["--json", "show", "X"], "'show' is a command: it comes first and its options after it, as in pahq show --help"),
    (["task=nano-ioi", "show"], "'show' is a command: it comes first and its options after it"),
    (["--top", "3", "show", "X"], "'show' is a command: it comes first"),
    (["run", "--version"], "--version stands alone, as in pahq --version"),
    (["--cfg", "job", "--version"], "--version stands alone, as in pahq --version"),
    (["hydra/launcher=moon"], "Could not find 'hydra/launcher/moon'"),
    (["--config-name", "other"], "Cannot find primary config 'other'"),
    (["-m", "method=eap-ig", "size=5,2000", "wandb=disabled"], "size: a number of edges from 0 to 1519 or a share"),
    (["-m", "method=eap-ig", "size=5,2000", "hydra.sweep.dir=x"], "size: a number of edges from 0 to 1519 or a share"),
    (["hydra/launcher=submitit_local"], "hydra/launcher=submitit_local runs a sweep's cells as jobs, and this is none"),
]


@pytest.mark.parametrize(("typed", "sentence"), FAULTS, ids=[" ".join(typed) for typed, _ in FAULTS])
def test_bad_input_is_one_sentence_and_exit_status_2(
    ran: list[tuple[CellConfig, RunConfig]], capsys: pytest.CaptureFixture[str], typed: list[str], sentence: str
) -> None:
    assert main(typed) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("pahq: error: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert not ran


@pytest.mark.parametrize("hydra", [[], ["hydra/launcher=basic"]], ids=["here", "in Hydra"])
def test_no_cell_of_a_sweep_runs_when_one_is_faulty(
    ran: list[tuple[CellConfig, RunConfig]], capsys: pytest.CaptureFixture[str], hydra: list[str]
) -> None:
    assert main(["-m", "method=acdc", "precision=float32,int8", *hydra]) == 2
    assert "method acdc is full precision" in capsys.readouterr().err
    assert not ran


def test_hydras_own_settings_go_through_hydra(
    ran: list[tuple[CellConfig, RunConfig]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["threshold=0.1,0.2", f"run.root={tmp_path}"]
    assert main(["-m", "hydra/launcher=basic", *typed]) == 0
    through = [c.id for c, _ in ran]
    ran.clear()
    assert main(["-m", *typed]) == 0
    assert through == [c.id for c, _ in ran]
    capsys.readouterr()
    assert main(["--cfg", "job", "threshold=0.3"]) == 0
    assert "threshold: 0.3" in capsys.readouterr().out
    assert main(["task=tracr-reverse", "--cfg", "job", "threshold=0.3"]) == 0  # in whatever order
    told = capsys.readouterr().out
    assert "name: tracr-reverse" in told
    assert "threshold: 0.3" in told
    assert {path.name for path in tmp_path.iterdir()} <= {".hydra"}  # one fixed place, no dates


def test_hydras_option_whose_help_is_no_text_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python 3.14 takes it, which reads the help of every option as it is added."""
    parser: Any = argparse._ActionsContainer
    added = parser.add_argument

    def read(self: Any, action: argparse.Action) -> None:
        if not isinstance(action.help, str | None):
            raise ValueError("badly formed help string")

    def add(self: Any, *words: Any, **more: Any) -> argparse.Action:
        action: argparse.Action = added(self, *words, **more)
        self._check_help(action)
        return action

    monkeypatch.setattr(parser, "_check_help", read, raising=False)
    monkeypatch.setattr(parser, "add_argument", add)
    assert main(["--cfg", "job", "threshold=0.3"]) == 0
    assert "threshold: 0.3" in capsys.readouterr().out
    assert "_check_help" not in vars(argparse.ArgumentParser)


@pytest.mark.parametrize("hydra", [[], ["hydra/launcher=basic"]], ids=["here", "in Hydra"])
def test_a_cell_that_refuses_is_told_in_its_sentence(
    monkeypatch: pytest.MonkeyPatch,
    ran: list[tuple[CellConfig, RunConfig]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    hydra: list[str],
) -> None:
    def refuse(what: Any, where: Any, page: Any) -> None:
        raise PahqError("device 'cuda' is not available here; cpu always is")

    monkeypatch.setattr(cell, "run_cell", refuse)
    assert main(["run.device=cuda", f"run.root={tmp_path}", *hydra]) == 2
    assert capsys.readouterr().err == "pahq: error: device 'cuda' is not available here; cpu always is\n"


def test_an_interrupt_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(what: Any, where: Any, page: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cell, "run_cell", interrupt)
    assert main([]) == 130
    assert capsys.readouterr().err == "pahq: interrupted; the same command goes on where this one stopped\n"


def test_memory_that_ends_outside_a_search_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(words: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr("pahq.__main__._run", full)
    assert main(["tables"]) == 2
    told = "pahq: error: the machine's memory ran out; what is finished is kept, and the same command goes on\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("", "a folder was expected, not an empty name"),
        ("file", "{}/file is no folder; one was expected, or a name that is free"),
        ("file/below", "{}/file is no folder; one was expected, or a name that is free"),
    ],
)
def test_a_root_that_can_be_no_folder_is_told_before_a_cell_runs(
    ran: list[tuple[CellConfig, RunConfig]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    root: str,
    sentence: str,
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*SMALL, f"run.root={root and tmp_path / root}"]) == 2
    assert capsys.readouterr().err == f"pahq: error: run.root: {sentence.format(tmp_path)}\n"
    assert not ran


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cells").write_text("")
    assert main([*SMALL, f"run.root={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pahq: error: {tmp_path / 'cells'}")
    assert error.count("\n") == 1


def test_help_names_commands_groups_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    known = ("verify", "evaluate", "nano-ioi", "tracr-reverse-zero", "rtn-q", "int8-head", "threshold", "smoke")
    for name in known:
        assert name in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pahq {__version__}\n"


def test_models_writes_what_a_model_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "model.json"
    assert main(["models", "tracr-reverse", "--out", str(out)]) == 0
    values = json.loads(out.read_text())
    assert values["name"] == "tracr-reverse"
    assert len(values["digest"]) == 64
    assert values["config"]["causal"] is False
    assert main(["models", "traker", "--out", str(tmp_path / "other.json")]) == 2
    assert "known: " in capsys.readouterr().err
    assert not (tmp_path / "other.json").exists()
    assert main(["models", "tracr-reverse", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"pahq: error: --out {tmp_path} is a folder; name a file in it\n"


def test_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "models", "evaluate", "tables", "figures"):
        assert main([command, "--help"]) == 0
    assert "Usage: pahq verify" in capsys.readouterr().out


def test_run_may_be_left_out_and_stands_before_whatever_else_is_typed(ran: list[tuple[CellConfig, RunConfig]]) -> None:
    for words in (["threshold=0.1,0.2", "-m"], ["-m", "threshold=0.1,0.2"], ["threshold=0.1,0.2", "--multirun"]):
        for before in ([], ["run"]):
            assert main([*before, *words]) == 0
            assert [cell.threshold for cell, _ in ran] == [0.1, 0.2]
            ran.clear()
    assert main(["run"]) == main([]) == 0
    assert ran[0] == ran[1]


@pytest.mark.parametrize(
    "words",
    [
        *([command, "--colour"] for names in PANELS.values() for command in names),
        ["show", "x", "--top", "-1"],
        ["verify", "x", "--engine", "magic"],
        ["repair", "smoke", "--threads", "0"],
        ["stability", "smoke", "--n", "1"],
        ["stability", "smoke", "--n", "100000000"],
        ["stability", "smok"],
        ["faithfulness", "smoke", "--confidence", "7"],
        ["faithfulness", "smoke", "--threads", "0"],
        ["evaluate", "smok"],
        ["export", "x", "--format", "mib"],
        ["import", "x", "--like", "y", "--size", "many"],
    ],
    ids=" ".join,
)
def test_what_is_typed_is_checked_before_torch_is_there(words: list[str]) -> None:
    code = (
        "import sys; from pahq.__main__ import main; status = main(sys.argv[1:]);"
        "sys.exit(status if 'torch' not in sys.modules else 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("pahq: error: ")
    assert done.stderr.count("\n") == 1


def test_faults_cost_no_torch_and_show_no_traceback() -> None:
    code = (
        "import sys; from pahq.__main__ import main; status = main(['task=nano-oi']);"
        "sys.exit(status if 'torch' not in sys.modules else 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
