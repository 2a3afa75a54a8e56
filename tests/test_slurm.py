"""The Slurm profile on a real Slurm of one node, a job cancelled in mid-search included: `make slurm`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from support import slurm
from support.places import ROOT

from pahq.cell.journal import read_journal

pytestmark = pytest.mark.slurm
# A compiled program's cells, which take no time, and two longer searches, so that one can be cancelled in the middle.
ROWS = [
    {"task": "tracr-proportion", "method": "pahq", "precision": "int8", "threshold": [0.001, 0.01]},
    {"task": "nano-induction", "method": "acdc", "precision": "float32", "threshold": [1e-5, 1e-3]},
]
OF_TIME = re.compile("seconds|ms_per_test|peak")  # columns that differ between two runs of one experiment
OF_COST = re.compile(f"{OF_TIME.pattern}|note")  # of the table of costs too, whose note says that a search was resumed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    if why := slurm.missing():
        pytest.skip(why)
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("no snakemake-executor-plugin-slurm here: make slurm installs it")
    with slurm.one_node(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that has the experiment."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pahq", "conf", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    (folder / "conf" / "experiment" / "cluster.yaml").write_text(json.dumps(ROWS))
    return folder


def command(root: str, *more: str) -> list[str]:
    sizes = ("random_circuits=5", "inflated=5")
    said = ("--config", "experiment=cluster", f"root={root}", "wandb=disabled", *sizes)
    return [sys.executable, "-m", "snakemake", *more, *said]


def tables(root: Path) -> dict[str, pd.DataFrame]:
    """Every table of the experiment, without what says how long it took and in how much memory."""
    folder = root / "analysis" / "cluster" / "tables"
    found = {path.name: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    apart = {name: OF_COST if name == "cost.csv" else OF_TIME for name in found}
    return {name: table[[c for c in table if not apart[name].search(c)]] for name, table in found.items()}


def test_a_run_on_slurm_with_a_cancelled_job_ends_in_the_tables_of_a_local_run(cluster: None, place: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(place)}
    here = subprocess.run(
        command("here", "--cores", "2"), cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
    assert here.returncode == 0, here.stdout + here.stderr

    without = ("--slurm-no-account", "--slurm-status-command", "squeue")  # this Slurm has no accounting
    quick = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
    full = command("there", "--profile", "profiles/slurm", *without, *quick, "--latency-wait", "5", "--verbose")
    log = place / "there.log"
    with log.open("w") as output:
        running = subprocess.Popen(full, cwd=place, env=environment, stdout=output, stderr=output)
        try:
            journal = _searching(running, log, place / "there" / "cells" / "nano-induction")
            before = _cancelled(journal)
            assert running.wait(timeout=900) == 0, log.read_text()
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()

    after = read_journal(journal)
    assert after[: len(before)] == before  # seconds included: these tests were not run again
    assert len(before) < len(after)
    assert json.loads((journal.parent / "result.json").read_text())["resumed"] is True
    local, remote = tables(place / "here"), tables(place / "there")
    assert len(local) > 10
    assert list(local) == list(remote)
    for name, table in local.items():
        pd.testing.assert_frame_equal(table, remote[name], check_exact=True, obj=name)


def _searching(running: subprocess.Popen[bytes], log: Path, cells: Path) -> Path:
    """The journal of a search that is in its middle."""
    deadline = time.monotonic() + 300
    while True:
        for journal in cells.glob("*/decisions.jsonl"):
            if len(journal.read_bytes().splitlines()) > 20 and not (journal.parent / "result.json").exists():
                return journal
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


def _cancelled(journal: Path) -> list[object]:
    """Cancel the job of that search as its owner would; what its journal had when it was over."""
    listed = subprocess.run(["squeue", "-h", "-o", "%i %k"], capture_output=True, text=True, check=True).stdout
    [job] = [line.split()[0] for line in listed.splitlines() if "nano-induction" in line]
    subprocess.run(["scancel", job], check=True)
    deadline = time.monotonic() + 60
    while subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True).stdout.strip():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (journal.parent / "result.json").exists()  # it was in mid-search
    return list(read_journal(journal))
