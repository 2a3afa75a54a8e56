"""Faithfulness in an experiment's tables: what was measured of every cell, by cell and by series."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from pahq.analysis.names import NAMED
from pahq.faithfulness.rows import TESTS

_SMALL = "f_0.1% f_0.2% f_0.5% f_1% f_2% f_5%"
_MEANS = f"cmd_small {_SMALL} cmd cpr faithfulness kl incompleteness_relative"


def by_cell(cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a judged cell, in the order of ``cells``: its names, and all that was measured."""
    named = cells[["id", *NAMED, "threshold", "kept", "series"]]
    if rows.empty:
        return named.iloc[:0]
    joined = named.merge(rows, on="id")
    points = zip(joined["curve_fraction"], joined["curve_faithfulness"], strict=True)
    curves = [dict(zip([f"f_{100 * x:g}%" for x in fractions], values, strict=True)) for fractions, values in points]
    wide = pd.DataFrame(curves, index=joined.index).reindex(columns=_SMALL.split())
    return joined.join(wide)


def by_series(judged: pd.DataFrame) -> pd.DataFrame:
    """One row a series: means over its thresholds, and the share of its circuits that passed each test.

    A test that is undefined on a circuit, or cannot decide, counts neither way.
    """
    columns = [*NAMED, "thresholds", *_MEANS.split(), "nodes_trivial", *TESTS]
    found = []
    for _, sweep in judged.groupby("series", sort=False):
        first: dict[str, Any] = {name: sweep.iloc[0][name] for name in NAMED}
        first |= {"thresholds": len(sweep)} | {name: sweep[name].mean() for name in _MEANS.split()}
        first["nodes_trivial"] = sweep["nodes_trivial"].sum() / max(sweep["nodes"].sum(), 1)
        for name in TESTS:
            first[name] = sweep[f"{name}_passed"].astype(float).mean()
        found.append(first)
    return pd.DataFrame(found, columns=columns)


def cell_columns(judged: pd.DataFrame) -> pd.DataFrame:
    """What the table of all cells shows."""
    names = "threshold kept faithfulness faithfulness_low faithfulness_high value value_low value_high"
    names += f" kl kl_low kl_high cmd_small {_SMALL} cmd cpr incompleteness_random_mean incompleteness_random_max"
    names += " incompleteness_greedy incompleteness_relative nodes nodes_trivial edges_tested edges_superfluous"
    shown = judged.reindex(columns=[*NAMED, *names.split(), *(f"{name}_p" for name in TESTS)])
    return shown.assign(note=[_undecided(row) for row in judged.to_dict("records")])


def _undecided(row: Mapping[Hashable, Any]) -> str:
    """Tests that could not have come out the other way, since prompts or draws are too few."""
    names = [name for name in TESTS if not pd.isna(row[f"{name}_p"]) and pd.isna(row[f"{name}_passed"])]
    return f"too few prompts or draws to decide: {', '.join(names).replace('_', ' ')}" if names else ""
