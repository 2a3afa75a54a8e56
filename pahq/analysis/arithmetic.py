"""Network against changes: the same searches with the whole network in low precision, or only what tests change."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from pahq.analysis.effects import CHANGES
from pahq.analysis.evaluate import acdc_cells
from pahq.analysis.names import SETTINGS

KINDS = ("network", "changes")
NAMES = (
    *("task", "method", "precision", "bits", "variant", "threshold", "kept_acdc"),
    *("differing_network", "differing_network_audited", "differing_changes", "differing_changes_audited"),
    *("share_network", "share_changes"),
)

# What the cells of one row have in common, beside the method without its arithmetic.
SAME = ("pair", "focus", "precision", *SETTINGS, "engine", "doubts", "dtype", "threshold")


def arithmetic_rows(cells: pd.DataFrame, agreement: pd.DataFrame) -> pd.DataFrame:
    """Columns ``NAMES``; one row a search of which both arithmetics are finished, with an audit or without.

    ``differing``: edges, from ACDC's circuit; ``share``: of the tests, what the ordinary audit decided. An audit with
    settings of its own counts for nothing here. A number is missing where its cell is not finished.
    """
    differing: dict[Hashable, float] = dict(zip(agreement["id"], agreement["differing"], strict=True))
    low = cells[(cells["method"] != "acdc") & cells["usual_band"] & cells["audit"].isin(["none", "band"])]
    low = low.assign(base=low["method"].str.removesuffix(CHANGES))
    rows = []
    for by_kind in _both_kinds(low):
        first = {str(name): value for name, value in by_kind["changes"].iloc[0].items()}
        acdc = acdc_cells(cells, first)
        kept = acdc[acdc["threshold"] == first["threshold"]]["kept"]
        row = {name: first[name] for name in NAMES if name in first}
        row |= {"method": first["base"], "variant": _without_audit(first["variant"])}
        row["kept_acdc"] = float(kept.iloc[0]) if len(kept) else float("nan")
        for kind, of_kind in by_kind.items():
            plain, audited = (_first(of_kind[of_kind["audit"] == audit]) for audit in ("none", "band"))
            row[f"differing_{kind}"] = differing.get(plain.get("id"), float("nan"))
            row[f"differing_{kind}_audited"] = differing.get(audited.get("id"), float("nan"))
            row[f"share_{kind}"] = audited.get("audited_share", float("nan"))
        rows.append(row)
    order = ["task", "method", "bits", "precision", "variant", "threshold"]
    return pd.DataFrame(rows, columns=list(NAMES)).sort_values(order, kind="stable", ignore_index=True)


def _both_kinds(low: pd.DataFrame) -> Iterator[dict[str, pd.DataFrame]]:
    """The cells of each row, by arithmetic. Rounds are of changes alone: those of another size are another row."""
    for _, group in low.groupby(["base", *SAME], sort=False):
        of_changes = group["method"].str.endswith(CHANGES)
        for _, changes in group[of_changes].groupby("round", sort=True):
            if not of_changes.all():
                yield {"network": group[~of_changes], "changes": changes}


def _first(cells: pd.DataFrame) -> Mapping[Any, Any]:
    return {} if cells.empty else cells.iloc[0].to_dict()


def _without_audit(variant: str) -> str:
    """A variant's settings but those of the audit."""
    return " ".join(word for word in variant.split() if not word.startswith(("audit=", "band.")))
