"""What masks that are learnt are worth: KL against edges, beside scores from gradients and a search, on nano's tasks.

    python benchmarks/masks.py --json FILE

Every method gets the prompts that a cell of the task searches, and its circuits are judged on the task's fresh prompts.
Edges are those on a path from the embedding to the logits. Seconds are CPU seconds of one process on one thread: of one
scoring or search, or for Edge Pruning of one training, since it has one for each size. HISP has the task's own metric,
all others KL. ACDC is here for thresholds, so that its sizes are other ones. ``--steps`` shortens the trainings.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from output import publish

import pahq
from pahq.circuits.circuit import Circuit
from pahq.config.method import USUAL
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits
from pahq.experiments.compose import compose_runs
from pahq.scores.start import score
from pahq.tasks import build_task

TASKS = {"nano-ioi": "logit_diff", "nano-greaterthan": "prob_diff", "nano-docstring": "margin", "nano-induction": "nll"}
SIZES = (0.02, 0.05, 0.1)
THRESHOLDS = (0.001, 0.01, 0.1, 0.3)
ONCE: dict[str, dict[str, Any]] = {  # scorings from which circuits of every size follow
    "eap-ig": {"method": "eap-ig"},
    "hisp": {"method": "hisp"},
    "random": {"method": "random"},
    "sp": {"method": "sp", "training": {"steps": 300, "learning_rate": 0.05}},
}


def row(judge: Problem, circuit: Circuit, seconds: float) -> dict[str, Any]:
    """Edges of a circuit, its KL divergence on the prompts of ``judge``, and what it took."""
    logits = circuit_logits(judge, torch.tensor(circuit.present))
    return {
        "edges": len(circuit),
        "kl": round(float(judge.objective.value(logits)), 4),
        "cpu_seconds": round(seconds, 2),
    }


def task_rows(name: str, asked: Sequence[str], steps: int | None, seeds: int) -> dict[str, Any]:
    """By method, a row a circuit."""
    ((cell, _),) = compose_runs([f"task={name}", "method=acdc", "threshold=0.1"])
    model = pahq.load_model("nano")
    task = build_task(cell.task, model, cell.seed)
    problems = {
        metric: build_problem(model, task.search, metric=metric, direct_edges=False) for metric in ("kl", TASKS[name])
    }
    judge = build_problem(model, task.fresh, metric="kl", direct_edges=False)
    found: dict[str, Any] = {}
    if "acdc" in asked:
        found["acdc"] = []
        for threshold in THRESHOLDS:
            clock = time.process_time()
            circuit = pahq.acdc(model, task.search, threshold, direct_edges=False, progress=False).circuit
            seconds = time.process_time() - clock
            found["acdc"].append({"threshold": threshold} | row(judge, circuit.cleaned(), seconds))
    for method, more in ONCE.items():
        if method not in asked:
            continue
        more = more | ({"training": more["training"] | {"steps": steps}} if steps and "training" in more else {})
        problem = problems[TASKS[name] if method == "hisp" else "kl"]
        clock = time.process_time()
        scores = score(problem, **more)
        seconds = time.process_time() - clock
        found[method] = [{"size": size} | row(judge, scores.top(size), seconds) for size in SIZES]
    if "edge-pruning" in asked:
        found["edge-pruning"] = []
        for seed in range(seeds):
            for size in SIZES:
                training = {} if steps is None else {"steps": steps}
                clock = time.process_time()
                scores = score(problems["kl"], "edge-pruning", size=size, seed=seed, training=training)
                seconds = time.process_time() - clock
                found["edge-pruning"].append({"size": size, "seed": seed} | row(judge, scores.top(size), seconds))
    return found


def main(argv: Sequence[str]) -> int:
    methods = ("acdc", *ONCE, "edge-pruning")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the report goes, beside the screen")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="default: all four")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, help="default: all")
    parser.add_argument("--steps", type=int, help="of every training (default: what is usual)")
    parser.add_argument("--seeds", type=int, default=1, help="of Edge Pruning (default 1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "version": pahq.__version__,
        "torch": torch.__version__,
        "training": {"sp": ONCE["sp"]["training"], "edge-pruning": USUAL["edge-pruning"].model_dump(mode="json")},
    }
    for name in options.tasks:
        report[name] = task_rows(name, options.methods, options.steps, options.seeds)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
