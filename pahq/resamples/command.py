"""``pahq stability``: the stability of an experiment's marked cells, or of cells by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pahq.config.cell import RunConfig
from pahq.errors import PahqError
from pahq.experiments.jobs import RESAMPLES, Asked
from pahq.resamples.variants import check_counts

if TYPE_CHECKING:
    from pahq.resamples.cells import Measured


def check_asked(n: int | None, seeds: int | None) -> None:
    """PahqError for numbers of resamples and seeds that cannot be compared; None is what is usual."""
    check_counts(RESAMPLES if n is None else n, seeds or 0)


def measure(
    names: Sequence[str],
    run: RunConfig,
    marked_cells: Callable[[str], Mapping[str, Asked]],
    n: int | None,
    seeds: int | None,
    report: Callable[[Measured], None],
) -> None:
    """Measure experiments or cells by name, ``n`` and ``seeds`` as given or as rows say; ``report`` each that is done.

    ``marked_cells``: an experiment's cells whose rows say stability, and how much. Raises PahqError on bad input.
    """
    asked: dict[str, Asked] = {}
    for cell_id, one in itertools.chain.from_iterable(_cells(name, run.root, marked_cells) for name in names):
        asked[cell_id] = asked.get(cell_id, Asked()) | one
    counts: dict[tuple[int, int], list[str]] = {}
    for cell_id, one in asked.items():
        count = one.resamples if n is None else n, one.seeds if seeds is None else seeds
        counts.setdefault(count, []).append(cell_id)
    from pahq.resamples.cells import check_finished, measure_cells  # brings torch

    check_finished([cell_id for ids in counts.values() for cell_id in ids], run)  # before the first search
    for (resamples, further), ids in counts.items():
        measure_cells(ids, run, resamples=resamples, seeds=further, report=report)


def _cells(name: str, root: str, marked_cells: Callable[[str], Mapping[str, Asked]]) -> Iterable[tuple[str, Asked]]:
    """The ids that a word stands for: a cell's id or folder has a slash, an experiment's name has none."""
    if "/" not in name:
        marked = marked_cells(name)
        if not marked:
            raise PahqError(f"no row of the experiment {name!r} says stability")
        return marked.items()
    folder, below = Path(name), Path(root) / "cells"
    pairs = [(folder.absolute(), below.absolute()), (folder.resolve(), below.resolve())]  # the first keeps links
    inside = next((str(one.relative_to(top)) for one, top in pairs if one.is_relative_to(top)), None)
    if folder.is_dir() and inside is None and (folder.is_absolute() or not (below / name).is_dir()):
        cells = folder.resolve().parent.parent
        at = str(cells.parent) if cells.name == "cells" else "FOLDER, the one whose cells/ it is in"
        raise PahqError(f"{name} does not lie below {below}; say --root {at}")
    return [(inside or name.rstrip("/"), Asked(resamples=RESAMPLES))]
