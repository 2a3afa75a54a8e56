"""A cell whose method scores edges: its scores, which cells of other sizes share, and the circuit chosen of them.

Masks that are learnt for one size are shared by cells of that size alone. While they are, the state of the training is
beside where the scores will be (``pahq.cell.trainingfile``), and the same command goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pahq.cell.files import SCORES
from pahq.cell.outcome import judge, sizes
from pahq.cell.provenance import claim, device_name, versions
from pahq.cell.result import Rescored, Result, TaskCheck, Versions
from pahq.cell.scorefile import chosen, scores_from, write_scores
from pahq.cell.trainingfile import Kept, read_training, write_training
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.scores import Scores, counted
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.problem import Problem, cell_problem
from pahq.errors import PahqError
from pahq.files.sealed import read_sealed
from pahq.files.text import write_json
from pahq.model.memory import PeakMemory
from pahq.model.sources.find import configuration
from pahq.model.weights import Model
from pahq.precision.levels import levels_digest
from pahq.precision.store import PrecisionStore
from pahq.scores.learned import Progress, State
from pahq.scores.start import score
from pahq.tasks.task import Task

SECONDS = 5.0  # of learning masks, after which its state is written anew


@dataclass(frozen=True)
class Scored:
    """Scores and what they took: seconds, and bytes at the peak. ``resumed``: whether a training went on."""

    scores: Scores
    seconds: float
    peak_bytes: int
    resumed: bool = False


def score_cell(
    cell: CellConfig,
    run: RunConfig,
    folder: Path,
    model: Model,
    task: Task,
    check: dict[str, Any] | None,
    set_up: float,
    memory: PeakMemory,
) -> Result:
    """Compute a cell's scores, or take those that a cell of another size has left, and choose its circuit.

    ``check``: whether the model does the task. ``set_up``: seconds that model and prompts took. ``memory`` was begun
    before them, as a search's is.
    """
    clock = time.perf_counter()
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
        rescored=None if found.scores.audit is None else Rescored(**asdict(found.scores.audit)),
        fresh=judge(model, task, circuit, cell),
        task_check=None if check is None else TaskCheck(**check),
        seconds=found.seconds,
        set_up_seconds=set_up,
        peak_bytes=found.peak_bytes,
        levels=levels,
        store="plain",
        resumed=found.resumed,
        versions=Versions(**versions()),
        device=device_name(run.device),
        threads=run.threads,
    )


def check_sizes(cells: Iterable[CellConfig]) -> None:
    """``check_size`` of cells before the first of them runs; of their models the configurations alone are read."""
    edges: dict[tuple[str, str | None, bool, bool], int] = {}
    for cell in cells:
        if cell.size is not None:
            source, split = cell.model, cell.task.split_embed
            key = (source.source, source.revision, split, cell.method.direct_edges)
            if key not in edges:
                edges[key] = _edges(cell, configuration(source.source, source.revision).shape(split_embed=split))
            _check_size(cell, edges[key])


def check_size(cell: CellConfig, shape: ModelShape) -> None:
    """Raise PahqError for a size that the graph of this shape has not, before any edge is scored."""
    if cell.size is not None:
        _check_size(cell, _edges(cell, shape))


def _edges(cell: CellConfig, shape: ModelShape) -> int:
    return len(build_graph(shape, direct_edges=cell.method.direct_edges).edges)


def _check_size(cell: CellConfig, edges: int) -> None:
    assert cell.size is not None
    count = counted(cell.size, edges)
    if cell.audit == "band" and not 0 < count < edges:
        raise PahqError(f"size: an audit needs a number of edges from 1 to {edges - 1}, or a share (got {cell.size})")


def scores_of(
    cell: CellConfig,
    problem: Problem,
    *,
    resume: State | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    scored: Callable[[int], object] = lambda edges: None,
) -> Scores:
    """The scores that a cell asks for, computed. ``resume``, ``report`` and ``scored``: see ``pahq.scores.start``."""
    method, full = cell.method, None
    if cell.audit == "band":
        assert isinstance(problem.store, PrecisionStore)
        full = cell_problem(cell, problem.store.full, problem.prompts, full=True)
    return score(
        problem,
        method.name,
        steps=method.steps,
        convention=method.convention,
        seed=cell.seed,
        size=cell.size if _for_a_size(cell) else None,
        training=method.training,
        resume=resume,
        report=report,
        scored=scored,
        full=full,
    )


def _for_a_size(cell: CellConfig) -> bool:
    """Whether the scores are those of one size, and not of all."""
    training = cell.method.training
    if cell.audit == "band":
        return True
    return cell.method.name == "edge-pruning" and training is not None and training.target is None


def _scored(cell: CellConfig, run: RunConfig, problem: Problem, model: str, memory: PeakMemory) -> Scored:
    """What ``<root>/scores`` has of the same; else, and with ``run.repair``, computed and left there.

    One sealed file holds the scores, what they rest on and what they took, so that none is ever taken for another's.
    """
    rests_on = {"model": model, "versions": versions(), "device": device_name(run.device), "threads": run.threads}
    name = f"{cell.method.label}-{cell.precision.name}-{scores_digest(cell, rests_on)}.json"
    path = Path(run.root) / "scores" / cell.task.name / name
    if path.exists() and not run.repair:
        try:
            there = read_sealed(path)
            scores = scores_from(path, there, problem.graph, cell)
            return Scored(scores, there["seconds"], there["peak_bytes"])
        except PahqError:
            pass  # not whole: computed anew
    found = _computed(cell, run, problem, path.with_suffix(".training.safetensors"), memory)
    write_scores(path, found.scores, rests_on | {"seconds": found.seconds, "peak_bytes": found.peak_bytes})
    path.with_suffix(".training.safetensors").unlink(missing_ok=True)
    return found


def _computed(cell: CellConfig, run: RunConfig, problem: Problem, path: Path, memory: PeakMemory) -> Scored:
    """Scores from the start, or where masks are learnt from what an earlier run of the same has left at ``path``."""
    clock, training = time.perf_counter(), cell.method.training
    look: dict[str, Any] = {"disable": not run.progress or None, "leave": False, "desc": cell.id.rsplit("-", 1)[0]}
    if training is None:
        look["disable"] = True if cell.method.name != "exact" else look["disable"]  # None: where that is no terminal
        with tqdm(total=len(problem.graph.edges), unit="edge", **look) as bar:
            scores = scores_of(cell, problem, scored=bar.update)
        return Scored(scores, time.perf_counter() - clock, memory.bytes())
    earlier = read_training(path)
    before, resume = (earlier.seconds, earlier.state) if earlier else (0.0, None)
    written = clock
    with tqdm(total=training.steps, initial=resume.step if resume else 0, unit="step", **look) as bar:

        def report(progress: Progress) -> None:
            nonlocal written
            bar.set_postfix(progress.shown(problem.made.metric), refresh=False)
            bar.update()
            now = time.perf_counter()
            if now - written >= SECONDS and progress.state.step < training.steps:
                write_training(path, Kept(progress.state, before + now - clock))
                written = now

        scores = scores_of(cell, problem, resume=resume, report=report)
    return Scored(scores, before + time.perf_counter() - clock, memory.bytes(), resume is not None)


def scores_digest(cell: CellConfig, rests_on: Mapping[str, Any]) -> str:
    """Of what decides the scores and their costs: all of the cell but how its circuit is chosen, and the machine's."""
    values = cell.model_dump(mode="json", exclude={"size", "select", "threshold"})
    values["task"].pop("prompts", None)
    del values["method"]["absolute"]
    if cell.method.training is None:  # scores that were kept before there was any training keep their names
        del values["method"]["training"]
    if _for_a_size(cell):
        values["size"] = cell.size
    text = json.dumps([values, rests_on], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
