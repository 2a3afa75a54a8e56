"""Which series of a panel are named in it, and how: all of them where they are few, else those that one looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pahq.analysis.summary import label

FEW = 8  # lines of a panel that are all named there, so that the figure needs no legend
FEWER = 5  # the same of points, whose names stand between them


def all_named(frame: pd.DataFrame, most: int = FEW) -> bool:
    """Whether every series of every panel has its name beside it, since no panel has more than so many."""
    return bool((frame.groupby("task")["series"].nunique() <= most).all())


def named(
    rows: pd.DataFrame,
    best: str,
    most: int = FEW,
    looked_for: Sequence[str] = ("acdc", "pahq", "pahq-changes", "rtn-q"),
) -> list[str]:
    """The series of one panel that are named, in the order of ``rows``.

    All if they are few. Else ``best``, and of each method that one looks for the plain series of fewest bits, whose
    rounding shows most.
    """
    order = list(dict.fromkeys(rows["series"]))
    if len(order) <= most:
        return order
    plain = rows[rows["variant"] == ""].sort_values("bits", kind="stable")
    firsts = plain[plain["method"].isin(looked_for)].drop_duplicates("method")["series"]
    return [series for series in order if series in {*firsts, best}]


def best_of(rows: pd.DataFrame, columns: tuple[str, str]) -> str:
    """The series with most circuits that no other circuit beats in both columns, of which less is better."""
    first, second = (rows[name].to_numpy(dtype=float) for name in columns)
    beaten = [
        bool(((first <= a) & (second <= b) & ((first < a) | (second < b))).any())
        for a, b in zip(first, second, strict=True)
    ]
    front = rows[[not one for one in beaten]].drop_duplicates(list(columns))
    return str(front["series"].value_counts(sort=False).idxmax())


def short(row: Mapping[str, Any]) -> str:
    """A series' name in a panel: full precision goes without saying."""
    return label(row).replace(" float32", "")
