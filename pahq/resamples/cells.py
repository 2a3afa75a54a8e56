"""Stability of stored cells: each search's kept edges in a file of its own, so that a killed run goes on.

``<cell>/stability/``: provenance.json, NAME.jsonl (the journal of a search under way), NAME.json (a finished one).
Beside the cell's result: ``inclusion.parquet`` (one row an edge), then ``stability.json``. Last, in the folder of the
searches, an empty ``resamples20-seeds5.done``: so much was asked and is there. What is there is never made fewer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from pahq.cell.files import cell_folder, read_cell, read_result, sole_writer
from pahq.cell.journal import journalled
from pahq.cell.provenance import versions
from pahq.cell.run import load
from pahq.cell.scored import scores_digest, scores_of
from pahq.cell.scorefile import chosen
from pahq.cell.story import check_cell, sound_lines
from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.circuits.scores import Scores
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.problem import Problem, cell_problem, full_problem
from pahq.errors import PahqError
from pahq.experiments.jobs import check_depends_on_prompts, done_marker
from pahq.files.frames import write_parquet
from pahq.files.sealed import check_digests, digests, read_sealed, write_sealed
from pahq.model.sources.find import check_device
from pahq.model.weights import Model
from pahq.resamples.measures import Stability
from pahq.resamples.resample import draw, needs_copies, resample, same
from pahq.resamples.variants import (
    KINDS,
    Variant,
    check_counts,
    order_variants,
    resample_variants,
    seed_variants,
)
from pahq.search.likely import as_in
from pahq.search.start import search
from pahq.tasks import build_task
from pahq.tasks.task import Prompts, Task

SCHEMA = 3
INCLUSION = "inclusion.parquet"
SAME_PROMPTS = "the task has the same prompts for every seed"


@dataclass(frozen=True)
class Measured:
    """A cell's stability as written to ``path``; ``seconds`` of its searches, those of earlier runs included."""

    path: Path
    values: dict[str, Any]
    seconds: float

    def __str__(self) -> str:
        resamples = self.values["resamples"]
        return (
            f"{self.values['id']}: {resamples['circuits']} resamples, Jaccard {resamples['pairwise']['mean']:.3f} in "
            f"pairs, {resamples['to_original']['mean']:.3f} to the circuit, {self.seconds:.1f} s, {self.path}"
        )

    def to_json(self) -> dict[str, Any]:
        """What was written, how long it took and where it lies."""
        named = {key: self.values[key] for key in ("id", "kept", "resamples", "orders", "seeds", "note")}
        return named | {"seconds": self.seconds, "path": str(self.path)}


@dataclass(frozen=True)
class _Ground:
    """What the cells of one task and seed share: the model, the cell's prompts, and those of other seeds."""

    model: Model
    task: Task
    others: dict[int, Task]  # by distance from the cell's seed; without those whose prompts are the same
    scores: dict[str, tuple[Scores, float]] = field(
        default_factory=dict
    )  # on other prompts, and seconds: for all sizes


def measure_cells(
    ids: Sequence[str],
    run: RunConfig,
    *,
    resamples: int,
    seeds: int,
    report: Callable[[Measured], None] = lambda found: None,
) -> list[Measured]:
    """The stability of finished cells below ``run.root``; ``report`` is told of each one as it is done.

    Cells of one model, task and seed share what they load. Goes on where an earlier run stopped; returns what is there
    already. Raises PahqError, before any search, for a cell without a result, an unavailable device or faulty counts.
    """
    check_counts(resamples, seeds)
    check_device(run.device)
    cells = {cell_id: _finished(run, cell_id) for cell_id in dict.fromkeys(ids)}
    torch.set_num_threads(run.threads)
    measured, shared, ground = [], None, None
    counts = {cell_id: _no_fewer(cell_folder(run.root, cell_id), resamples, seeds) for cell_id in cells}
    searches = {cell_id: sum(counts[cell_id]) + len(_orders(cell)) for cell_id, cell in cells.items()}
    with tqdm(total=sum(searches.values()), unit="search", disable=not run.progress or None, leave=False) as bar:
        for cell_id, cell in sorted(cells.items(), key=lambda item: _shared(item[1])):
            folder = cell_folder(run.root, cell_id)
            found = _read_done(folder, resamples, seeds)
            if found is None:
                own = counts[cell_id]
                if ground is None or shared != (_shared(cell), own[1]):
                    shared, ground = (_shared(cell), own[1]), _load(cell, run.device, own[1])
                bar.set_description(cell_id.rsplit("-", 1)[0])
                found = _measure(cell, run, ground, *own, bar)
            else:
                bar.update(searches[cell_id])
            marker = done_marker(folder, resamples, seeds)
            marker.parent.mkdir(exist_ok=True)  # somebody may have removed the searches, which are not needed any more
            marker.touch()
            measured.append(found)
            report(found)
    return measured


