"""Copies an experiment's report to ``results/reference/EXPERIMENT``, where it is committed.

    snakemake --cores all --config experiment=default
    python tools/reference.py default --root results

Tables as Markdown and CSV, figures as PNG in few colours, and ``PROVENANCE.json``: with which version, when and on
which machine, and by which command. An experiment that is not finished is refused; with ``--missing-ok`` its report,
which then names the cells that are missing, is copied all the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from pahq.cell.files import cell_folder, is_done
from pahq.errors import PahqError
from pahq.experiments.compose import cells
from pahq.files.frames import analysis_folder, read_parquet
from pahq.files.text import write_json

OUT = Path(__file__).resolve().parents[1] / "results" / "reference"
PIXELS, COLOURS = 1600, 256  # of a figure: its width at most; a palette in which formats keep their colours


def copy_report(root: Path, experiment: str, out: Path, *, missing_ok: bool = False) -> Path:
    """Replace ``out/<experiment>`` by the report below ``root``; its folder.

    Raises PahqError where there is no report, where cells are missing, unless ``missing_ok``, and where the report
    leaves out cells that are finished by now, or the other way round.
    """
    analysis = analysis_folder(root, experiment)
    missing = [cell_id for cell_id in cells(experiment) if not is_done(cell_folder(root, cell_id))]
    if missing and not missing_ok:
        raise PahqError(
            f"{len(missing)} cells of {experiment!r} are not finished below {root}, {missing[0]} first; "
            "--missing-ok copies the report of the others"
        )
    evaluated = read_parquet(analysis, "cells")
    if set(read_parquet(analysis, "missing")["id"]) != set(missing):
        raise PahqError(
            f"the report in {analysis} is of other cells than are finished now; evaluate {experiment!r} again"
        )
    tables, figures = (analysis / name for name in ("tables", "figures"))
    if not (tables / "REPORT.md").is_file() or not list(figures.glob("*.png")):
        raise PahqError(f"{analysis} holds no tables or no figures; pahq tables and pahq figures make them")
    shutil.rmtree(out / experiment, ignore_errors=True)
    for name in ("tables", "figures"):
        (out / experiment / name).mkdir(parents=True)
    for path in sorted([*tables.glob("*.md"), *tables.glob("*.csv")]):
        shutil.copy(path, out / experiment / "tables" / path.name)
    shown = (tables / "REPORT.md").read_text(encoding="utf-8")
    for path in sorted(path for path in figures.glob("*.png") if f"../figures/{path.name}" in shown):
        small(path, out / experiment / "figures" / path.name)
    write_json(out / experiment / "PROVENANCE.json", _provenance(root, experiment, evaluated, len(missing)))
    return out / experiment


def small(path: Path, out: Path) -> None:
    """Write a figure as it is committed: in few colours, and no wider than ``PIXELS``."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((PIXELS, image.height))
    image.quantize(COLOURS).save(out, optimize=True)


def _provenance(root: Path, experiment: str, evaluated: pd.DataFrame, missing: int) -> dict[str, Any]:
    """Where the numbers come from. The machine is this one, on which an experiment's report is to be copied."""
    written = [(cell_folder(root, cell_id) / "result.json").stat().st_mtime for cell_id in evaluated["id"]]
    days = [datetime.fromtimestamp(when, UTC).date().isoformat() for when in (min(written), max(written))]
    return {
        "experiment": experiment,
        "command": f"snakemake --cores all --config experiment={experiment}",
        "version": sorted(set(evaluated["pahq_version"])),
        "torch": sorted(set(evaluated["torch_version"])),
        "python": sorted(set(evaluated["python_version"])),
        "first_cell": days[0],
        "last_cell": days[1],
        "machine": machine(),
        "device": sorted(set(evaluated["device"])),
        "cells": len(evaluated),
        "missing": missing,
        "seconds_of_searches": round(float(evaluated["seconds"].sum()), 1),
    }


def machine() -> str:
    """This machine in words: its processor, its cores and its system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"


def _processor() -> str:
    """The processor's name, where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main(argv: Sequence[str] | None = None) -> int:
    """``EXPERIMENT [--root results] [--missing-ok]``: copy, and say where to. 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="reference.py", description="copy an experiment's report to results/reference"
    )
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument("--root", type=Path, default=Path("results"), help="where the experiment was run")
    parser.add_argument("--out", type=Path, default=OUT, help="default: results/reference of this repository")
    parser.add_argument("--missing-ok", action="store_true", help="of an unfinished experiment too")
    given = parser.parse_args(argv)
    try:
        sys.stdout.write(f"{copy_report(given.root, given.experiment, given.out, missing_ok=given.missing_ok)}\n")
    except PahqError as error:
        sys.stderr.write(f"reference.py: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
