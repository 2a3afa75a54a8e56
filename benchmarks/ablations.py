"""What focus, scales and re-measuring do to effects: |effect - full-precision effect| of every edge, on the model nano.

    python benchmarks/ablations.py --json FILE

Every edge is tested in the whole graph, where its effect does not hang on earlier decisions. Effects are taken from the
reference engine: in full precision, and per format with each focus and scale. ``remeasured`` is PAHQ's definition (the
loss before the edge goes is measured under the same focus); without it one loss, measured with no head in focus, serves
all edges, so that what focus alone changes is booked on the edge. ``flipped`` counts edges that change sides of the
threshold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from output import publish
from torch import Tensor

from pahq.config.cell import CellConfig
from pahq.engine.base import Trial
from pahq.engine.losses import losses_for, rows_of
from pahq.engine.problem import cell_problem
from pahq.engine.reference import ReferenceEngine, circuit_stream
from pahq.experiments.compose import compose_runs
from pahq.model import load_model
from pahq.precision.store import focus_of
from pahq.tasks import build_task
from pahq.tasks.metrics import gather_items

TASKS = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")
PRECISIONS = ("bf16", "fp8", "fp8-head", "int8", "int8-head", "int4s", "int4", "nf4")
FOCI = ("none", "receiver", "sender", "both")
THRESHOLD = 0.01


def effects(cell: CellConfig, *, full: bool = False) -> dict[str, Tensor]:
    """Every edge's effect in the whole graph, with and without the re-measured baseline."""
    model = load_model(cell.model.source)
    problem = cell_problem(cell, model, build_task(cell.task, model, cell.seed).search, full=full)
    engine = ReferenceEngine(problem)
    edges = range(len(problem.graph.edges))
    whole = gather_items(circuit_stream(problem, engine.present), rows_of(problem)[0])
    unfocused = float(losses_for(problem)(whole))
    before, known = [], dict[frozenset[tuple[int, int]], float]()
    for edge in edges:
        focus = focus_of(problem.graph, problem.graph.edges[edge], problem.focus)
        if focus not in known:
            known[focus] = engine.measure([Trial(edge, ())])[0]
        before.append(known[focus])
    after = torch.tensor(engine.measure([Trial(edge, (edge,)) for edge in edges]), dtype=torch.float64)
    return {"remeasured": after - torch.tensor(before, dtype=torch.float64), "once": after - unfocused}


def row(task: str, precision: str, focus: str, exact: Tensor) -> list[dict[str, Any]]:
    method = ["method=rtn-q"] if focus == "none" else ["method=pahq", f"method.focus={focus}"]
    ((cell, _),) = compose_runs([f"task={task}", f"precision={precision}", "engine=reference", *method])
    rows = []
    for baseline, found in effects(cell).items():
        error = (found - exact).abs()
        shares = torch.quantile(error, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)).tolist()
        rows.append(
            {
                **{"task": task, "precision": precision, "focus": focus, "baseline": baseline},
                **dict(zip(("median", "q90", "q99"), shares, strict=True)),
                "largest": float(error.max()),
                "flipped": int(((found < THRESHOLD) != (exact < THRESHOLD)).sum()),
            }
        )
    return rows if focus != "none" else rows[:1]  # nothing in focus: both are the same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="nine minutes of one core each")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    edges: dict[str, int] = {}
    for task in options.tasks.split(","):
        ((cell, _),) = compose_runs([f"task={task}", "method=acdc"])
        exact = effects(cell, full=True)["remeasured"]
        edges[task] = len(exact)
        for precision in options.precisions.split(","):
            for focus in FOCI:
                rows += row(task, precision, focus, exact)
    publish({"threshold": THRESHOLD, "edges": edges, "rows": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
