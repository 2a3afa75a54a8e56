"""The workflow from end to end on the smoke experiment: once, again, after a sweep, after a kill."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import yaml
from support.forks import Forks
from support.places import ROOT

from pahq.cell.journal import read_journal
from pahq.experiments.compose import cells, groups
from pahq.model import load_model

FIGURES = (
    "roc",
    "edges_kl",
    "methods",
    "cost",
    "pairs",
    "bits",
    "agreement",
    "errors",
    "faithfulness",
    "stability",
    "inclusion",
    "pareto",
)


def command(folder: Path, *more: str, python: Path = Path(sys.executable)) -> list[str]:
    """Snakemake on a working folder of its own, where its locks and records lie too."""
    files = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [str(python), "-m", "snakemake", *files, "--cores", "2", *more]


def snakemake(forks: Forks, folder: Path, *more: str, experiment: str = "smoke") -> str:
    """Run to the end, jobs in forks; return all output."""
    config, more = (more[1:], ()) if more[:1] == ("--config",) else ((), more)
    full = command(
        folder,
        *more,
        "--config",
        f"experiment={experiment}",
        "wandb=disabled",
        *config,
        python=forks.bin / "python",
    )
    done = subprocess.run(full, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


@contextmanager
def going(full: list[str], log: Path, folder: Path, until: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run in the background, from when ``until`` is found in its folder; killed, if it still lives afterwards."""
    with log.open("w") as output:
        running = subprocess.Popen(full, stdout=output, stderr=output, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while not list(folder.glob(until)):
                assert running.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.002)
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def results(folder: Path, root: str = "results") -> dict[str, Path]:
    return {cell: folder / root / "cells" / cell / "result.json" for cell in cells("smoke")}


def assert_complete(folder: Path, root: str = "results", resamples: int = 20) -> None:
    for cell, path in results(folder, root).items():
        assert json.loads(path.read_text())["id"] == cell
    for cell in [cell for cell, what in cells("smoke").items() if what.asked.resamples]:
        found = json.loads((folder / root / "cells" / cell / "stability.json").read_text())
        assert (found["id"], found["resamples"]["circuits"]) == (cell, resamples)
    analysis = folder / root / "analysis" / "smoke"
    assert (analysis / "tables" / "REPORT.md").is_file()
    assert (analysis / "faithfulness" / "tracr-proportion.parquet").is_file()
    assert all(json.loads((path.parent / "faithfulness.json").read_text()) for path in results(folder, root).values())
    assert all((analysis / "figures" / f"{name}.png").stat().st_size for name in FIGURES)
    pages = [folder / root / "report.html", folder / root / "report" / "smoke.html"]
    pages += [folder / root / "report" / "smoke" / f"{cell}.html" for cell in cells("smoke")]
    assert all("</html>" in page.read_text() for page in pages)


class FirstRun(NamedTuple):
    """A folder in which the smoke experiment has run once, and what a dry run and a second run said meanwhile."""

    folder: Path
    looked: subprocess.CompletedProcess[str]
    second: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    folder, log = tmp_path_factory.mktemp("smoke"), tmp_path_factory.mktemp("log") / "output"
    full = command(folder, "--config", "experiment=smoke", "wandb=disabled")
    with going(full, log, folder, ".snakemake/locks/*.output.lock") as running:
        os.kill(running.pid, signal.SIGSTOP)  # alive, and no faster than the others
        looked = subprocess.run([*full, "-n"], capture_output=True, text=True)
        second = subprocess.run(full, capture_output=True, text=True)
        os.kill(running.pid, signal.SIGCONT)
        assert running.wait(timeout=300) == 0, log.read_text()
    assert "profiles/default" in log.read_text()  # found without being named
    return FirstRun(folder, looked, second)


@pytest.fixture(scope="module")
def finished(first_run: FirstRun) -> Path:
    return first_run.folder


def test_the_smoke_experiment_runs_to_tables_and_figures(finished: Path) -> None:
    assert_complete(finished)
    assert (finished / "results" / "models" / "tracr-proportion.json").is_file()
    for group in groups("smoke"):
        log = (finished / "results" / "logs" / "smoke" / f"{group.name}.log").read_text()
        assert all(f"{cell}: " in log for cell in group.cells)
    logs = "".join(path.read_text() for path in (finished / "results" / "logs" / "smoke").glob("*.log"))
    assert "\n4 of 4 cells done\n" in logs  # of all groups together


