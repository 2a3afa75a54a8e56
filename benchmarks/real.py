"""The record of experiments, such as real and real-more: one row a finished cell, from the cells' files alone.

    snakemake --cores all --config experiment=real
    snakemake --cores all --config experiment=real-more
    python benchmarks/real.py --root results --json FILE

Rows: what the cell is, tests, kept edges, edges that differ from ACDC's circuit at its threshold, faithfulness on fresh
prompts, time, memory; of audited cells the audit; of cells searched again on other prompts how alike the circuits are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from output import publish

from pahq.cell.files import cell_folder, is_done, read_result
from pahq.circuits.circuit import Circuit
from pahq.experiments.compose import cells
from pahq.files.text import read_json
from pahq.resamples.variants import KINDS

BAND = ("share", "overturned", "could_differ", "hopeless", "bits_share")


def row(folder: Path, acdc: frozenset[str]) -> dict[str, Any]:
    """One cell; ``acdc``: the edges to compare it with."""
    found = read_result(folder)
    config = found.config
    edges = frozenset(Circuit.read(folder / "circuit.json").edges)
    values: dict[str, Any] = {
        "task": config.task.name,
        "method": config.method.label,
        "precision": config.precision.name,
        **config.precision.model_dump(include={"rounding", "compute", "kernel"}),
        "audit": config.audit,
        "threshold": config.threshold,
        "tests": found.tests,
        "kept": found.kept,
        "differing_from_acdc": len(edges ^ acdc),
        "size": config.size,
        "smallest_margin": found.search and found.search.smallest_margin,
        "noise": found.certainty and found.certainty.noise,
        "at_risk": found.certainty and found.certainty.at_risk,
        "start": found.search and found.search.start,
        "fresh": found.fresh.model_dump(),
        "seconds": round(found.seconds, 1),
        "peak_bytes": found.peak_bytes,
        "resumed": found.resumed,
    }
    if found.band is not None:
        values["band"] = found.band.model_dump(include=set(BAND))
    if (folder / "stability.json").exists():
        stable = read_json(folder / "stability.json")
        values["stability"] = {"asked": stable["asked"]} | {
            kind: {key: value for key, value in stable[kind].items() if key != "each"} for kind in KINDS
        }
    return values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("results"))
    parser.add_argument("--experiment", nargs="+", default=["real", "real-more"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    every = {cell_id: cell.config for name in options.experiment for cell_id, cell in cells(name).items()}
    done = {cell_id: cell_folder(options.root, cell_id) for cell_id in every}
    done = {cell_id: folder for cell_id, folder in done.items() if is_done(folder)}
    acdc = {
        (config.task.name, config.threshold): frozenset(Circuit.read(done[cell_id] / "circuit.json").edges)
        for cell_id, config in every.items()
        if config.method.name == "acdc" and cell_id in done
    }
    rows = [
        row(folder, acdc[place])
        for cell_id, folder in done.items()
        if (place := (every[cell_id].task.name, every[cell_id].threshold)) in acdc
    ]
    said = {"experiments": options.experiment, "cells": len(every), "finished": len(done)}
    publish(said | {"rows": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
