"""A cell whose method scores edges: its scores, which cells of other sizes share, and the circuit chosen of them."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pahq.cell.files import SCORES
from pahq.cell.outcome import judge, sizes
from pahq.cell.provenance import claim, device_name, versions
from pahq.cell.result import Result, TaskCheck, Versions
from pahq.cell.scorefile import chosen, scores_from, write_scores
from pahq.circuits.scores import Scores
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.problem import Problem, cell_problem
from pahq.errors import PahqError
from pahq.files.sealed import read_sealed
from pahq.files.text import write_json
from pahq.model.memory import PeakMemory
from pahq.model.weights import Model
from pahq.precision.levels import levels_digest
from pahq.scores.start import score
from pahq.tasks.task import Task


@dataclass(frozen=True)
class Scored:
    """Scores and what they took: seconds, and bytes at the peak."""

    scores: Scores
    seconds: float
    peak_bytes: int


def score_cell(
    cell: CellConfig,
    run: RunConfig,
    folder: Path,
    model: Model,
    task: Task,
    check: dict[str, Any] | None,
    set_up: float,
) -> Result:
    """Compute a cell's scores, or take those that a cell of another size has left, and choose its circuit.

    ``check``: whether the model does the task. ``set_up``: seconds that model and prompts took.
    """
    memory, clock = PeakMemory(run.device), time.perf_counter()
    problem = cell_problem(cell, model, task.search, store="plain")
    levels = levels_digest(problem.store) if cell.precision.rounding == "calibrated" else None
    claim(folder, cell, model.digest, levels)
    set_up += time.perf_counter() - clock
    found = _scored(cell, run, problem, model.digest, memory)
    circuit = chosen(cell, found.scores)
    write_scores(folder / SCORES, found.scores)
    write_json(folder / "circuit.json", circuit.to_json(ablation=cell.task.ablation))
    return Result(
        id=cell.id,
        config=cell,
        model_digest=model.digest,
        **sizes(circuit, cell),
        tests=len(found.scores),
        search=None,
        certainty=None,
        fresh=judge(model, task, circuit, cell),
        task_check=None if check is None else TaskCheck(**check),
        seconds=found.seconds,
        set_up_seconds=set_up,
        peak_bytes=found.peak_bytes,
        levels=levels,
        store="plain",
        resumed=False,
        versions=Versions(**versions()),
        device=device_name(run.device),
        threads=run.threads,
    )


def scores_of(cell: CellConfig, problem: Problem) -> Scores:
    """The scores that a cell asks for, computed."""
    return score(problem, cell.method.name, steps=cell.method.steps, convention=cell.method.convention)


def _scored(cell: CellConfig, run: RunConfig, problem: Problem, model: str, memory: PeakMemory) -> Scored:
    """What ``<root>/scores`` has of the same; else, and with ``run.repair``, computed and left there.

    One sealed file holds the scores, what they rest on and what they took, so that none is ever taken for another's.
    """
    rests_on = {"model": model, "versions": versions(), "device": device_name(run.device), "threads": run.threads}
    name = f"{cell.method.label}-{cell.precision.name}-{_digest(cell, rests_on)}.json"
    path = Path(run.root) / "scores" / cell.task.name / name
    if path.exists() and not run.repair:
        try:
            there = read_sealed(path)
            scores = scores_from(path, there, problem.graph, cell)
            return Scored(scores, there["seconds"], there["peak_bytes"])
        except PahqError:
            pass  # not whole: computed anew
    clock = time.perf_counter()
    scores = scores_of(cell, problem)
    found = Scored(scores, time.perf_counter() - clock, memory.bytes())
    write_scores(path, scores, rests_on | {"seconds": found.seconds, "peak_bytes": found.peak_bytes})
    return found


def _digest(cell: CellConfig, rests_on: dict[str, Any]) -> str:
    """Of what decides the scores and their costs: all of the cell but how its circuit is chosen, and the machine's."""
    values = cell.model_dump(mode="json", exclude={"size", "select", "threshold"})
    values["task"].pop("prompts", None)
    del values["method"]["absolute"]
    text = json.dumps([values, rests_on], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
