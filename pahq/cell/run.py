"""``run_cell``: the one place where configuration, model, task, engine, search and files meet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pahq.cell.files import SearchResult, cell_folder, is_done, sole_writer, write_result
from pahq.cell.journal import JournalLine, as_decision, journalled
from pahq.cell.outcome import certainty, judge, losses, sizes
from pahq.cell.precheck import checked_task, told_when_memory_ends
from pahq.cell.provenance import check_weights, claim, device_name, versions
from pahq.cell.result import Result, TaskCheck, Versions
from pahq.cell.scored import check_size, score_cell
from pahq.cell.story import check_cell, set_aside, sound_lines, whole_result
from pahq.cell.tracking import Page, log_cell
from pahq.circuits.order import Order
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.problem import Problem, cell_problem, full_problem
from pahq.errors import PahqError
from pahq.files.fulldisk import told_if_full
from pahq.files.text import write_json
from pahq.model import load_model
from pahq.model.fused import check_fused
from pahq.model.memory import PeakMemory
from pahq.model.sources.find import check_device, open_model
from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model
from pahq.precision.levels import levels_digest
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import PrecisionStore
from pahq.search.acdc import Decision, circuit_of
from pahq.search.doubt import Doubts
from pahq.search.progress import SearchBar
from pahq.search.start import cell_doubts, search
from pahq.tasks.ability import warned_check
from pahq.tasks.task import Task


@told_when_memory_ends()
def run_cell(cell: CellConfig, run: RunConfig | None = None, page: Page | None = None) -> SearchResult:
    """Run one cell to its end, or go on where it stopped, or return what is already there.

    ``page``: what makes the page that Weights & Biases shows of it.

    Raises PahqError, before any heavy work, for a model, task or device that cannot be had, and for a journal that
    another model or version left in the cell's folder; later only for a disk that is full.
    """
    run = RunConfig() if run is None else run
    if not isinstance(cell, CellConfig):
        raise PahqError(f"cell: a CellConfig, as pahq.parse_config gives it, was expected, not {type(cell).__name__}")
    if not isinstance(run, RunConfig):
        raise PahqError(f"run: a RunConfig was expected, not {type(run).__name__}")
    if cell.method.scores and (run.memory_gb is not None or run.store == "packed"):
        asked = "run.memory_gb" if run.memory_gb is not None else "run.store=packed"
        raise PahqError(f"{asked} is for searches, and method {cell.method.name} scores edges; leave it out")
    folder = cell_folder(run.root, cell.id)
    if not run.repair and is_done(folder):
        return _finished(cell, folder)
    with told_if_full(folder), sole_writer(folder, lock=run.lock):
        if run.repair and (folder / "result.json").exists():
            _make_way(cell, folder)
        if is_done(folder):  # finished by another process while this one came here
            return _finished(cell, folder)
        return _compute(cell, run, folder, page)


def _finished(cell: CellConfig, folder: Path) -> SearchResult:
    """What is there already, once its files are known to be whole, and the model's weights those it was found on."""
    result = check_cell(folder, cell)
    check_weights(folder, cell, result)
    return SearchResult(folder, result)


def _make_way(cell: CellConfig, folder: Path) -> None:
    """Set a damaged cell's files aside; PahqError where the model's weights are not those it was found on."""
    try:
        check_cell(folder, cell)
    except PahqError:
        result = whole_result(folder, cell)
        if result is not None:
            check_weights(folder, cell, result)
        set_aside(folder)


def _compute(cell: CellConfig, run: RunConfig, folder: Path, page: Page | None) -> SearchResult:
    check_device(run.device)
    torch.set_num_threads(run.threads)
    whole = write_result(folder, (_scored if cell.method.scores else _searched)(cell, run, folder))
    log_cell(cell, run, folder, page)
    return SearchResult(folder, whole)


def _scored(cell: CellConfig, run: RunConfig, folder: Path) -> Result:
    memory, clock = PeakMemory(run.device), time.perf_counter()
    model, task = load(cell, run.device)
    check_size(cell, model.config.shape(split_embed=cell.task.split_embed))
    check = warned_check(model, task.search, f"task {cell.task.name}: ")
    return score_cell(cell, run, folder, model, task, check, time.perf_counter() - clock, memory)