def _no_fewer(folder: Path, resamples: int, seeds: int) -> tuple[int, int]:
    """Resamples and seeds to measure: as many as asked, or as are there already."""
    there = [len(list((folder / "stability").glob(f"{kind}-*.json"))) for kind in ("resample", "seed-plus")]
    return max(resamples, there[0]), max(seeds, there[1])


def check_finished(ids: Sequence[str], run: RunConfig) -> None:
    """Raise PahqError unless every cell has a result below ``run.root`` and the device is there."""
    check_device(run.device)
    for cell_id in ids:
        _finished(run, cell_id)


def _shared(cell: CellConfig) -> str:
    """Equal for cells that can share a model, a task and those of other seeds."""
    return "\n".join(
        [cell.model.model_dump_json(), cell.task.model_dump_json(), str(cell.seed), cell.engine.model_dump_json()]
    )


def _finished(run: RunConfig, cell_id: str) -> CellConfig:
    folder = cell_folder(run.root, cell_id)
    if not (folder / "result.json").exists():
        raise PahqError(f"{folder} holds no finished cell; its search comes before its stability")
    check_cell(folder)
    cell = read_cell(folder / "config.json")
    if cell.id != cell_id:
        raise PahqError(f"{folder / 'config.json'} is of the cell {cell.id!r}, not of its folder's {cell_id!r}")
    check_depends_on_prompts(cell)
    return cell


def _load(cell: CellConfig, device: str, seeds: int) -> _Ground:
    model, task = load(cell, device)
    other = {distance: build_task(cell.task, model, cell.seed + distance) for distance in range(1, seeds + 1)}
    return _Ground(model, task, {at: found for at, found in other.items() if not same(found.search, task.search)})


def _measure(cell: CellConfig, run: RunConfig, ground: _Ground, resamples: int, seeds: int, bar: tqdm[Any]) -> Measured:
    folder = cell_folder(run.root, cell.id)
    own = Order(cell.method.order, cell.method.senders)
    variants = [*resample_variants(resamples, own), *_orders(cell)]
    variants += [variant for variant in seed_variants(seeds, own) if variant.seed in ground.others]
    bar.update(seeds - len(ground.others))  # searches that there is nothing to do for
    with sole_writer(folder / "stability", lock=run.lock):
        _claim(folder, ground.model)
        kept: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
        seconds, circuit = 0.0, Circuit.read(folder / "circuit.json")
        original: tuple[Problem, Problem | None] | None = None
        for variant in variants:
            finished = folder / "stability" / f"{variant.name}.json"
            if not finished.exists():
                if cell.method.scores:
                    _score_again(cell, ground, variant, finished)
                elif variant.kind == "orders":
                    original = original or _problems(cell, ground.model, ground.task.search)
                    _search_again(_changed(cell, variant), original, finished, run.memory_gb, circuit)
                else:
                    problems = _problems(cell, ground.model, _prompts(cell, ground, variant))
                    _search_again(cell, problems, finished, run.memory_gb, circuit)
            edges, spent = _read_search(finished, variant)
            kept[variant.kind][variant.name] = edges
            seconds += spent
            bar.update()
        stability = Stability.of(circuit, kept)
        values = _summary(cell, ground, stability, resamples, seeds)
        write_parquet(folder / INCLUSION, inclusion_frame(stability))
        write_sealed(folder / "stability.json", values | {"files": digests(folder, [INCLUSION])})
    return Measured(folder / "stability.json", values, seconds)


def _orders(cell: CellConfig) -> list[Variant]:
    """Searches in other orders; scores have none."""
    return [] if cell.method.scores else order_variants(Order(cell.method.order, cell.method.senders))


def _prompts(cell: CellConfig, ground: _Ground, variant: Variant) -> Prompts:
    if variant.resample is None:
        return ground.others[variant.seed].search
    prompts = ground.task.search
    copies = needs_copies(cell.task.ablation, cell.precision)
    return resample(prompts, draw(len(prompts.clean), cell.seed, variant.resample), copies=copies)


def _problems(cell: CellConfig, model: Model, prompts: Prompts) -> tuple[Problem, Problem | None]:
    """The cell's problem on these prompts, and the full-precision one beside it where the cell is audited."""
    problem = cell_problem(cell, model, prompts)
    return problem, full_problem(cell, model, prompts, problem) if cell.audit == "band" else None


def _changed(cell: CellConfig, variant: Variant) -> CellConfig:
    order = {"order": variant.order.indices, "senders": variant.order.senders}
    return cell.model_copy(update={"method": cell.method.model_copy(update=order)})


