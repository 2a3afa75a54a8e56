"""What audit=band does on the embedded model nano: edges differing from ACDC without and with it, tests audited, time.

    python benchmarks/audit.py --root FOLDER --json FILE

Cells are run (or read, if they are finished) below FOLDER. Memory is no part of it: cells share a process here.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from output import publish

from pahq.cell import run_cell
from pahq.circuit import Circuit
from pahq.config import RunConfig
from pahq.experiment import compose_runs

TASKS = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")


def circuit(root: Path, *overrides: str) -> tuple[frozenset[str], dict[str, Any]]:
    """Edges and result of the cell so typed."""
    ((cell, _),) = compose_runs(overrides)
    found = run_cell(cell, RunConfig(root=str(root), wandb="disabled", progress=False))
    return frozenset(Circuit.read(found.folder / "circuit.json").edges), dict(found.values)


def measure(root: Path, task: str, threshold: str, method: str, precision: str) -> dict[str, Any]:
    base = (f"task={task}", f"threshold={threshold}")
    low = (*base, f"method={method}", f"precision={precision}")
    acdc, exact = circuit(root, *base, "method=acdc")
    unaudited, plain = circuit(root, *low)
    audited, values = circuit(root, *low, "audit=band")
    return {
        **{"task": task, "threshold": float(threshold), "method": method, "precision": precision},
        **{"tests": values["tests"], "differing_unaudited": len(unaudited ^ acdc), "differing": len(audited ^ acdc)},
        "audit": values["certainty"]["audit"],
        "seconds": {"acdc": exact["seconds"], "unaudited": plain["seconds"], "audited": values["seconds"]},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--thresholds", default="0.003,0.01,0.03,0.1")
    parser.add_argument("--precisions", default="int8,fp8,int4")
    parser.add_argument("--methods", default="pahq")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = (options.thresholds, options.methods, options.precisions)
    rows = [measure(options.root, *cell) for cell in product(TASKS, *(words.split(",") for words in grid))]
    publish({"torch": torch.__version__, "threads": 1, "rows": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
