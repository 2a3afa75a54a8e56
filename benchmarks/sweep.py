"""What a grid of thresholds saves by sharing: ``pahq.sweep`` against one search after the other.

    python benchmarks/sweep.py --json FILE

The embedded model nano on its four tasks, 21 thresholds (10^linspace(-4, 0, 21), the grid of ACDC's docstring and
induction sweeps), KL. Both ways set up their clean values as they do in use: once a sweep, or once a search.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from output import publish

import pahq
from pahq.config.cell import TaskConfig
from pahq.tasks import build_task

TASKS = ("ioi", "greaterthan", "docstring", "induction")


def measure(kind: str, thresholds: list[float]) -> dict[str, Any]:
    """Seconds of both ways on one task, and whether they found the same circuits."""
    model = pahq.load_model("nano")
    task = build_task(TaskConfig(name=kind, kind=kind, examples=16, metric="kl"), model, 0)
    start = time.perf_counter()
    swept = pahq.sweep(model, task, thresholds, progress=False)
    shared = time.perf_counter() - start
    start = time.perf_counter()
    alone = {threshold: pahq.acdc(model, task, threshold, progress=False) for threshold in sorted(thresholds)}
    separate = time.perf_counter() - start
    same = sum(swept[threshold].edges == alone[threshold].edges for threshold in thresholds)
    tests = sum(len(found.decisions) for found in alone.values())
    return {"seconds_shared": shared, "seconds_separate": separate, "gain": separate / shared, "tests": tests} | {
        "thresholds": len(thresholds),
        "equal_circuits": same,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    thresholds = [float(value) for value in 10 ** np.linspace(-4, 0, 21)]
    publish({kind: measure(kind, thresholds) for kind in TASKS}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
