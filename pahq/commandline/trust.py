"""The commands that look how far circuits can be trusted: repair, stability and faithfulness (claims.py: verify)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pahq.commandline.completion import experiments
from pahq.commandline.options import (
    Device,
    Json,
    MemoryGb,
    Names,
    NoLock,
    NoProgress,
    Root,
    Threads,
)
from pahq.commandline.output import document, line
from pahq.errors import PahqError

RESULTS = Path("results")


def repair(
    names: Names,
    root: Root = RESULTS,
    device: Device = "cpu",
    threads: Threads = 1,
    memory_gb: MemoryGb = None,
    no_lock: NoLock = False,
    no_progress: NoProgress = False,
    json: Json = False,
) -> int:
    """Compute those finished cells anew that are damaged.

    Checks every file of finished cells, says what is damaged, sets it aside, and computes those cells anew and no
    others. Exit status 1 if something is still damaged at the end.
    """
    run = _run(root, device, threads, memory_gb, no_lock, no_progress, repair=True)
    from pahq.experiments.compose import cells
    from pahq.verify.repair import repair as repaired

    found = repaired(
        names,
        run,
        lambda name: {cell_id: cell.config for cell_id, cell in cells(name).items()},
        say=(lambda said: None) if json else line,
    )
    if json:
        document(found.to_json())
    else:
        line(str(found))
    return int(found.count("damaged") > 0)


def stability(
    names: Names,
    root: Root = RESULTS,
    n: Annotated[
        int | None,
        typer.Option("--n", metavar="N", help="Resamples of the prompts. Without it 20, or what the row says."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Further seeds of the task. Without it 5, or what the row says.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
    memory_gb: MemoryGb = None,
    no_lock: NoLock = False,
    no_progress: NoProgress = False,
    json: Json = False,
) -> None:
    """Search again on resampled prompts, and compare circuits.

    It also searches in other orders of visits, and on prompts of other seeds. Of an experiment it takes the cells whose
    rows say "stability".
    """
    from pahq.experiments.compose import groups
    from pahq.experiments.jobs import Asked, stability_jobs
    from pahq.resamples.command import check_asked, measure

    def marked(name: str) -> Mapping[str, Asked]:
        return {cell_id: job.asked for job in stability_jobs(groups(name)) for cell_id in job.cells}

    check_asked(n, seeds)
    run = _run(root, device, threads, memory_gb, no_lock, no_progress)
    told: list[dict[str, Any]] = []
    measure(names, run, marked, n, seeds, lambda found: told.append(found.to_json()) if json else line(str(found)))
    if json:
        document(told)


def _run(
    root: Path,
    device: str,
    threads: int,
    memory_gb: float | None,
    no_lock: bool,
    no_progress: bool,
    *,
    repair: bool = False,
) -> Any:
    """Where and how loudly; PahqError in one sentence."""
    from pydantic import ValidationError

    from pahq.config.cell import RunConfig
    from pahq.sentences import one_sentence

    where = {"root": str(root), "device": device, "threads": threads, "memory_gb": memory_gb}
    try:
        return RunConfig(**where, lock=not no_lock, progress=not no_progress, repair=repair)
    except ValidationError as error:
        raise PahqError(one_sentence(error, RunConfig)) from None


def _sample(help: str) -> Any:
    return typer.Option(metavar="N", help=help, rich_help_panel="How much evidence")


def faithfulness(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT|FOLDER", help="An experiment, or folders of cells.", autocompletion=experiments
        ),
    ] = None,
    root: Root = RESULTS,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of an experiment the cells of this task alone.")
    ] = None,
    cells: Annotated[
        list[str] | None, typer.Option("--cells", metavar="ID...", help="Of an experiment these cells alone.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
    no_progress: NoProgress = False,
    seed: Annotated[int, _sample("Of all that is drawn.")] = 0,
    confidence: Annotated[float, _sample("Of intervals by bootstrap over prompts.")] = 0.95,
    resamples: Annotated[int, _sample("Of the bootstrap.")] = 1000,
    alpha: Annotated[float, _sample("Level of every hypothesis test.")] = 0.05,
    epsilon: Annotated[
        float, _sample("Equivalence: how far from 1/2 the chance of beating the full model may lie.")
    ] = 0.1,
    quantile: Annotated[float, _sample("Minimality, sufficiency, partial necessity: of the random circuits.")] = 0.9,
    permutations: Annotated[int, _sample("Independence.")] = 500,
    inflated: Annotated[int, _sample("Minimality: random inflated circuits.")] = 30,
    edges: Annotated[int, _sample("Minimality: edges of the circuit tested, drawn at random if it has more.")] = 30,
    random_circuits: Annotated[int, _sample("Sufficiency and partial necessity.")] = 30,
    subsets: Annotated[int, _sample("Completeness: random sets of nodes.")] = 8,
    greedy_rounds: Annotated[int, _sample("Completeness: nodes of the greedy set.")] = 3,
    greedy_candidates: Annotated[int, _sample("Completeness: nodes tried in each round.")] = 4,
    node_subsets: Annotated[int, _sample("Node minimality: random sets tried beside the empty one.")] = 1,
    json: Json = False,
) -> None:
    """Judge circuits on fresh prompts: intervals, curves, tests.

    Writes faithfulness.json beside every cell's result.json, and of an experiment a table for each task.
    """
    _run(root, device, threads, None, False, no_progress)
    from pahq.experiments.compose import cells as composed
    from pahq.faithfulness.settings import Settings

    settings = Settings(
        seed=seed,
        confidence=confidence,
        resamples=resamples,
        alpha=alpha,
        epsilon=epsilon,
        quantile=quantile,
        permutations=permutations,
        inflated=inflated,
        edges=edges,
        random_circuits=random_circuits,
        subsets=subsets,
        greedy_rounds=greedy_rounds,
        greedy_candidates=greedy_candidates,
        node_subsets=node_subsets,
    )
    from pahq.faithfulness.command import judge_what_is_asked
    from pahq.model.sources.find import check_device

    check_device(device)
    import torch

    torch.set_num_threads(threads)
    paths = []
    for path in judge_what_is_asked(
        what or ["default"],
        settings,
        lambda name: list(composed(name)),
        root=root,
        task=task,
        cells=cells or (),
        device=device,
        progress=not no_progress,
    ):
        paths.append(path)
        if not json:
            line(str(path))
    if json:
        document({"files": paths})
