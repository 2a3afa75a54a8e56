"""How far effects in low precision are off, test by test: searches whose every test was measured in both precisions.

Such a search (``audit=band`` with ``band.share=1``) walks ACDC's own path, whatever its format and focus, so that cells
of one task and threshold were measured in the very same states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from pahq.analysis.names import SETTINGS
from pahq.cell.files import cell_folder
from pahq.cell.journal import JournalLine, read_journal
from pahq.search.acdc import is_removed

NAMES = (
    *("task", "precision", "method", "focus", "variant", "baseline", "threshold", "tests"),
    *("error_median", "error_q90", "error_q99", "error_largest", "flipped"),
)
REMEASURED, ONCE = "re-measured", "no head in focus"


def effect_rows(root: str | Path, cells: pd.DataFrame) -> pd.DataFrame:
    """Columns ``NAMES``; one row a cell whose tests were all measured in both precisions.

    Errors are |effect - full-precision effect| in the units of the search metric; ``flipped`` counts tests on the other
    side of the threshold. A cell with a head in focus has a second row if the same cell without focus (RTN-Q) is there:
    its effects from a baseline that was not re-measured at focus change.
    """
    rows = []
    chosen = cells[(cells["audited_share"] == 1) & ~cells["hopeless"]]
    found: list[dict[str, Any]] = chosen.to_dict("records")  # type: ignore[assignment]
    journals = {row["id"]: read_journal(cell_folder(root, row["id"]) / "decisions.jsonl") for row in found}
    for row in found:
        lines = journals[row["id"]]
        if not lines or any(line.low is None for line in lines):
            continue
        low = np.array([line.low for line in lines])
        rows.append(_row(row, lines, low[:, 1] - low[:, 0], REMEASURED))
        if row["focus"] == "none":
            continue
        same = (chosen["method"] == "rtn-q") & (chosen["threshold"] == row["threshold"])
        for name in ("pair", "precision", *SETTINGS):
            same &= chosen[name] == row[name]
        unfocused = [journals[other] for other in chosen[same]["id"]]
        before = [line.low[0] for line in unfocused[0] if line.low is not None] if unfocused else []
        if before and _path(unfocused[0]) == _path(lines):
            rows.append(_row(row, lines, low[:, 1] - np.array(before), ONCE))
    frame = pd.DataFrame(rows, columns=list(NAMES))
    return frame.sort_values(
        ["task", "precision", "threshold", "baseline", "method", "focus", "variant"], ignore_index=True
    )


def _path(lines: list[JournalLine]) -> list[tuple[str, bool]]:
    return [(line.edge, line.removed) for line in lines]


def _row(
    cell: dict[str, Any], lines: list[JournalLine], effects: Float[ndarray, " test"], baseline: str
) -> dict[str, Any]:
    exact = np.array([line.after - line.before for line in lines])
    median, q90, q99, largest = np.quantile(np.abs(effects - exact), [0.5, 0.9, 0.99, 1.0])
    threshold, absolute = cell["threshold"], bool(cell["absolute"])
    fell = [is_removed(float(effect), threshold, absolute=absolute) for effect in effects]
    return {
        **{name: cell[name] for name in NAMES if name in cell},
        **{"baseline": baseline, "error_median": median, "error_q90": q90, "error_q99": q99, "error_largest": largest},
        "flipped": sum(one != line.removed for one, line in zip(fell, lines, strict=True)),
    }
