"""How many cells of a run are left, and about how long they take, from the files of those that are done. No torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pahq.cell.files import cell_folder
from pahq.config.cell import CellConfig, RunConfig
from pahq.errors import PahqError
from pahq.files.text import write_atomic

FEWEST = 20  # one cell of so many must be done before a time is told
FEW = 100  # cells of a run: of so many, or fewer, progress is told after each that is finished
PAUSE = 99.0  # of more, so many times as long as it took to look at them all


@dataclass(frozen=True)
class Progress:
    """Cells that one run, begun at ``since`` (seconds of the epoch), is to finish: each by its ``result.json``."""

    results: tuple[Path, ...]
    since: float

    @classmethod
    def begun(cls, runs: Iterable[tuple[CellConfig, RunConfig]]) -> Progress:
        """A run of these cells that begins now."""
        return cls(tuple(_result(run.root, cell.id) for cell, run in runs), time.time())

    @classmethod
    def planned(cls, plan: str, root: str) -> Progress:
        """A run whose cells ``write_plan`` listed when it began; PahqError where there is no such file."""
        try:
            ids, since = Path(plan).read_text().splitlines(), Path(plan).stat().st_mtime
        except OSError as error:
            raise PahqError(f"run.plan: {plan}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise PahqError(f"run.plan: {plan} is no list of cells, one a line in UTF-8") from None
        return cls(tuple(_result(root, cell_id) for cell_id in ids), since)

    def sentence(self) -> str:
        """Such as ``12 of 160 cells done, about 3 min left``; the cells left are taken to need what this run's did.

        No time is told before a twentieth of the cells that the run found undone is done: the first say too little.
        """
        times = [path.stat().st_mtime for path in self.results if path.exists()]
        left, own = len(self.results) - len(times), sum(written >= self.since for written in times)
        said = f"{len(times)} of {len(self.results)} cells done"
        if not left or own * FEWEST < own + left:
            return said
        return f"{said}, {_about((time.time() - self.since) / own * left)} left"


class Telling:
    """Tells how far a run is, after each cell that is finished; of many cells seldom enough to cost a hundredth.

    Every look is at every cell's file, so that looking after each would take time in proportion to their square.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._every = len(progress.results) <= FEW
        self._next = -math.inf

    def sentence(self, *, last: bool) -> str | None:
        """``Progress.sentence`` where it is time for it, or after the ``last`` cell; else None."""
        began = self._clock()
        if began < self._next and not last and not self._every:
            return None
        said = self._progress.sentence()
        ended = self._clock()
        self._next = ended + PAUSE * (ended - began)
        return said


def _result(root: str, cell_id: str) -> Path:
    return cell_folder(root, cell_id) / "result.json"


def write_plan(path: Path, cell_ids: Iterable[str]) -> None:
    """List a run's cells, one a line; the time of the file says when the run began."""
    write_atomic(path, "".join(f"{cell_id}\n" for cell_id in cell_ids))


def _about(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 100 * 60 else f"about {seconds / 3600:.1f} h"
