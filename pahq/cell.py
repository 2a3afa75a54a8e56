"""``run_cell``: the one place where configuration, model, task, engine, search and files meet."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pahq.circuit import Circuit
from pahq.config import CellConfig, RunConfig
from pahq.engine.problem import Problem, build_problem, cell_problem
from pahq.engine.reference import ReferenceEngine, logits_in_parts
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError, unknown
from pahq.graph import Graph
from pahq.memory import PeakMemory
from pahq.model import load_model
from pahq.model.modelfile import ModelFile
from pahq.model.sources import check_device, open_model
from pahq.model.weights import Model
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import Focus, focus_of
from pahq.results import (
    SCHEMA,
    Journal,
    JournalLine,
    SearchResult,
    cell_folder,
    is_done,
    read_journal,
    read_json,
    read_result,
    sole_writer,
    write_json,
)
from pahq.search.acdc import Decision, acdc, circuit_of, margin
from pahq.search.audit import at_risk, audit, noise_of
from pahq.search.order import Order
from pahq.search.speculate import speculate
from pahq.tasks import build_task
from pahq.tasks.task import Task
from pahq.tracking import log_cell

ENGINES = ("suffix", "reference")


def run_cell(cell: CellConfig, run: RunConfig | None = None) -> SearchResult:
    """Run one cell to its end, or go on where it stopped, or return what is already there.

    Raises PahqError, before any heavy work, for a model, task or device that cannot be had, and for a journal that
    another model or version left in the cell's folder.
    """
    run = run or RunConfig()
    folder = cell_folder(run.root, cell.id)
    if is_done(folder):
        return SearchResult(folder, read_result(folder))
    with sole_writer(folder):
        if is_done(folder):  # finished by another process while this one came here
            return SearchResult(folder, read_result(folder))
        return _compute(cell, run, folder)


def _compute(cell: CellConfig, run: RunConfig, folder: Path) -> SearchResult:
    check_device(run.device)
    torch.set_num_threads(run.threads)
    memory = PeakMemory(run.device)
    source, task, problem = _set_up(cell, run)
    _claim(folder, cell, source.digest)
    earlier = read_journal(folder / "decisions.jsonl")
    lines = _search(cell, run, problem, folder, earlier)
    decisions = [_decision(problem.graph, line) for line in lines]
    peak = memory.bytes()
    circuit = circuit_of(problem.graph, decisions)
    model = source.load() if isinstance(source, ModelFile) else source  # to judge by, in full precision
    write_json(folder / "circuit.json", circuit.to_json(ablation=cell.task.ablation))
    values = _summary(cell, model, problem.graph, decisions, circuit) | {
        "certainty": certainty(cell, model, task, problem, decisions, circuit),
        "fresh": judge(model, task, circuit, cell),
        "seconds": sum(line.seconds for line in lines),
        "peak_bytes": peak,
        "store": "packed" if isinstance(problem.store, PackedStore) else "plain",
        "resumed": bool(earlier),
        "versions": versions(),
        "device": device_name(run.device),
        "threads": run.threads,
    }
    write_json(folder / "result.json", values)
    log_cell(cell, run, folder)
    return SearchResult(folder, values)


def _set_up(cell: CellConfig, run: RunConfig) -> tuple[Model | ModelFile, Task, Problem]:
    """The model, in memory or left in its file, the task, and the search's problem."""
    low = (cell.precision.heads, cell.precision.mlp) != ("float32", "float32")
    store = "packed" if run.store == "packed" or (run.store == "auto" and low) else "plain"
    source: Model | ModelFile
    if store == "packed" and torch.device(run.device).type == "cpu":
        dtype = getattr(torch, cell.engine.dtype)
        source = open_model(cell.model.source, cell.model.revision, dtype=dtype)
        task = build_task(cell.task, source, cell.seed)
    else:
        source, task = load(cell, run.device)
    return source, task, cell_problem(cell, source, task.search, store=store)


def load(cell: CellConfig, device: str) -> tuple[Model, Task]:
    """The cell's model, in its engine's dtype on its device, and its task."""
    model = load_model(cell.model.source, device=device, revision=cell.model.revision)
    return model.to(dtype=getattr(torch, cell.engine.dtype)), build_task(cell.task, model, cell.seed)


def focus_on(problem: Problem) -> Callable[[int], Focus]:
    """What runs in full precision while an edge (an index) is under test."""
    graph = problem.graph
    return lambda edge: focus_of(graph, graph.edges[edge], problem.focus)


def start_search(
    engine: str,
    problem: Problem,
    order: Order,
    threshold: float,
    *,
    absolute: bool = False,
    done: Sequence[Decision] = (),
    memory_gb: float | None = None,
) -> Iterator[Decision]:
    """ACDC on a problem by the engine of that name: ``reference`` one test at a time, ``suffix`` in windows."""
    focus = focus_on(problem)
    if engine == "reference":
        if memory_gb is not None:
            raise PahqError("memory_gb is a setting of engine=suffix; engine=reference takes what it takes")
        return acdc(ReferenceEngine(problem), order, threshold, absolute=absolute, focus=focus, done=done)
    if engine == "suffix":
        ceiling = None if memory_gb is None else int(memory_gb * 2**30)
        return speculate(
            SuffixEngine(problem, memory_bytes=ceiling), order, threshold, absolute=absolute, focus=focus, done=done
        )
    raise unknown("engine", engine, ENGINES)


