"""Scores in low precision beside full precision, with PAHQ's focus and without.

    python benchmarks/scorebits.py --json FILE
    ... --tasks nano-ioi --precisions int8,int4        # a part of it

On nano's tasks with their own metrics, 1,519 edges: by method, format and focus (none: the rounded network as RTN-Q has
it; receiver: PAHQ, each edge in the network with its receiver's head in full precision) the rank correlation of |score|
with full precision's, how many of the 76 highest edges (5%) are others, faithfulness on fresh prompts of that circuit
beside that of full precision, and CPU seconds over those in full precision.
Exact scores are audited too: the share of edges that were scored again, and edges of the top that are still others.
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
from scipy.stats import spearmanr

import pahq
from pahq.cell.run import load
from pahq.circuits.scores import Scores
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits
from pahq.experiments.compose import compose_runs
from pahq.model.weights import Model
from pahq.tasks.task import Task

METRICS = {"nano-ioi": "logit_diff", "nano-greaterthan": "prob_diff", "nano-docstring": "margin"}
METHODS = ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact")
PRECISIONS = ("bf16", "int8", "fp8", "int4")
SIZE = 76


def scored(model: Model, task: Task, method: str, asked: dict[str, Any]) -> tuple[float, Scores]:
    """CPU seconds, and the scores."""
    begin = time.process_time()
    found = pahq.score(model, task, method, **asked)
    return time.process_time() - begin, found


def faithfulness(problem: Problem, scores: Scores) -> float:
    """Of the circuit, on prompts that scores have not seen: (circuit - empty) / (whole - empty) of the metric."""
    edges = torch.zeros(len(problem.graph.edges), dtype=torch.bool)
    circuit = edges.clone()
    circuit[list(scores.top(SIZE).indices)] = True
    values = [float(problem.objective.value(circuit_logits(problem, on))) for on in (circuit, edges, ~edges)]
    return (values[0] - values[1]) / (values[2] - values[1])


def rows(tasks: Sequence[str], precisions: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for name in tasks:
        ((cell, _),) = compose_runs([f"task={name}", "method=acdc"])
        model, task = load(cell, "cpu")
        fresh = build_problem(model, task.fresh, metric=METRICS[name], direct_edges=False)
        for method in METHODS:
            asked: dict[str, Any] = {"metric": METRICS[name], "progress": False}
            seconds, full = scored(model, task, method, asked)
            top, plain = set(full.ranked()[:SIZE]), faithfulness(fresh, full)
            for precision in precisions:
                for focus in ("none", "receiver"):
                    low = asked | {"precision": precision, "focus": focus}
                    took, scores = scored(model, task, method, low)
                    row: dict[str, Any] = {"task": name, "method": method, "precision": precision, "focus": focus}
                    correlation = spearmanr([abs(v) for v in full.values], [abs(v) for v in scores.values]).statistic
                    row |= {"rank_correlation": float(correlation), "others": len(top - set(scores.ranked()[:SIZE]))}
                    row |= {"faithfulness": faithfulness(fresh, scores), "faithfulness_full": plain}
                    row |= {"seconds": took, "seconds_full": seconds}
                    if method == "exact":
                        audited = pahq.score(model, task, method, audit="band", size=SIZE, **low)
                        assert audited.audit is not None
                        row |= {
                            "audited_share": audited.audit.share,
                            "audited_others": len(top - set(audited.ranked()[:SIZE])),
                        }
                    found.append(row)
                    sys.stderr.write(f"{row}\n")
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: means over tasks, edges summed."""
    lines = [
        "| method | precision | rank correlation | of 76 others | faithfulness (full) | seconds / full | audited |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for method in dict.fromkeys(row["method"] for row in found):
        for precision in dict.fromkeys(row["precision"] for row in found):
            cells = []
            both = [
                [row for row in found if (row["method"], row["precision"], row["focus"]) == (method, precision, focus)]
                for focus in ("none", "receiver")
            ]

            def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
                return float(sum(row[name] for row in rows) / len(rows))

            cells.append(" -> ".join(f"{mean(of, 'rank_correlation'):.4f}" for of in both))
            cells.append(" -> ".join(str(sum(row["others"] for row in of)) for of in both))
            shown = " -> ".join(f"{mean(of, 'faithfulness'):.3f}" for of in both)
            cells.append(f"{shown} ({mean(both[0], 'faithfulness_full'):.3f})")
            cells.append(
                " -> ".join(f"{sum(r['seconds'] for r in of) / sum(r['seconds_full'] for r in of):.1f}" for of in both)
            )
            audited = ""
            if method == "exact":
                parts = [f"{mean(of, 'audited_share'):.1%} ({sum(r['audited_others'] for r in of)})" for of in both]
                audited = " -> ".join(parts)
            lines.append(f"| `{method}` | {precision} | {' | '.join(cells)} | {audited} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--tasks", default=",".join(METRICS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = rows(given.tasks.split(","), given.precisions.split(","))
    publish({"size": SIZE, "rows": found}, given.json, quietly=True)
    sys.stdout.write(table(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
