"""Searches beside methods that score edges: how good their circuits of a size are, and what they cost.

Full precision alone, since the question is which method to use. A search has a circuit a threshold, a method that
scores has one a size; what is compared is the error of circuits of about as many edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pahq.analysis.faithful import by_cell
from pahq.analysis.names import METHODS
from pahq.analysis.pairs import compared

SHARES = (0.02, 0.05, 0.1)  # of all edges: sizes that the table compares at
NAMES = (
    *("task", "method", "variant", "search_metric", "circuits", "seconds", "cmd_small"),
    *(f"kl_at_{100 * share:g}" for share in SHARES),
)


def method_rows(cells: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Columns ``NAMES``; one row a series of each task on which some method scores edges.

    ``seconds``: of one circuit of a search, and of the scoring from which all circuits of a series follow. ``kl_at_5``:
    KL on fresh prompts at 5% of the edges, on the straight line (in the logarithm of the size) between the circuits
    beside it; no number outside the sizes that are there. Edges that change no output are not counted. ``cmd_small``:
    mean distance of faithfulness to 1 over 0.1% to 5% of the edges, where it was measured.
    """
    shown = compared(cells)
    distance: Mapping[Any, float] = {}
    if len(measured):
        judged = by_cell(cells, measured)
        distance = dict(zip(judged["id"], judged["cmd_small"], strict=True))
    rows = []
    for _, sweep in shown.groupby("series", sort=False):
        first = sweep.iloc[0].to_dict()
        row = {name: first[name] for name in NAMES if name in first}
        row |= {"circuits": len(sweep), "seconds": sweep["seconds"].mean()}
        row["cmd_small"] = pd.Series([distance.get(cell_id, np.nan) for cell_id in sweep["id"]], dtype=float).mean()
        rows.append(row | {f"kl_at_{100 * share:g}": _at(sweep, share) for share in SHARES})
    order = {name: i for i, name in enumerate(METHODS)}
    rows.sort(key=lambda row: (row["task"], order.get(row["method"], len(order)), row["variant"]))
    return pd.DataFrame(rows, columns=list(NAMES))


def _at(sweep: pd.DataFrame, share: float) -> float:
    known = sweep[sweep["kept_cleaned"] > 0].drop_duplicates("kept_cleaned").sort_values("kept_cleaned")
    wanted = share * float(sweep["edges"].iloc[0])
    if known.empty or not known["kept_cleaned"].min() <= wanted <= known["kept_cleaned"].max():
        return float("nan")
    return float(np.interp(np.log(wanted), np.log(known["kept_cleaned"].astype(float)), known["kl"]))
