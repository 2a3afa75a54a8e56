"""``pahq stability``: the stability of an experiment's marked cells, or of cells by name."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from pahq.config.arguments import Arguments
from pahq.config.cell import RunConfig
from pahq.errors import PahqError
from pahq.experiments.jobs import RESAMPLES, Asked
from pahq.resamples.variants import SEEDS, check_counts
from pahq.sentences import one_sentence

DESCRIPTION = "search again on resampled prompts, in other orders and on prompts of other seeds; compare the circuits"


def main(argv: Sequence[str], marked_cells: Callable[[str], Mapping[str, Asked]]) -> int:
    """``EXPERIMENT | CELL ...``; ``marked_cells``: an experiment's cells whose rows say stability, and how much.

    One line on standard output for each cell that is done. Raises PahqError on bad input.
    """
    given = _parser().parse_args(argv)
    check_counts(RESAMPLES if given.n is None else given.n, given.seeds or 0)
    settings = {key: getattr(given, key) for key in ("root", "device", "threads", "memory_gb", "progress", "lock")}
    try:
        run = RunConfig(**settings)
    except ValidationError as error:
        raise PahqError(one_sentence(error, RunConfig)) from None
    asked: dict[str, Asked] = {}
    for cell_id, one in itertools.chain.from_iterable(_cells(name, given.root, marked_cells) for name in given.names):
        asked[cell_id] = asked.get(cell_id, Asked()) | one
    counts: dict[tuple[int, int], list[str]] = {}
    for cell_id, one in asked.items():
        counts.setdefault(_counts(given, one), []).append(cell_id)
    from pahq.resamples.cells import Measured, check_finished, measure_cells  # brings torch

    def report(found: Measured) -> None:
        resamples = found.values["resamples"]
        sys.stdout.write(
            f"{found.values['id']}: {resamples['circuits']} resamples, Jaccard {resamples['pairwise']['mean']:.3f} in "
            f"pairs, {resamples['to_original']['mean']:.3f} to the circuit, {found.seconds:.1f} s, {found.path}\n"
        )
        sys.stdout.flush()

    check_finished([cell_id for ids in counts.values() for cell_id in ids], run)  # before the first search
    for (n, seeds), ids in counts.items():
        measure_cells(ids, run, resamples=n, seeds=seeds, report=report)
    return 0


def _counts(given: argparse.Namespace, asked: Asked) -> tuple[int, int]:
    n, seeds = given.n, given.seeds
    return asked.resamples if n is None else n, asked.seeds if seeds is None else seeds


def _parser() -> Arguments:
    parser = Arguments(prog="pahq stability", description=DESCRIPTION)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="an experiment, or finished cells by id (task/method-...)"
    )
    parser.add_argument("--root", default="results", metavar="FOLDER")
    of_rows = "or what the experiment's row says"
    parser.add_argument("--n", type=int, help=f"resamples of the prompts (default {RESAMPLES}, {of_rows})")
    parser.add_argument("--seeds", type=int, help=f"further seeds of the task (default {SEEDS}, {of_rows})")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-gb", type=float, help="ceiling of a search, as run.memory_gb")
    parser.add_argument("--no-lock", dest="lock", action="store_false", help="as run.lock=false")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no bar")
    return parser


def _cells(name: str, root: str, marked_cells: Callable[[str], Mapping[str, Asked]]) -> Iterable[tuple[str, Asked]]:
    """The ids that a word stands for: a cell's id or folder has a slash, an experiment's name has none."""
    if "/" not in name:
        marked = marked_cells(name)
        if not marked:
            raise PahqError(f"no row of the experiment {name!r} says stability")
        return marked.items()
    folder = Path(name)
    below = Path(root) / "cells"
    cell_id = str(folder.relative_to(below)) if folder.is_relative_to(below) else name.rstrip("/")
    return [(cell_id, Asked(resamples=RESAMPLES))]
