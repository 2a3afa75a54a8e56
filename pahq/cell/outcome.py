"""What a finished search is worth: its summary, how certain it is, and its circuit on fresh prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pahq.cell.files import SCHEMA
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph
from pahq.config.cell import CellConfig
from pahq.engine.problem import Problem, build_problem, cell_problem
from pahq.engine.reference import ReferenceEngine, circuit_stream, logits_in_parts
from pahq.engine.rounding import alike
from pahq.errors import PahqError
from pahq.model.finite import Watch
from pahq.model.weights import Model
from pahq.search.acdc import Decision, margin
from pahq.search.audit import audit
from pahq.search.audited import audit_record
from pahq.search.doubt import Doubts
from pahq.tasks.task import Task


def judge(model: Model, task: Task, circuit: Circuit, cell: CellConfig) -> dict[str, Any]:
    """KL and the task's own metric of a circuit on fresh prompts, on the full-precision network.

    ``clean`` and ``corrupted`` are the metric of the whole and of the empty circuit; faithfulness is
    (circuit - corrupted) / (clean - corrupted), None where rounding alone may tell the two apart.
    """
    present = torch.tensor(circuit.present)

    def problem(metric: str) -> Problem:
        return build_problem(
            model,
            task.fresh,
            metric=metric,
            ablation=cell.task.ablation,
            split_embed=cell.task.split_embed,
            direct_edges=cell.method.direct_edges,
        )

    own = problem(task.metric)
    logits = logits_in_parts(own, present)
    value = float(own.objective.value(logits))
    clean = float(own.objective.value(logits_in_parts(own, torch.ones_like(present))))
    corrupted = float(own.objective.value(logits_in_parts(own, torch.zeros_like(present))))
    kl = float(problem("kl").objective.value(logits))
    if not all(map(math.isfinite, (value, clean, corrupted, kl))):
        circuit_stream(own, present, watch=Watch("with the circuit on fresh prompts"))
        raise PahqError(f"the circuit cannot be judged: on fresh prompts {task.metric} is {value} and KL {kl}")
    return {
        "kl": kl,
        "metric": task.metric,
        "value": value,
        "clean": clean,
        "corrupted": corrupted,
        "faithfulness": None if alike(own, clean, corrupted) else (value - corrupted) / (clean - corrupted),
    }


def certainty(
    cell: CellConfig,
    model: Model,
    task: Task,
    full: Problem | None,
    decisions: Sequence[Decision],
    doubts: Doubts,
) -> dict[str, Any]:
    """Float noise of effects and how it is known, tests that float64 settled or that are at risk, and an audit's finds.

    ``drift`` is the largest difference that a loss carried along had from the same computed anew, once per layer; None
    where every loss was computed anew. ``audit``: what ``float64`` found of tests at risk, or ``band`` on its way.
    """
    doubts.finish()
    drift = max((decision.drift for decision in decisions if decision.drift is not None), default=None)
    values: dict[str, Any] = doubts.record(decisions) | {"drift": drift, "audit": None}
    if cell.audit == "float64":
        exact = ReferenceEngine(cell_problem(cell, model.to(dtype=torch.float64), task.search))
        risky = [decision.index for decision in doubts.at_risk(decisions)]
        found = audit(exact, decisions, risky, cell.threshold, absolute=cell.method.absolute)
        flipped = [str(exact.graph.edges[decisions[i].edge]) for i in found.flipped]
        values["audit"] = {"tests": len(found.tests), "flipped": flipped, "worst_difference": found.worst}
    if full is not None:
        values["audit"] = audit_record(cell, model, full, decisions)
    return values


def summary(
    cell: CellConfig, model: Model, graph: Graph, decisions: Sequence[Decision], circuit: Circuit
) -> dict[str, Any]:
    """What the decisions alone say, for result.json."""
    direct = sum(graph.edges[i].direct for i in circuit.indices)
    last = decisions[-1]
    return {
        "schema": SCHEMA,
        "id": cell.id,
        "config": cell.model_dump(mode="json"),
        "model": {"name": cell.model.name, "digest": model.digest},
        "graph": {"addition": graph.n_addition, "direct": graph.n_direct},
        "tests": len(decisions),
        "kept": len(circuit),
        "kept_addition": len(circuit) - direct,
        "kept_direct": direct,
        "kept_cleaned": len(circuit.cleaned(ablation=cell.task.ablation)),
        "search": {
            "metric": cell.task.metric,
            "start": (decisions[0].low or (decisions[0].before,))[0],
            "final": last.left,
            "smallest_margin": min(
                margin(decision.effect, cell.threshold, absolute=cell.method.absolute) for decision in decisions
            ),
        },
    }
