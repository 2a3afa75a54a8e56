"""Thousands of tiny cells, from an experiment's file to its tables: what each step takes, in time and memory.

    python benchmarks/grid.py --cells 5000 --run 1000 --json FILE

The experiment is made for it, in a copy of the program in a temporary folder: ACDC and PAHQ in four formats on two
compiled programs, ten seeds, and as many thresholds as that takes. All its ``--cells`` are composed, and handed to
Snakemake in a dry run. Of an experiment of ``--run`` cells like these, everything is computed and made into tables:
one job of it alone, once up to its tenth cell and then to its end, which tells what a cell costs beside a process's
start; then all the others by Snakemake; then the tables once more, of all the cells and of a tenth of them, which tells
what memory grows with. Each step is a process of its own. CPU seconds count, of a process and its children: a machine
that others use says little by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from output import publish

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 10
FEW = ("random_circuits=1", "inflated=1")  # of faithfulness: how many circuits it draws is not what is measured here
SERIES = 10 * SEEDS  # cells that differ in no threshold: two tasks, five series each, every seed
ROWS = """
- task: [tracr-reverse, tracr-proportion]
  method: {method}
  precision: [{precision}]
  seed: {seeds}
  threshold: {{log10: [-5, -1, {count}]}}
  together: true
"""
COMPOSE = """
import json, resource, time
from pahq.experiments.compose import groups
start = time.process_time()
found = groups("NAME")
print(json.dumps({
    "compose_cpu_seconds": time.process_time() - start, "cells": sum(len(group.cells) for group in found),
    "jobs": len(found), "most_cells_of_a_job": max(len(group.cells) for group in found),
    "largest": max(found, key=lambda group: len(group.cells)).overrides}))
"""


def copied(folder: Path, sizes: dict[str, tuple[int, int]]) -> None:
    """The program, with an experiment by each name of so many thresholds and seeds."""
    for name in ("pahq", "conf", "workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder / name)
    for name, (count, seeds) in sizes.items():
        series = (("acdc", "float32"), ("pahq", "fp8, int8, int4, bf16"))
        rows = [ROWS.format(method=one, precision=some, seeds=list(range(seeds)), count=count) for one, some in series]
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text("".join(rows))


def step(folder: Path, *words: str) -> tuple[dict[str, float], str]:
    """What a command took, its children counted, and what it said. ``peak_mib``: of the largest process."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    start = time.monotonic()
    with (folder / "said").open("w+") as said:
        going = subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(going.pid, 0)
        going.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if going.returncode:
        raise SystemExit(f"grid.py: {' '.join(words)[:200]} ended with {going.returncode}:\n{text[-2000:]}")
    taken = {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}
    return {name: round(value, 2) for name, value in (taken | {"seconds": time.monotonic() - start}).items()}, text


def composed(folder: Path, name: str) -> dict[str, Any]:
    taken, text = step(folder, "-c", COMPOSE.replace("NAME", name))
    found: dict[str, Any] = taken | json.loads(text.splitlines()[-1])
    return found


def snakemake(folder: Path, name: str, *more: str) -> tuple[dict[str, float], str]:
    """Up to the tables: pages and figures are for grids that people look at cell by cell."""
    goal = f"results/analysis/{name}/tables/REPORT.md"
    said = ("--config", f"experiment={name}", "wandb=disabled", *FEW)
    return step(folder, "-m", "snakemake", goal, "--cores", "2", *more, *said)


def planned(folder: Path, name: str) -> dict[str, Any]:
    """A dry run, with the longest command that a shell is given: a system takes no word of 131,072 bytes or more."""
    taken, text = snakemake(folder, name, "--dry-run", "--printshellcmds", "--quiet", "host")
    commands = [line for line in text.splitlines() if "-m pahq" in line]
    return taken | {"jobs": len(commands), "longest_command_bytes": max(len(line.encode()) for line in commands)}


def job(folder: Path, words: Sequence[str], cells: int) -> dict[str, Any]:
    """The largest job by itself: its first cells, then the others; and the same again, all of them being finished."""
    where = ("run.root=results", "run.progress=false", "wandb=disabled")
    full = ("-m", "pahq", "-m", *words, *where)
    first = _typed_alone(words)
    one, _ = step(folder, "-m", "pahq", *first, *where)
    rest, _ = step(folder, *full)
    again, _ = step(folder, *full)
    results = [json.loads(path.read_text()) for path in folder.glob("results/cells/*/*/result.json")]
    assert len(results) == cells, (len(results), cells)
    per_cell = (rest["cpu_seconds"] - one["cpu_seconds"]) / (cells - 1)
    return {
        "cells": cells,
        "one_cell": one,
        "all_others": rest,
        "all_finished": again,
        "cpu_seconds_per_cell": per_cell,
        "start_cpu_seconds": one["cpu_seconds"] - per_cell,
        "search_seconds_per_cell": sum(one["seconds"] for one in results) / cells,
        "tests_per_cell": sum(one["tests"] for one in results) / cells,
    }


def _typed_alone(words: Sequence[str]) -> list[str]:
    """The first cell of a sweep."""
    return [word.split(",")[0] for word in words]


def tables(folder: Path, name: str) -> dict[str, dict[str, float]]:
    return {what: step(folder, "-m", "pahq", what, name)[0] for what in ("evaluate", "tables")}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5000, help=f"composed and planned; a multiple of {SERIES}")
    parser.add_argument("--run", type=int, default=1000, help="computed; 0: none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    for count in (options.cells, options.run):
        if count % SERIES or count == SERIES or options.cells < 1:  # a grid of thresholds has two at least
            parser.error(f"a multiple of {SERIES} from {2 * SERIES} on was expected, got {count}")
    sizes = {"grid": (options.cells // SERIES, SEEDS), "fifth": (max(2, options.cells // SERIES // 5), SEEDS)}
    if options.run:
        sizes |= {"ran": (options.run // SERIES, SEEDS), "tenth": (options.run // SERIES, 1)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copied(folder, sizes)
        report: dict[str, Any] = {
            "settings": {"cells": options.cells, "run": options.run},
            "load_average": round(os.getloadavg()[0], 1),
            "composed": {name: composed(folder, name) for name in ("fifth", "grid")},
            "planned": {name: planned(folder, name) for name in ("fifth", "grid")},
        }
        if options.run:
            whole = composed(folder, "ran")
            report["job"] = job(folder, whole["largest"], whole["most_cells_of_a_job"])
            report["run"] = snakemake(folder, "ran")[0] | {"jobs": whole["jobs"]}
            report["tables"] = {
                name: {"cells": options.run // (1 if name == "ran" else SEEDS), **tables(folder, name)}
                for name in ("tenth", "ran")
            }
    for one in report["composed"].values():
        del one["largest"]
    from pahq.cell.provenance import versions  # not before: a process counts the memory of the one that started it

    report["versions"] = versions() | {"snakemake": version("snakemake")}
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
