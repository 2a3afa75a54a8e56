"""Sweeps whose cells are jobs of Hydra's submitit launcher."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pahq.__main__ import main
from pahq.commandline.launching import estimated, launcher_of, lost
from pahq.experiments.compose import compose_runs
from pahq.experiments.resources import Shape, needs
from pahq.model import load_model

SWEEP = ["task=tracr-proportion", "method=acdc", "threshold=0.1,0.2", "wandb=disabled"]


def test_a_job_asks_for_what_the_largest_cell_needs(tmp_path: Path) -> None:
    runs = compose_runs(
        ["task=tracr-proportion", "method=acdc", "threshold=0.001,1", f"run.root={tmp_path}"], sweep=True
    )
    shape = Shape.of(load_model("tracr-proportion").config.model_dump())
    most = [needs([(cell, shape)]) for cell, _ in runs]
    assert most[0].minutes >= most[1].minutes
    expected = {"mem_gb": -(-most[0].memory_mb // 1024), "timeout_min": most[0].minutes, "cpus_per_task": 1}
    assert estimated(runs, []) == [f"hydra.launcher.{name}={value}" for name, value in expected.items()]
    assert estimated(runs, ["hydra/launcher=submitit_local"])[1] == (
        f"hydra.launcher.timeout_min={sum(one.minutes for one in most)}"  # they share this machine's cores
    )
    typed = ["hydra.launcher.mem_gb=9", "+hydra.launcher.timeout_min=5"]
    assert estimated(runs, typed) == ["hydra.launcher.cpus_per_task=1"]
    (tmp_path / "models").mkdir()
    wide = asdict(shape) | {"layers": 9, "heads": 9, "d_model": 4096, "d_mlp": 16384}
    (tmp_path / "models" / "tracr-proportion.json").write_text(json.dumps({"config": wide}))
    assert int(estimated(runs, [])[0].split("=")[1]) > expected["mem_gb"]  # that file is read, and not the model


def test_the_launcher_is_the_one_typed_last() -> None:
    assert launcher_of(["a=b"]) == "basic"
    assert launcher_of(["hydra/launcher=joblib", "+hydra/launcher=submitit_slurm"]) == "submitit_slurm"


def test_a_lost_job_is_told_in_a_sentence_and_other_errors_are_not_ours() -> None:
    class UncompletedJobError(RuntimeError):
        pass

    for words, where in (
        ([], "results/.hydra/.submitit"),
        (["hydra.sweep.dir=jobs"], "jobs/.submitit"),
        (["hydra.sweep.dir=jobs", "+hydra.launcher.submitit_folder=logs/%j"], "logs/%j"),
    ):
        told = lost(UncompletedJobError("\nJob 3 failed\nat length"), "results", words)
        sentence = f"a job of the sweep was lost (Job 3 failed); its log lies below {where}; the same command goes on"
        assert str(told) == sentence
    assert lost(RuntimeError("of our own"), "results", []) is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hydra/sweeper=basic"], "cannot be used with other folders or sweepers"),
        (["hydra/launcher=submitit_slurm"], "hydra/launcher=submitit_slurm needs Slurm, and no srun was found here"),
        pytest.param(
            *([], "the submitit launcher is not installed; make cluster installs it"),
            marks=pytest.mark.skipif(importlib.util.find_spec("submitit") is not None, reason="it is installed"),
        ),
    ],
)
def test_what_cannot_be_launched_is_told(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no srun
    assert main(["-m", *SWEEP, "hydra/launcher=submitit_local", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="make cluster installs the submitit launcher")
def test_a_sweep_s_jobs_are_told_as_if_they_had_run_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", *SWEEP, f"run.root={tmp_path}", "hydra/launcher=submitit_local"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("-")[3] for line in lines] == ["t0.1", "t0.2"]
    assert main([*words, "seed=1", "run.memory_gb=0.000001"]) == 2
    assert "is too little: this search needs at least" in capsys.readouterr().err
