"""Faithfulness of an experiment's cells as rows: what the tables and the figure read."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.errors import PahqError
from pahq.files.frames import read_parquet, write_parquet

SCHEMA = 2  # of faithfulness.json and of the rows
TESTS = ("equivalence", "independence", "minimality", "sufficiency", "partial_necessity")


def row(found: Mapping[str, Any]) -> dict[str, Any]:
    """One cell's faithfulness.json as a flat row; the curve as columns of lists."""
    flat: dict[str, Any] = {"id": found["id"], "schema": found["schema"]}
    flat |= {f"setting_{name}": value for name, value in found["settings"].items()}
    for name in ("edges", "prompts", "metric", "value", "clean", "corrupted", "faithfulness", "kl"):
        flat[name] = found[name]
    for name in ("value", "faithfulness", "kl"):
        flat[f"{name}_low"], flat[f"{name}_high"] = found[f"{name}_interval"] or (None, None)
    curve, complete, minimal = found["curve"], found["completeness"], found["node_minimality"]
    flat |= {name: curve[name] for name in ("cmd_small", "cmd", "cpr")}
    flat |= {"curve_fraction": curve["fractions"], "curve_edges": curve["edges"]}
    flat["curve_faithfulness"] = [float("nan") if value is None else value for value in curve["faithfulness"]]
    flat |= {f"incompleteness_{name}": complete[name] for name in ("random_mean", "random_max", "greedy")}
    flat |= {"incompleteness_relative": complete["worst_relative"], "nodes": minimal["nodes"]}
    flat |= {"nodes_trivial": len(minimal["trivial"]), "node_least": minimal["least"]}
    for name in TESTS:
        test = found["tests"][name]
        flat |= {f"{name}_p": test["p"], f"{name}_passed": test["passed"]}
    flat["edges_tested"] = found["tests"]["minimality"]["tested"]
    flat["edges_superfluous"] = len(found["tests"]["minimality"]["superfluous"])
    return flat


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    frame = pd.DataFrame(rows)
    for name in frame.columns:  # all None would be no number, and a column of None and True no truth value
        if name.endswith("_passed"):
            frame[name] = frame[name].astype("boolean")
        elif frame[name].isna().all() and not name.startswith("curve_"):
            frame[name] = frame[name].astype(float)
    write_parquet(path, frame)
    return path


def read_rows(folder: Path) -> pd.DataFrame:
    """All tasks' rows below an analysis folder; no row where faithfulness was not measured.

    Raises PahqError for rows of another schema.
    """
    files = sorted((folder / "faithfulness").glob("*.parquet"))
    if not files:
        return pd.DataFrame({"id": pd.Series(dtype=str)})
    frames = {path: read_parquet(path.parent, path.stem) for path in files}
    for path, frame in frames.items():
        if "schema" not in frame or (frame["schema"] != SCHEMA).any():
            raise PahqError(f"{path} is of an earlier version of this program; remove it and run the workflow again")
    return pd.concat(frames.values(), ignore_index=True)


_SERIES = "task method precision variant"
_SMALL = "f_0.1% f_0.2% f_0.5% f_1% f_2% f_5%"
_MEANS = f"cmd_small {_SMALL} cmd cpr faithfulness kl incompleteness_relative"


def by_cell(cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a judged cell, in the order of ``cells``: its names, and all that was measured."""
    named = cells[["id", *f"{_SERIES} threshold kept series".split()]]
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
    columns = [*_SERIES.split(), "thresholds", *_MEANS.split(), "nodes_trivial", *TESTS]
    found = []
    for _, sweep in judged.groupby("series", sort=False):
        first: dict[str, Any] = {name: sweep.iloc[0][name] for name in _SERIES.split()}
        first |= {"thresholds": len(sweep)} | {name: sweep[name].mean() for name in _MEANS.split()}
        first["nodes_trivial"] = sweep["nodes_trivial"].sum() / max(sweep["nodes"].sum(), 1)
        for name in TESTS:
            first[name] = sweep[f"{name}_passed"].astype(float).mean()
        found.append(first)
    return pd.DataFrame(found, columns=columns)


def cell_columns(judged: pd.DataFrame) -> pd.DataFrame:
    """What the table of all cells shows."""
    names = f"{_SERIES} threshold kept faithfulness faithfulness_low faithfulness_high value value_low value_high"
    names += f" kl kl_low kl_high cmd_small {_SMALL} cmd cpr incompleteness_random_mean incompleteness_random_max"
    names += " incompleteness_greedy incompleteness_relative nodes nodes_trivial edges_tested edges_superfluous"
    shown = judged.reindex(columns=[*names.split(), *(f"{name}_p" for name in TESTS)])
    return shown.assign(note=[_undecided(row) for row in judged.to_dict("records")])


def _undecided(row: Mapping[Hashable, Any]) -> str:
    """Tests that could not have come out the other way, since prompts or draws are too few."""
    names = [name for name in TESTS if not pd.isna(row[f"{name}_p"]) and pd.isna(row[f"{name}_passed"])]
    return f"too few prompts or draws to decide: {', '.join(names).replace('_', ' ')}" if names else ""
