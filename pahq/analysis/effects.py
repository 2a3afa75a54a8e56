"""How far effects in low precision are off, test by test: searches whose every test was measured in both precisions.

Such a search (``audit=band`` with ``band.share=1``) walks ACDC's own path, whatever its format, focus and arithmetic.
So cells of one task and threshold were measured in the very same states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from pahq.analysis.names import SERIES, SETTINGS
from pahq.analysis.rows import Rows
from pahq.cell.files import cell_folder
from pahq.cell.journal import JournalLine, read_journal
from pahq.search.acdc import is_removed

NAMES = (
    *("task", "precision", "method", "focus", "variant", "baseline", "threshold", "tests"),
    *("error_median", "error_q90", "error_q99", "error_largest", "relative_median", "relative_largest", "flipped"),
)
POINTS = (*SERIES, "threshold", "effect", "error")
REMEASURED, ONCE = "re-measured", "no head in focus"
NOTABLE = 1 / 3  # of the threshold: effects below it are seldom decided wrongly, and relative errors of 0 say nothing
MOST = 60  # points of one search in the figure of errors
CHANGES = "-changes"  # how the name of a method of ``arithmetic=changes`` ends


@dataclass(frozen=True)
class Twice:
    """A finished cell whose tests were all measured in both precisions: its row, and where its journal is."""

    cell: dict[str, Any]
    journal: Path

    def read(self) -> Measurements:
        """Its tests; not kept, since those of thousands of cells would fill the memory."""
        return Measurements(read_journal(self.journal))


@dataclass(frozen=True)
class Measurements:
    """The tests of one search, each of which was measured in both precisions."""

    lines: Sequence[JournalLine]

    @property
    def low(self) -> Float[ndarray, "test 2"]:
        """The losses before and after each test in low precision."""
        return np.array([line.low for line in self.lines], dtype=float)

    @property
    def exact(self) -> Float[ndarray, " test"]:
        """The effects in full precision."""
        return np.array([line.after - line.before for line in self.lines], dtype=float)

    @property
    def path(self) -> list[tuple[str, bool]]:
        """The edges tested, and whether each was removed."""
        return [(line.edge, line.removed) for line in self.lines]

    @property
    def is_whole(self) -> bool:
        return bool(self.lines) and all(line.low is not None for line in self.lines)


def measured_twice(root: str | Path, cells: pd.DataFrame) -> list[Twice]:
    """The cells whose tests were all measured in both precisions."""
    chosen: list[dict[str, Any]] = cells[(cells["audited_share"] == 1) & ~cells["hopeless"]].to_dict("records")  # type: ignore[assignment]
    found = [Twice(row, cell_folder(root, row["id"]) / "decisions.jsonl") for row in chosen]
    return [one for one in found if one.read().is_whole]


def effect_rows(found: Sequence[Twice]) -> pd.DataFrame:
    """Columns ``NAMES``; one row a cell of ``found``.

    Errors are |effect - full-precision effect| in the units of the search metric; ``relative``: divided by the
    full-precision effect's size, of the tests where that is more than ``NOTABLE`` of the threshold. ``flipped`` counts
    tests on the other side of the threshold. A cell with a head in focus has a second row if the same cell without
    focus (RTN-Q) is there: its effects from a baseline that was not re-measured at focus change.
    """
    rows = []
    for one in found:
        tests = one.read()
        rows.append(_row(one.cell, tests, tests.low[:, 1] - tests.low[:, 0], REMEASURED))
        unfocused = next((other.read() for other in found if _is_unfocused(one, other)), None)
        if unfocused is not None and unfocused.path == tests.path:
            rows.append(_row(one.cell, tests, tests.low[:, 1] - unfocused.low[:, 0], ONCE))
    frame = pd.DataFrame(rows, columns=list(NAMES))
    return frame.sort_values(
        ["task", "precision", "threshold", "baseline", "method", "focus", "variant"], ignore_index=True
    )


def error_rows(found: Sequence[Twice]) -> pd.DataFrame:
    """Columns ``POINTS``: |effect| in full precision and the error of the low one, up to ``MOST`` tests of each search.

    Of searches that stand in both arithmetics, if there are any, else of all. The tests are taken evenly by the size of
    their effect, and those with the largest error, and the largest relative to their effect, are among them.
    """
    shown = [one for one in found if any(_is_other_arithmetic(one, other) for other in found)] or found
    rows = Rows(POINTS)
    for one in shown:
        low, exact = (tests := one.read()).low, tests.exact
        effect, error = np.abs(exact), np.abs(low[:, 1] - low[:, 0] - exact)
        label = {name: one.cell[name] for name in (*SERIES, "threshold")}
        for test in _thinned(effect, error):
            rows.add(label | {"effect": float(effect[test]), "error": float(error[test])})
    return rows.frame()


def _thinned(effect: Float[ndarray, " test"], error: Float[ndarray, " test"]) -> list[int]:
    order = np.argsort(effect, kind="stable")
    even = order[np.linspace(0, len(order) - 1, min(MOST - 2, len(order))).round().astype(int)]
    relative = np.divide(error, effect, out=np.zeros_like(error), where=effect > 0)
    return sorted({int(i) for i in (*even, error.argmax(), relative.argmax())})


def _is_unfocused(one: Twice, other: Twice) -> bool:
    """Whether ``other`` is the same search without a head in focus."""
    method = str(one.cell["method"]).replace("pahq", "rtn-q")
    return one.cell["focus"] != "none" and other.cell["method"] == method and _alike(one, other)


def _is_other_arithmetic(one: Twice, other: Twice) -> bool:
    """Whether ``other`` is the same search in the other arithmetic."""
    names = {str(one.cell["method"]), str(other.cell["method"])}
    same = len(names) == 2 and len({name.removesuffix(CHANGES) for name in names}) == 1
    return same and one.cell["focus"] == other.cell["focus"] and _alike(one, other)


def _alike(one: Twice, other: Twice, names: Iterable[str] = ("threshold", "pair", "precision", *SETTINGS)) -> bool:
    return all(one.cell[name] == other.cell[name] for name in names)


def _row(
    cell: Mapping[str, Any], tests: Measurements, effects: Float[ndarray, " test"], baseline: str
) -> dict[str, Any]:
    exact = tests.exact
    errors = np.abs(effects - exact)
    median, q90, q99, largest = np.quantile(errors, [0.5, 0.9, 0.99, 1.0])
    threshold, absolute = cell["threshold"], bool(cell["absolute"])
    notable = np.abs(exact) > NOTABLE * threshold
    relative = errors[notable] / np.abs(exact[notable])
    fell = [is_removed(float(effect), threshold, absolute=absolute) for effect in effects]
    return {
        **{name: cell[name] for name in NAMES if name in cell},
        **{"baseline": baseline, "error_median": median, "error_q90": q90, "error_q99": q99, "error_largest": largest},
        "relative_median": float(np.median(relative)) if len(relative) else float("nan"),
        "relative_largest": float(relative.max()) if len(relative) else float("nan"),
        "flipped": sum(now != line.removed for now, line in zip(fell, tests.lines, strict=True)),
    }