def _searched(cell: CellConfig, run: RunConfig, folder: Path) -> Result:
    earlier = sound_lines(cell, folder / "decisions.jsonl", repair=run.repair)
    memory, clock = PeakMemory(run.device), time.perf_counter()
    source, task, check, problem = _set_up(cell, run)
    low = problem.changes or problem.store
    levels = levels_digest(low) if cell.precision.rounding == "calibrated" else None
    claim(folder, cell, source.digest, levels)
    full = _full(cell, source, task, problem)
    set_up = time.perf_counter() - clock
    doubts = cell_doubts(cell, problem, full, run.memory_gb)
    lines = _search(cell, run, problem, full, folder, earlier, doubts)
    decisions = [as_decision(problem.graph, line) for line in lines]
    peak = memory.bytes()
    circuit = circuit_of(problem.graph, decisions)
    model = _judged_by(source, full)
    write_json(folder / "circuit.json", circuit.to_json(ablation=cell.task.ablation))
    return Result(
        id=cell.id,
        config=cell,
        model_digest=model.digest,
        **sizes(circuit, cell),
        tests=len(decisions),
        search=losses(cell, decisions),
        certainty=certainty(cell, model, task, full, decisions, doubts, 1.0 if full is None else problem.format_error),
        fresh=judge(model, task, circuit, cell),
        task_check=None if check is None else TaskCheck(**check),
        seconds=sum(line.seconds for line in lines),
        set_up_seconds=set_up,
        peak_bytes=peak,
        levels=levels,
        store="packed" if isinstance(low, PackedStore) else "plain",
        resumed=bool(earlier),
        versions=Versions(**versions()),
        device=device_name(run.device),
        threads=run.threads,
    )


def _set_up(cell: CellConfig, run: RunConfig) -> tuple[Model | ModelFile, Task, dict[str, Any] | None, Problem]:
    """The model, in memory or left in its file, the task, whether the model does it, and the search's problem."""
    low = (cell.precision.format, cell.precision.mlp) != ("float32", "float32")
    store = "packed" if run.store == "packed" or (run.store == "auto" and low) else "plain"
    if store == "plain" and cell.engine.schedule == "serial":
        raise PahqError("engine.schedule=serial needs run.store=packed: a plain store has no head to bring in")
    kernel = cell.precision.kernel
    if store == "plain" and kernel != "unpack":
        raise PahqError(f"precision.kernel={kernel} needs run.store=packed: a plain store has no codes")
    if kernel == "fused":
        check_fused(torch.device(run.device))
    source: Model | ModelFile
    if store == "packed":
        dtype = getattr(torch, cell.engine.dtype)
        source = open_model(cell.model.source, cell.model.revision, dtype=dtype, device=run.device)
        task = checked_task(cell, source)
    else:
        source, task = load(cell, run.device)
    check = warned_check(source, task.search, f"task {cell.task.name}: ")
    return source, task, check, cell_problem(cell, source, task.search, store=store)


def _judged_by(source: Model | ModelFile, full: Problem | None) -> Model:
    """The full-precision model that the circuit is judged by; an audit has one in memory already."""
    if not isinstance(source, ModelFile):
        return source
    if full is not None and isinstance(full.store, PrecisionStore):
        return full.store.full
    return source.load()


def load(cell: CellConfig, device: str) -> tuple[Model, Task]:
    """The cell's model, in its engine's dtype on its device, and its task."""
    model = load_model(cell.model.source, device=device, revision=cell.model.revision)
    model = model.to(dtype=getattr(torch, cell.engine.dtype))
    return model, checked_task(cell, model)


def rerun(cell: CellConfig, device: str) -> tuple[Problem, Iterator[Decision]]:
    """A cell's search from its start, writing nothing."""
    model, task = load(cell, device)
    problem = cell_problem(cell, model, task.search)
    return problem, search(cell, problem, [], full=_full(cell, model, task, problem))


def _full(cell: CellConfig, model: Model | ModelFile, task: Task, problem: Problem) -> Problem | None:
    """The full-precision problem that an audit needs beside the cell's."""
    return full_problem(cell, model, task.search, problem) if cell.audit == "band" else None


def _search(
    cell: CellConfig,
    run: RunConfig,
    problem: Problem,
    full: Problem | None,
    folder: Path,
    earlier: list[JournalLine],
    doubts: Doubts,
) -> list[JournalLine]:
    """Run the search, journalling each decision; return all lines, earlier ones included."""
    lines = list(earlier)
    graph = problem.graph
    before = [(graph.index_of(line.edge), line.removed) for line in lines]
    look = {"disable": not run.progress or None, "leave": False, "desc": cell.id.rsplit("-", 1)[0]}

    def start(done: list[Decision]) -> Iterator[Decision]:
        return search(cell, problem, done, run.memory_gb, full, doubts)

    with SearchBar(graph, Order(cell.method.order, cell.method.senders), before, **look) as bar:
        for line in journalled(folder / "decisions.jsonl", graph, earlier, start):
            lines.append(line)
            bar.decided(graph.index_of(line.edge), line.removed)
        bar.finish()
    return lines
