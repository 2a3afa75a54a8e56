"""What an audit is worth: audited cells beside the same search without audit and beside ACDC."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from pahq.analysis.evaluate import acdc_cells
from pahq.analysis.names import SETTINGS

NAMES = (
    *("task", "method", "precision", "variant", "threshold", "size", "tests"),
    *("audited_share", "overturned", "could_differ"),
    *("differing_unaudited", "differing", "bits_share", "seconds_acdc", "seconds_unaudited", "seconds"),
    *("peak_mib_acdc", "peak_mib_unaudited", "peak_mib", "note"),
)

# What an audited cell and the same cell without audit have in common.
SAME = ("pair", "method", "focus", "precision", *SETTINGS, "engine", "doubts", "round", "dtype", "threshold", "size")


def audit_rows(cells: pd.DataFrame, agreement: pd.DataFrame) -> pd.DataFrame:
    """One row an audited cell, columns ``NAMES``; a number is missing where its cell is not finished."""
    differing: dict[Hashable, float] = dict(zip(agreement["id"], agreement["differing"], strict=True))
    rows = []
    audited: list[dict[str, Any]] = cells[cells["audit"] == "band"].to_dict("records")  # type: ignore[assignment]
    for row in audited:
        own = pd.Series(row)[list(SAME)]
        same = ((cells[list(SAME)] == own) | (cells[list(SAME)].isna() & own.isna())).all(axis=1)
        unaudited = cells[same & (cells["audit"] == "none")]
        acdc = acdc_cells(cells, row)
        acdc = acdc[acdc["threshold"] == row["threshold"]]
        found = {name: row[name] for name in NAMES if name in row}
        found |= {"differing": differing.get(row["id"], float("nan")), "peak_mib": row["peak_bytes"] / 2**20}
        for suffix, others in (("unaudited", unaudited), ("acdc", acdc)):
            other = {} if others.empty else others.iloc[0].to_dict()
            found[f"seconds_{suffix}"] = other.get("seconds", float("nan"))
            found[f"peak_mib_{suffix}"] = other.get("peak_bytes", float("nan")) / 2**20
        ids = list(unaudited["id"].head(1))
        found["differing_unaudited"] = differing.get(ids[0], float("nan")) if ids else float("nan")
        found["note"] = "hopeless: the rest in full precision" if row["hopeless"] else ""
        rows.append(found)
    return pd.DataFrame(rows, columns=list(NAMES))
