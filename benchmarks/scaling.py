"""Time per test against layers, heads, prompts and positions, one varied at a time.

    python benchmarks/scaling.py --out benchmarks/results

Each point is a whole search by the suffix engine on a synthetic model, all at one threshold, so that the share of edges
kept differs from point to point and is reported with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from engine import product_rate, search
from synthetic import Shape, make_model, make_prompts

from pahq.engine.problem import build_problem

BASE = {"layers": 6, "heads": 8, "prompts": 16, "positions": 15}
SWEEPS = {"layers": (2, 4, 6, 9, 12), "heads": (4, 8, 12, 16), "prompts": (8, 16, 32, 64), "positions": (8, 15, 30, 60)}
THRESHOLD = 0.003


def measure(layers: int, heads: int, prompts: int, positions: int) -> dict[str, Any]:
    """One whole search; d_model is 64 per head, as in the GPT-2 family."""
    shape = Shape(layers=layers, heads=heads, d_model=64 * heads, vocabulary=5003, positions=positions)
    with torch.no_grad():
        problem = build_problem(make_model(shape), make_prompts(shape, prompts), metric="kl")
    run = search(problem, THRESHOLD)
    tests = len(run.decisions)
    return {
        "layers": layers,
        "heads": heads,
        "prompts": prompts,
        "positions": positions,
        "edges": len(problem.graph.edges),
        "tests": tests,
        "kept": sum(not decision.removed for decision in run.decisions),
        "seconds": run.seconds,
        "ms_per_test": 1e3 * run.seconds / tests,
        "peak_bytes": run.peak_bytes,
    }


def plot(points: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(points), figsize=(12, 3), sharey=True, constrained_layout=True)
    for axis, (name, rows) in zip(axes, points.items(), strict=True):
        axis.plot([row[name] for row in rows], [row["ms_per_test"] for row in rows], "o-", color="#0072B2")
        axis.set_xlabel(name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms per test (1 thread)")
    figure.suptitle(f"Suffix engine, varied one at a time from {', '.join(f'{v} {k}' for k, v in BASE.items())}")
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    points: dict[str, list[dict[str, Any]]] = {}
    for name, values in SWEEPS.items():
        points[name] = []
        for value in values:
            points[name].append(measure(**(BASE | {name: value})))
            sys.stderr.write(f"{name} {value}: {points[name][-1]['ms_per_test']:.2f} ms per test\n")
    report = {"threshold": THRESHOLD, "threads": 1, "product_rate": product_rate(), "points": points}
    (options.out / "scaling.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(points, options.out / "scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