def _search_again(
    cell: CellConfig, problems: tuple[Problem, Problem | None], finished: Path, memory_gb: float | None, like: Circuit
) -> None:
    """Search to the end, journalling each decision, and leave the kept edges in ``finished``.

    ``like``: the circuit found on the cell's own prompts, by which decisions are guessed.
    """
    problem, full = problems
    guesses = as_in(like)
    path = finished.with_suffix(".jsonl")
    lines = sound_lines(cell, path, way_on="move it away, and pahq stability makes that search anew")
    lines += journalled(
        path, problem.graph, list(lines), lambda done: search(cell, problem, done, memory_gb, full, guesses=guesses)
    )
    edges = [line.edge for line in lines if not line.removed]
    seconds = round(sum(line.seconds for line in lines), 6)
    write_sealed(finished, {"name": finished.stem, "tests": len(lines), "seconds": seconds, "edges": edges})
    path.unlink()


def _score_again(cell: CellConfig, ground: _Ground, variant: Variant, finished: Path) -> None:
    """Score all edges on other prompts, unless a cell of another size has, and leave the circuit's in ``finished``."""
    key = scores_digest(cell, {"prompts": variant.name})
    if key not in ground.scores:
        clock = time.perf_counter()
        problem = cell_problem(cell, ground.model, _prompts(cell, ground, variant))
        ground.scores[key] = scores_of(cell, problem), round(time.perf_counter() - clock, 6)
    scores, seconds = ground.scores[key]
    edges = list(chosen(cell, scores).edges)
    write_sealed(finished, {"name": finished.stem, "tests": len(scores), "seconds": seconds, "edges": edges})


def _read_search(path: Path, variant: Variant) -> tuple[list[str], float]:
    values = read_sealed(path)
    try:
        edges, seconds, name = list(map(str, values["edges"])), float(values["seconds"]), values["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise PahqError(f"{path} is not a whole search: {error} is missing or of another form") from None
    if name != variant.name:
        raise PahqError(f"{path} holds the search {name!r}, not {variant.name!r}")
    return edges, seconds


def _claim(folder: Path, model: Model) -> None:
    """Write what the searches rest on, or check that those which are there, and the cell itself, rest on the same."""
    result = read_result(folder)
    wanted = {"id": result.id, "model": model.digest, "pahq": versions()["pahq"]}
    if result.model_digest != model.digest:
        raise PahqError(f"{folder} was searched on a model of digest {result.model_digest}, not {model.digest}")
    path = folder / "stability" / "provenance.json"
    if path.exists() and read_sealed(path) != wanted:
        raise PahqError(f"{path.parent} holds searches of another run; move it away to start anew")
    write_sealed(path, wanted)


def _read_done(folder: Path, resamples: int, seeds: int) -> Measured | None:
    """What an earlier run with these counts or more left, if it is whole and belongs to the circuit that is there."""
    path = folder / "stability.json"
    if not (path.exists() and (folder / INCLUSION).exists()):
        return None
    values, result = read_sealed(path), read_result(folder)
    wanted = {"schema": SCHEMA, "id": result.id, "model": result.model_digest}
    if any(values.get(key) != value for key, value in wanted.items()):
        return None
    check_digests(folder, values["files"], way_on=f"move {path} away, and pahq stability makes both anew")
    if values["asked"]["resamples"] < resamples or values["asked"]["seeds"] < seeds:
        return None
    names = [name for kind in KINDS for name in values[kind]["each"]]
    claim, *files = [folder / "stability" / f"{name}.json" for name in ("provenance", *names)]
    there = [file for file in files if file.exists()]
    if (there or claim.exists()) and not (claim.exists() and there == files):
        return None  # one was moved away, and is to be made anew; where all are gone, nobody asks for them
    return Measured(path, values, sum(read_sealed(file)["seconds"] for file in there))


def _summary(cell: CellConfig, ground: _Ground, stability: Stability, resamples: int, seeds: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "id": cell.id,
        "model": ground.model.digest,
        "asked": {"resamples": resamples, "seeds": seeds},
        "prompts": len(ground.task.search.clean),
        "kept": len(stability.original),
        **{kind: getattr(stability, kind).to_json() for kind in KINDS},
        "note": SAME_PROMPTS if seeds and not ground.others else "",
    }


def inclusion_frame(stability: Stability) -> pd.DataFrame:
    """One row an edge of the graph, in its order: whether the circuit has it, and which share of searches kept it.

    Columns: edge, in_circuit, resamples, orders, seeds (shares in [0, 1]; nan where nothing was searched).
    """
    graph = stability.original.graph
    shares: dict[str, Sequence[object]] = {kind: list(getattr(stability, kind).inclusion.values()) for kind in KINDS}
    names = [str(edge) for edge in graph.edges]
    columns: dict[str, Sequence[object]] = {"edge": names, "in_circuit": stability.original.present}
    return pd.DataFrame(columns | shares)
