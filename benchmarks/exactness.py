"""Whether a float32 search keeps float64's circuit, how many tests float64 had to decide for that, and what it costs.

    python benchmarks/exactness.py --json FILE              nano's four tasks, KL, 16 prompts
    python benchmarks/exactness.py --smollm2 --json FILE    SmolLM2's ioi at 1e-4, the first 2,000 tests (make smollm2)

Three searches a row, each by the suffix engine on one thread: float32 with every test as it was measured, float32 as
cells run by default (tests within the noise are decided in float64), and float64. Seconds are CPU seconds of a search;
``sample_seconds`` is what measuring the noise takes when the search is over.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from output import publish

from pahq.cell.run import load
from pahq.circuits.order import Order
from pahq.config.cell import CellConfig
from pahq.engine.problem import cell_problem
from pahq.experiments.compose import compose_runs
from pahq.search.acdc import Decision, as_measured
from pahq.search.start import cell_doubts, start_search

TASKS = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")
THRESHOLDS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SMOLLM2_TESTS = 2000


def measure(task: str, threshold: float, examples: int | None, tests: int | None) -> dict[str, Any]:
    """One row: the three searches of a task at a threshold, the first ``tests`` tests of each."""
    typed = [f"task={task}", "method=acdc", f"threshold={threshold}", "task.metric=kl"]
    typed += [] if examples is None else [f"task.examples={examples}"]
    ((cell, _), (double, _)) = (compose_runs([*typed, f"engine.dtype={dtype}"])[0] for dtype in ("float32", "float64"))
    model, prompts = load(cell, "cpu")
    problem = cell_problem(cell, model, prompts.search)

    def search(of: CellConfig, on: Any, judge: Any) -> tuple[list[Decision], float]:
        start = time.process_time()
        order = Order(of.method.order, of.method.senders)
        found: Iterable[Decision] = start_search("suffix", on, order, of.search_threshold, judge=judge)
        return list(itertools.islice(found, tests)), time.process_time() - start

    doubts = cell_doubts(cell, problem)
    plain, plain_seconds = search(cell, problem, as_measured)
    settled, seconds = search(cell, problem, doubts)
    start = time.process_time()
    doubts.finish()
    sample_seconds = time.process_time() - start
    model, prompts = load(double, "cpu")
    exact, exact_seconds = search(double, cell_problem(double, model, prompts.search), as_measured)
    return {
        "task": task,
        "threshold": threshold,
        "tests": len(settled),
        "kept": len(kept(settled)),
        "differ_as_measured": len(kept(plain) ^ kept(exact)),
        "differ": len(kept(settled) ^ kept(exact)),
        "seconds_as_measured": plain_seconds,
        "seconds": seconds,
        "sample_seconds": sample_seconds,
        "float64_seconds": exact_seconds,
        "certainty": doubts.record(settled),
    }


def kept(decisions: Sequence[Decision]) -> set[int]:
    return {decision.edge for decision in decisions if not decision.removed}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--examples", type=int, default=16, help="of nano's tasks")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.smollm2:
        rows = [measure("smollm2-ioi", 1e-4, None, SMOLLM2_TESTS)]
    else:
        rows = [measure(task, threshold, options.examples, None) for task in TASKS for threshold in THRESHOLDS]
    publish({"settings": {k: v for k, v in vars(options).items() if k != "json"}, "rows": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
