"""Stability in an experiment's analysis: what ``pahq stability`` left beside its cells, as two tidy tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pahq.analysis.names import NAMED
from pahq.cell.files import cell_folder
from pahq.errors import PahqError
from pahq.files.frames import read_parquet
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


def collect_stability(root: str | Path, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a cell that was measured, and one an edge that the circuit itself or any of the further searches kept.

    Raises PahqError, naming the file, for one that is broken or of another circuit than the cell's.
    """
    rows, frames = [], []
    for cell in cells.to_dict("records"):
        folder = cell_folder(root, cell["id"])
        if not (folder / "stability.json").exists():
            continue
        label = {name: cell[name] for name in LABELS}
        rows.append(label | _row(folder / "stability.json", cell["id"], cell["kept"]))
        edges = read_parquet(folder, "inclusion")
        kept = edges["in_circuit"] | (edges[list(KINDS)].fillna(0) > 0).any(axis=1)
        frames.append(edges[kept].assign(**label)[INCLUSION])
    inclusion = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=INCLUSION)
    return pd.DataFrame(rows, columns=STABILITY), inclusion


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