def search(
    cell: CellConfig, problem: Problem, done: Sequence[Decision], memory_gb: float | None = None
) -> Iterator[Decision]:
    """The cell's search, going on after the decisions ``done``."""
    method = cell.method
    return start_search(
        cell.engine.name,
        problem,
        Order(method.heads, method.senders),
        cell.threshold,
        absolute=method.absolute,
        done=done,
        memory_gb=memory_gb,
    )


def rerun(cell: CellConfig, device: str) -> tuple[Graph, Iterator[Decision]]:
    """A cell's search from its start, writing nothing."""
    model, task = load(cell, device)
    problem = cell_problem(cell, model, task.search)
    return problem.graph, search(cell, problem, [])


def _search(
    cell: CellConfig, run: RunConfig, problem: Problem, folder: Path, earlier: list[JournalLine]
) -> list[JournalLine]:
    """Run the search, journalling each decision; return all lines, earlier ones included."""
    graph = problem.graph
    lines = list(earlier)
    done = [_decision(graph, line) for line in earlier]
    kept = sum(not line.removed for line in lines)
    bar = tqdm(total=len(graph.edges), initial=len(lines), unit="edge", disable=not run.progress or None, leave=False)
    with Journal(folder / "decisions.jsonl", lines) as journal, bar:
        bar.set_description(cell.id.rsplit("-", 1)[0])
        clock = time.perf_counter()
        for decision in search(cell, problem, done, run.memory_gb):
            now = time.perf_counter()
            edge = str(graph.edges[decision.edge])
            line = JournalLine(
                decision.index, edge, decision.before, decision.after, decision.removed, round(now - clock, 6)
            )
            journal.append(line)
            lines.append(line)
            clock = now
            kept += not decision.removed
            bar.set_postfix(kept=kept, refresh=False)
            bar.update()
    return lines


def judge(model: Model, task: Task, circuit: Circuit, cell: CellConfig) -> dict[str, Any]:
    """KL and the task's own metric of a circuit on fresh prompts, on the full-precision network.

    ``clean`` and ``corrupted`` are the metric of the whole and of the empty circuit; faithfulness is
    (circuit - corrupted) / (clean - corrupted), None where that is 0 / 0.
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
    return {
        "kl": float(problem("kl").objective.value(logits)),
        "metric": task.metric,
        "value": value,
        "clean": clean,
        "corrupted": corrupted,
        "faithfulness": (value - corrupted) / (clean - corrupted) if clean != corrupted else None,
    }


def certainty(
    cell: CellConfig, model: Model, task: Task, problem: Problem, decisions: Sequence[Decision], circuit: Circuit
) -> dict[str, Any]:
    """Float noise, tests at risk and, with ``audit=float64``, what float64 says of these."""
    graph, absolute = problem.graph, cell.method.absolute
    last = decisions[-1]
    focus = focus_of(graph, graph.edges[last.edge], problem.focus)
    fresh = float(problem.objective.loss(logits_in_parts(problem, torch.tensor(circuit.present), focus)))
    noise = noise_of(last.after if last.removed else last.before, fresh)
    risky = at_risk(decisions, cell.threshold, noise, absolute=absolute)
    values: dict[str, Any] = {"noise": noise, "at_risk": len(risky), "audit": None}
    if cell.audit == "float64":
        exact = ReferenceEngine(cell_problem(cell, model.to(dtype=torch.float64), task.search))
        found = audit(exact, decisions, risky, cell.threshold, absolute=absolute)
        flipped = [str(graph.edges[decisions[i].edge]) for i in found.flipped]
        values["audit"] = {"tests": len(found.tests), "flipped": flipped, "worst_difference": found.worst}
    return values


def _summary(
    cell: CellConfig, model: Model, graph: Graph, decisions: list[Decision], circuit: Circuit
) -> dict[str, Any]:
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
            "start": decisions[0].before,
            "final": last.after if last.removed else last.before,
            "smallest_margin": min(
                margin(decision.effect, cell.threshold, absolute=cell.method.absolute) for decision in decisions
            ),
        },
    }


def _claim(folder: Path, cell: CellConfig, digest: str | None) -> None:
    """Write what identifies the cell's computation, or check that what is there identifies the same."""
    config = cell.model_dump(mode="json")
    provenance = {"model": digest, "pahq": versions()["pahq"]}
    if (folder / "decisions.jsonl").exists():
        for name, wanted in (("config.json", config), ("provenance.json", provenance)):
            if _unplaced(read_json(folder / name)) != _unplaced(wanted):
                raise PahqError(
                    f"{folder} holds the journal of another run ({name} differs); move it away to start anew"
                )
    write_json(folder / "config.json", config)
    write_json(folder / "provenance.json", provenance)


def _unplaced(values: Any) -> Any:
    """A configuration without the path of its file of prompts: the file's sha256 is there, and files move."""
    if not isinstance(values, dict) or not isinstance(values.get("task"), dict):
        return values
    return values | {"task": {key: value for key, value in values["task"].items() if key != "prompts"}}


def _decision(graph: Graph, line: JournalLine) -> Decision:
    return Decision(line.i, graph.index_of(line.edge), line.before, line.after, line.removed)


def device_name(device: str) -> str:
    """A GPU's product name, or the kind of device (cpu, mps)."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def versions() -> dict[str, str]:
    try:
        own = version("pahq")
    except PackageNotFoundError:  # run from a source tree that was never installed
        own = "source"
    return {"pahq": own, "torch": torch.__version__, "python": platform.python_version()}
