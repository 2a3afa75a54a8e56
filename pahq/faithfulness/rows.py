"""Faithfulness of an experiment's cells as rows: what the tables and the figure read."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
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
    for name in ("value", "faithfulness", "kl"):
        flat[name] = found[name]
        flat[f"{name}_low"], flat[f"{name}_high"] = found[f"{name}_interval"] or (None, None)
    curve, complete, minimal = found["curve"], found["completeness"], found["node_minimality"]
    flat |= {name: curve[name] for name in ("cmd_small", "cmd", "cpr")}
    flat["curve_fraction"] = curve["fractions"]
    flat["curve_faithfulness"] = [float("nan") if value is None else value for value in curve["faithfulness"]]
    flat |= {f"incompleteness_{name}": complete[name] for name in ("random_mean", "random_max", "greedy")}
    flat |= {"incompleteness_relative": complete["worst_relative"], "nodes": minimal["nodes"]}
    flat["nodes_trivial"] = len(minimal["trivial"])
    for name in TESTS:
        test = found["tests"][name]
        flat |= {f"{name}_p": test["p"], f"{name}_passed": test["passed"]}
    flat["edges_tested"] = found["tests"]["minimality"]["tested"]
    flat["edges_superfluous"] = len(found["tests"]["minimality"]["superfluous"])
    return flat


def merge_rows(folder: Path, rows: Mapping[str, list[dict[str, Any]]], others: Collection[str]) -> list[Path]:
    """Write each task's rows, and those of ``others`` that are in its file by now; the files.

    One process at a time: another one may have judged other cells of these tasks meanwhile, and its rows are to stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        written = []
        for task, own in rows.items():
            path = folder / f"{task}.parquet"
            written.append(write_rows(path, [*rows_of(path, others), *own]))
        return written
    finally:
        os.close(held)


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
    files = sorted((folder / "faithfulness").glob("[!.]*.parquet"))  # no half-written ones that a kill left behind
    if not files:
        return pd.DataFrame({"id": pd.Series(dtype=str)})
    return pd.concat([_read(path) for path in files], ignore_index=True)


def rows_of(path: Path, ids: Collection[str]) -> list[dict[str, Any]]:
    """Those rows of a task's file that are these cells'; none without cells or a file."""
    if not ids or not path.is_file():
        return []
    frame = _read(path)
    return [
        {str(name): value for name, value in one.items()} for one in frame[frame["id"].isin(ids)].to_dict("records")
    ]


def _read(path: Path) -> pd.DataFrame:
    frame = read_parquet(path.parent, path.stem)
    if "schema" not in frame or (frame["schema"] != SCHEMA).any():
        raise PahqError(f"{path} is of an earlier version of this program; remove it and run the workflow again")
    return frame
