"""What a finished search is worth: its summary, how certain it is, and its circuit on fresh prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pahq.cell.result import BandAudit, Certainty, Float64Audit, Fresh, Search
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig
from pahq.engine.problem import Problem, cell_problem, fresh_problem
from pahq.engine.reference import circuit_stream, logits_in_parts
from pahq.engine.rounding import alike
from pahq.errors import PahqError
from pahq.model.finite import Watch
from pahq.model.weights import Model
from pahq.search.acdc import Decision, margin
from pahq.search.audit import audit
from pahq.search.audited import audit_record
from pahq.search.doubt import Doubts
from pahq.search.start import build_engine, focus_on
from pahq.tasks.task import Task


def sizes(circuit: Circuit, cell: CellConfig) -> dict[str, Any]:
    """How many edges the graph has and the circuit keeps: fields of ``Result``."""
    graph = circuit.graph
    return {
        "edges_addition": graph.n_addition,
        "edges_direct": graph.n_direct,
        "kept": len(circuit),
        "kept_addition": sum(not graph.edges[i].direct for i in circuit.indices),
        "kept_cleaned": len(circuit.cleaned(ablation=cell.task.ablation)),
    }


def judge(model: Model, task: Task, circuit: Circuit, cell: CellConfig) -> Fresh:
    """KL and the task's own metric of a circuit on fresh prompts, on the full-precision network.

    Raises PahqError where one of them is no finite number.
    """
    present = torch.tensor(circuit.present)

    own = fresh_problem(cell, model, task)
    logits = logits_in_parts(own, present)
    value = float(own.objective.value(logits))
    clean = float(own.objective.value(logits_in_parts(own, torch.ones_like(present))))
    corrupted = float(own.objective.value(logits_in_parts(own, torch.zeros_like(present))))
    kl = float(own.measured_by("kl").objective.value(logits))
    if not all(map(math.isfinite, (value, clean, corrupted, kl))):
        circuit_stream(own, present, watch=Watch("with the circuit on fresh prompts"))
        raise PahqError(f"the circuit cannot be judged: on fresh prompts {task.metric} is {value} and KL {kl}")
    return Fresh(
        kl=kl,
        metric=task.metric,
        value=value,
        clean=clean,
        corrupted=corrupted,
        faithfulness=None if alike(own, clean, corrupted) else (value - corrupted) / (clean - corrupted),
    )


def certainty(
    cell: CellConfig,
    model: Model,
    task: Task,
    full: Problem | None,
    decisions: Sequence[Decision],
    doubts: Doubts,
    unit: float = 1.0,
) -> Certainty:
    """Float noise of effects and how it is known, tests that float64 settled or that are at risk, and an audit's finds.

    Ends ``doubts``. ``unit``: of the band (``pahq.search.band.Calibration``). ``audit=float64`` measures the tests at
    risk again here; ``audit=band`` did so on its way.
    """
    doubts.finish()
    drift = max((decision.drift for decision in decisions if decision.drift is not None), default=None)
    found: Float64Audit | BandAudit | None = None
    if cell.audit == "float64":
        wide = cell_problem(cell, model.to(dtype=torch.float64), task.search)
        exact, size = build_engine("reference", wide), wide.round_size
        risky = [decision.index for decision in doubts.at_risk(decisions)]
        asked: dict[str, Any] = {"absolute": cell.method.absolute, "round_size": size, "focus": focus_on(wide)}
        again = audit(exact, decisions, risky, cell.search_threshold, **asked)
        flipped = tuple(str(exact.graph.edges[decisions[i].edge]) for i in again.flipped)
        found = Float64Audit(tests=len(again.tests), flipped=flipped, worst_difference=again.worst)
    if full is not None:
        found = BandAudit(**audit_record(cell, model, full, decisions, unit))
    return Certainty(**doubts.record(decisions), drift=drift, audit=found)


def losses(cell: CellConfig, decisions: Sequence[Decision]) -> Search:
    """Where the search began and ended, and how near a test came to the threshold."""
    first, last = decisions[0], decisions[-1]
    margins = [margin(decision.effect, cell.search_threshold, absolute=cell.method.absolute) for decision in decisions]
    return Search(start=(first.low or (first.before,))[0], final=last.left, smallest_margin=min(margins))