def test_a_second_time_there_is_nothing_to_do(forks: Forks, finished: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in results(finished).values()}
    assert "Nothing to be done" in snakemake(forks, finished)
    assert stamps == {path: path.stat().st_mtime_ns for path in results(finished).values()}


def test_snakemakes_own_report_holds_findings_figures_tables_and_circuits(
    forks: Forks, finished: Path, tmp_path: Path
) -> None:
    snakemake(forks, finished, "--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as packed:
        held = {Path(name).name: packed.read(name) for name in packed.namelist()}
    root = finished / "results"
    kept = [root / "analysis" / "smoke" / "figures" / f"{name}.svg" for name in FIGURES]
    kept += [root / "analysis" / "smoke" / "tables" / "circuits.csv", root / "report" / "smoke.html"]
    kept += [root / "report" / "smoke" / f"{cell}.html" for cell in cells("smoke")]
    assert [path for path in kept if held.get(path.name) != path.read_bytes()] == []
    text = held["report.html"].decode()
    assert all(f'"{name}"' in text for name in ("Circuits", "Figures", "Findings", "Tables"))
    assert "Circuits of a language model by PAHQ, experiment smoke." in text


def test_sizes_of_stability_and_faithfulness_are_settings(tmp_path: Path) -> None:
    sizes = ("--config", "resamples=3", "seeds=1", "random_circuits=40")
    full = [*command(tmp_path, "-n", "-p", "--quiet", "host"), *sizes, "experiment=smoke", "wandb=disabled"]
    listed = subprocess.run(full, capture_output=True, text=True, timeout=300, check=True)
    asked = [line for line in (listed.stdout + listed.stderr).splitlines() if "python -m pahq" in line]
    assert any("pahq stability" in line and "--n 3 --seeds 1 --threads" in line for line in asked)
    assert any("pahq faithfulness" in line and "--random-circuits 40" in line for line in asked)


def test_jobs_ask_for_memory_time_and_a_gpu_once_their_model_is_known(finished: Path, tmp_path: Path) -> None:
    def jobs(folder: Path, *said: str) -> str:
        full = [*command(folder, "-n", "-F", "--quiet", "host"), "--config", "experiment=smoke", *said]
        listed = subprocess.run(full, capture_output=True, text=True, timeout=300, check=True)
        return listed.stdout + listed.stderr

    unknown = re.findall(r"rule cells_.*?resources: (.*?)\n", jobs(tmp_path), re.DOTALL)
    assert len(unknown) == 2
    assert all("mem_mb=<TBD>" in line and "runtime=<TBD>" in line and "gpu" not in line for line in unknown)
    known = jobs(finished, "device=cuda")
    asked = re.findall(r"rule (?:cells|stability)_.*?resources: (.*?)\n", known, re.DOTALL)
    found = [{name: int(re.search(rf"{name}=(\d+)", line)[1]) for name in ("mem_mb", "runtime")} for line in asked]
    assert len(found) == 4
    assert all(1200 < one["mem_mb"] < 1800 and 10 <= one["runtime"] < 60 for one in found)
    assert known.count("gpu=1") == 2


def test_every_cells_stability_is_measured_if_asked(tmp_path: Path) -> None:
    def asked(*said: str) -> list[str]:
        full = [*command(tmp_path, "-n", "-p", "--quiet", "host"), "--config", "experiment=smoke", *said]
        listed = subprocess.run(full, capture_output=True, text=True, timeout=300, check=False)
        return (listed.stdout + listed.stderr).splitlines()

    def named(lines: list[str]) -> set[str]:
        jobs = [line for line in lines if "python -m pahq stability" in line]
        return {cell for cell in cells("smoke") if any(f"/{cell} " in line for line in jobs)}

    assert named(asked("stability_of=all")) == set(cells("smoke"))
    assert named(asked()) == {cell for cell, what in cells("smoke").items() if what.asked.resamples}
    without = asked("stability_of=none")
    assert named(without) == set()
    assert any("python -m pahq tables" in line for line in without)
    assert any("unknown stability_of 'most'; known: all, marked, none" in line for line in asked("stability_of=most"))


def test_more_resamples_than_are_there_are_measured_and_fewer_are_not(finished: Path) -> None:
    def jobs(*counts: str) -> int:
        asked = ("-n", "-p", "--quiet", "host", "--config", "experiment=smoke", "wandb=disabled", *counts)
        listed = subprocess.run(command(finished, *asked), capture_output=True, text=True, timeout=300, check=True)
        return (listed.stdout + listed.stderr).count("python -m pahq stability")

    assert jobs("resamples=20", "seeds=5") == 0  # what the rows ask
    assert jobs("resamples=21") == 2


def test_a_newer_model_file_leaves_the_cells_as_they_are(forks: Forks, finished: Path) -> None:
    with (finished / "results" / "models" / "tracr-proportion.json").open("a") as file:
        file.write("\n")  # the content too: a newer time alone does not deceive Snakemake
    assert "Nothing to be done" in snakemake(forks, finished)


def test_cells_of_a_sweep_are_up_to_date(forks: Forks, tmp_path: Path) -> None:
    """They are Snakemake's cells, typed in another way; only the analysis is left to do."""
    for group in groups("smoke"):
        typed = [sys.executable, "-m", "pahq", "-m", *reversed(group.overrides), "wandb=disabled"]
        subprocess.run(typed, cwd=tmp_path, check=True, capture_output=True)
    stamps = {path: path.stat().st_mtime_ns for path in results(tmp_path).values()}
    output = snakemake(forks, tmp_path, "--config", "resamples=2", "seeds=0")
    assert "Finished jobid" in output
    assert not [group.name for group in groups("smoke") if group.name in output]
    assert_complete(tmp_path, resamples=2)
    assert stamps == {path: path.stat().st_mtime_ns for path in results(tmp_path).values()}


def test_killed_in_mid_run_it_goes_on_where_it_stopped_under_an_odd_root_too(forks: Forks, tmp_path: Path) -> None:
    root, folder = "Ergebnisse (ü), it's a=b [1]", tmp_path / "place"
    said = ("--config", f"root={root}", "resamples=2", "seeds=0")
    full = command(folder, *said, "experiment=smoke", "wandb=disabled")
    folder.mkdir()
    with going(full, tmp_path / "output", folder / root, "cells/*/*/decisions.jsonl") as running:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    before = {path: read_journal(path) for path in (folder / root).glob("cells/*/*/decisions.jsonl")}
    assert not all(path.exists() for path in results(folder, root).values())  # it was in mid-run

    assert list(folder.glob(".snakemake/locks/*.lock"))  # what Snakemake itself would not go on from
    snakemake(forks, folder, *said)
    assert_complete(folder, root, resamples=2)
    for path, lines in before.items():
        assert read_journal(path)[: len(lines)] == lines  # seconds included: these tests were not run again
    assert len(list((folder / root).glob("cells/*/*/result.json"))) == len(cells("smoke"))
    assert {path.name for path in folder.iterdir()} == {root, ".snakemake"}


def test_killed_when_a_model_was_just_written_all_the_rest_is_still_done(tmp_path: Path) -> None:
    """Snakemake would make the file anew that it marked as incomplete, and find no reason to do any cell."""
    model = tmp_path / "results" / "models" / "tracr-proportion.json"
    marker = base64.urlsafe_b64encode(b"results/models/tracr-proportion.json").decode()
    written = json.dumps({"config": load_model("tracr-proportion").config.model_dump(mode="json")})
    for path, text in ((model, written), (tmp_path / ".snakemake" / "incomplete" / marker, "")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    full = command(tmp_path, "-n", "--config", "experiment=smoke", "wandb=disabled")
    listed = subprocess.run(full, capture_output=True, text=True, timeout=300, check=True)
    assert all(group.name in listed.stdout + listed.stderr for group in groups("smoke"))


def test_two_live_runs_stay_apart(first_run: FirstRun) -> None:
    """The second is refused by Snakemake, as long as the first lives; a dry run beside it changes nothing."""
    assert first_run.looked.returncode == 0, first_run.looked.stdout + first_run.looked.stderr
    assert first_run.second.returncode != 0
    assert "LockException" in first_run.second.stdout + first_run.second.stderr


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("experment=smoke", "unknown --config key 'experment' (is it experiment?); known: experiment, root, wandb"),
        ("resamples=x", "--config resamples: a whole number from 2 on was expected, got 'x'"),
    ],
)
def test_what_config_says_wrongly_is_told_before_anything_runs(tmp_path: Path, said: str, sentence: str) -> None:
    done = subprocess.run(command(tmp_path, "--config", said), capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert sentence in output
    assert "Traceback" not in output
    assert "usage:" not in output
    assert not (tmp_path / "results").exists()


def test_an_unfinished_cell_of_a_failed_job_keeps_its_journal(forks: Forks, finished: Path) -> None:
    """A job that fails loses its declared outputs; the journal makes the cell anew without a single test."""
    [cell, beside, *_] = cells("smoke")
    folder = finished / "results" / "cells" / cell
    other = finished / "results" / "cells" / beside / "result.json"
    left = other.read_bytes()
    journal, result = (folder / "decisions.jsonl").read_bytes(), json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    snakemake(forks, finished, f"results/cells/{cell}/result.json")
    again = json.loads((folder / "result.json").read_text())
    assert (folder / "decisions.jsonl").read_bytes() == journal
    assert again["resumed"] is True
    assert other.read_bytes() == left  # a finished cell of the same job is as it was
    same = ("id", "config", "model_digest", "tests", "kept", "fresh", "seconds")
    assert {key: again[key] for key in same} == {key: result[key] for key in same}


def test_an_unknown_experiment_is_told_in_one_sentence(tmp_path: Path) -> None:
    full = command(tmp_path, "--config", "experiment=papr")
    done = subprocess.run(full, capture_output=True, text=True)
    assert done.returncode != 0
    known = "ablations, changes, compare, compare-real, default, gemma3, masks, masks-real, paper, products, real"
    assert f"unknown experiment 'papr'; known: {known}" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_job_that_fails_says_why_on_the_terminal(tmp_path: Path) -> None:
    wanted = f"results/cells/{next(iter(cells('smoke')))}/result.json"
    full = command(tmp_path, wanted, "--config", "experiment=smoke", "wandb=maybe")
    done = subprocess.run(full, capture_output=True, text=True)
    assert done.returncode != 0
    assert "pahq: error: run.wandb: Input should be 'auto', 'online'" in done.stdout + done.stderr
    log = tmp_path / "results" / "logs" / "smoke" / "tracr-proportion-acdc-float32.log"
    assert log.read_text().startswith("pahq: error: ")


def test_a_model_that_cannot_be_had_fails_its_own_cells_alone(forks: Forks, tmp_path: Path) -> None:
    """One sentence for it, all other cells done; then the analysis takes what is there and lists the rest."""
    for name in ("pahq", "conf", "workflow", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    absent = {"name": "absent", "source": "org/absent", "revision": "0123456789abcdef0123456789abcdef01234567"}
    (tmp_path / "conf" / "model" / "absent.yaml").write_text(json.dumps(absent))
    row = {"task": "tracr-proportion", "method": "acdc", "precision": "float32", "threshold": 0.01}
    rows = [row | {"model": "absent"}, row | {"model": "tracr-proportion"}]
    (tmp_path / "conf" / "experiment" / "partly.yaml").write_text(json.dumps(rows))
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> tuple[int, str]:
        full = [str(forks.bin / "python"), "-m", *words]
        done = subprocess.run(full, cwd=tmp_path, env=offline, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    code, output = run("snakemake", "--cores", "1", "--config", "experiment=partly", "wandb=disabled")
    assert code != 0
    sentence = "hub model 'org/absent' is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    assert f"pahq: error: {sentence}\n" in output
    assert "Traceback" not in output
    assert "completed successfully, but" not in output  # it failed by its exit status
    [done] = tmp_path.glob("results/cells/*/*/result.json")
    assert json.loads(done.read_text())["config"]["model"]["name"] == "tracr-proportion"
    for command in ("evaluate", "tables", "figures"):
        code, output = run("pahq", command, "partly")
        assert code == 0, output
    analysis = tmp_path / "results" / "analysis" / "partly"
    [reason] = pd.read_parquet(analysis / "missing.parquet")["reason"]
    assert reason == "not started"
    assert (analysis / "tables" / "REPORT.md").is_file()


def test_the_profile_lies_where_snakemake_looks() -> None:
    profile = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
    assert profile["rerun-incomplete"] is True
    assert profile["rerun-triggers"] == ["mtime"]
    assert profile["keep-going"] is True
    assert not (ROOT / "workflow" / "profiles").exists()


def test_rules_are_thin() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    assert re.findall(r"directory\(.*\)", rules) == ['directory(f"{ROOT}/report/{EXPERIMENT}")']  # pages made as one
    assert "run:" not in rules
    assert "script:" not in rules
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 45
