"""Stability in an experiment's analysis: what ``pahq stability`` left beside its cells, as two tidy tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.analysis.names import NAMED
from pahq.analysis.rows import Rows, records
from pahq.cell.files import cell_folder
from pahq.errors import PahqError
from pahq.files.frames import in_parts, read_parquet
from pahq.files.sealed import check_digests, read_sealed
from pahq.resamples.variants import KINDS

LABELS = ["id", "series", *NAMED, "format", "bits", "threshold", "kept"]
_NUMBERS = {  # column: where it stands in stability.json
    "resamples": ("resamples", "circuits"),
    "kept_mean": ("resamples", "kept", "mean"),
    "kept_min": ("resamples", "kept", "min"),
    "kept_max": ("resamples", "kept", "max"),
    "jaccard_pairs": ("resamples", "pairwise", "mean"),
    "jaccard_pairs_min": ("resamples", "pairwise", "min"),
    "jaccard_circuit": ("resamples", "to_original", "mean"),
    "jaccard_circuit_min": ("resamples", "to_original", "min"),
    "jaccard_by_chance": ("resamples", "by_chance"),
    "always": ("resamples", "always"),
    "ever": ("resamples", "ever"),
    "orders": ("orders", "circuits"),
    "jaccard_orders": ("orders", "to_original", "mean"),
    "jaccard_orders_min": ("orders", "to_original", "min"),
    "seeds": ("seeds", "circuits"),
    "jaccard_seeds": ("seeds", "to_original", "mean"),
    "jaccard_seeds_min": ("seeds", "to_original", "min"),
}
STABILITY = [*LABELS, *_NUMBERS, "note"]
INCLUSION = [*LABELS, "edge", "in_circuit", *KINDS]


def stability_rows(root: str | Path, cells: pd.DataFrame) -> pd.DataFrame:
    """One row a cell that was measured.

    Raises PahqError, naming the file, for one that is broken or of another circuit than the cell's.
    """
    rows = Rows(STABILITY)
    for folder, label in _measured(root, cells):
        rows.add(label | _row(folder / "stability.json", label["id"], label["kept"]))
    return rows.frame()


def inclusion_parts(root: str | Path, cells: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """One row an edge that a measured circuit itself or any of the further searches kept, in parts; one at least."""
    parts = in_parts(_inclusion(folder, label) for folder, label in _measured(root, cells))
    yield next(parts, pd.DataFrame(columns=INCLUSION))
    yield from parts


def _measured(root: str | Path, cells: pd.DataFrame) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of the cells that were measured, and what a row says of each."""
    for label in records(cells[LABELS]):
        folder = cell_folder(root, label["id"])
        if (folder / "stability.json").exists():
            yield folder, label


def _inclusion(folder: Path, label: Mapping[str, Any]) -> pd.DataFrame:
    edges = read_parquet(folder, "inclusion")
    kept = edges["in_circuit"] | (edges[list(KINDS)].fillna(0) > 0).any(axis=1)
    return edges[kept].assign(**label)[INCLUSION]


def _row(path: Path, cell_id: str, kept: int) -> dict[str, Any]:
    values = read_sealed(path)
    try:
        check_digests(path.parent, values["files"], way_on=f"move {path} away, and pahq stability makes both anew")
        row = {column: _at(values, place) for column, place in _NUMBERS.items()} | {"note": str(values["note"])}
        belongs = (values["id"], values["kept"]) == (cell_id, kept)
    except (KeyError, TypeError) as error:
        raise PahqError(f"{path} is not a whole stability: {error} is missing or of another form") from None
    if not belongs:
        raise PahqError(f"{path} is of {values['id']!r} with {values['kept']} edges kept, not of the circuit beside it")
    return row


def _at(values: Any, place: tuple[str, ...]) -> float:
    """A number some levels down; nan where there was nothing to measure."""
    for key in place:
        if values is None:
            return float("nan")
        values = values[key]
    return float("nan") if values is None else float(values)
