"""``pahq stability``: the stability of an experiment's marked cells, or of cells by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from pahq.config import RunConfig
from pahq.errors import PahqError
from pahq.replicates.variants import REPLICATES, SEEDS, check_counts
from pahq.sentences import one_sentence

DESCRIPTION = "search again on resampled prompts, in other orders and on prompts of other seeds; compare the circuits"


def main(argv: Sequence[str], marked_cells: Callable[[str], Sequence[str]]) -> int:
    """``EXPERIMENT | CELL ...``; ``marked_cells`` gives the ids of an experiment's cells with ``stability: true``.

    One line on standard output for each cell that is done. Raises PahqError on bad input.
    """
    parser = argparse.ArgumentParser(prog="pahq stability", description=DESCRIPTION)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="an experiment, or finished cells by id (task/method-...)"
    )
    parser.add_argument("--root", default="results", metavar="FOLDER")
    parser.add_argument("--n", type=int, default=REPLICATES, help=f"resamples of the prompts (default {REPLICATES})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"further seeds of the task (default {SEEDS})")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-gb", type=float, help="ceiling of a search, as run.memory_gb")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no bar")
    given = parser.parse_args(argv)
    check_counts(given.n, given.seeds)
    settings = {key: getattr(given, key) for key in ("root", "device", "threads", "memory_gb", "progress")}
    try:
        run = RunConfig(**settings)
    except ValidationError as error:
        raise PahqError(one_sentence(error, RunConfig)) from None
    ids = [cell_id for name in given.names for cell_id in _cells(name, given.root, marked_cells)]
    from pahq.replicates.cells import Measured, measure_cells  # brings torch

    def report(found: Measured) -> None:
        bootstrap = found.values["bootstrap"]
        sys.stdout.write(
            f"{found.values['id']}: {found.values['n']} resamples, Jaccard {bootstrap['pairwise']['mean']:.3f} in "
            f"pairs, {bootstrap['to_original']['mean']:.3f} to the circuit, {found.seconds:.1f} s, {found.path}\n"
        )
        sys.stdout.flush()

    measure_cells(ids, run, n=given.n, seeds=given.seeds, report=report)
    return 0


def _cells(name: str, root: str, marked_cells: Callable[[str], Sequence[str]]) -> Sequence[str]:
    """The ids that a word stands for: a cell's id or folder has a slash, an experiment's name has none."""
    if "/" not in name:
        marked = marked_cells(name)
        if not marked:
            raise PahqError(f"no row of the experiment {name!r} has stability: true")
        return marked
    folder = Path(name)
    below = Path(root) / "cells"
    return [str(folder.relative_to(below)) if folder.is_relative_to(below) else name.rstrip("/")]
