"""Stability in an experiment's analysis: what ``pahq stability`` left beside its cells, as two tidy tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pahq.cell.files import cell_folder
from pahq.errors import PahqError
from pahq.files.frames import read_parquet
from pahq.files.sealed import check_digests, read_sealed

LABELS = ["id", "series", "task", "method", "precision", "format", "bits", "variant", "threshold", "edges", "kept"]
_NUMBERS = {  # column: where it stands in stability.json
    "resamples": ("bootstrap", "replicates"),
    "kept_mean": ("bootstrap", "kept", "mean"),
    "kept_min": ("bootstrap", "kept", "min"),
    "kept_max": ("bootstrap", "kept", "max"),
    "jaccard_pairs": ("bootstrap", "pairwise", "mean"),
    "jaccard_pairs_min": ("bootstrap", "pairwise", "min"),
    "jaccard_circuit": ("bootstrap", "to_original", "mean"),
    "jaccard_circuit_min": ("bootstrap", "to_original", "min"),
    "jaccard_by_chance": ("bootstrap", "by_chance"),
    "always": ("bootstrap", "always"),
    "ever": ("bootstrap", "ever"),
    "orders": ("orders", "replicates"),
    "jaccard_orders": ("orders", "to_original", "mean"),
    "jaccard_orders_min": ("orders", "to_original", "min"),
    "seeds": ("other_seeds", "replicates"),
    "jaccard_seeds": ("other_seeds", "to_original", "mean"),
    "jaccard_seeds_min": ("other_seeds", "to_original", "min"),
}
STABILITY = [*LABELS, *_NUMBERS, "note"]
INCLUSION = [*LABELS, "edge", "direct", "in_circuit", "bootstrap", "orders", "seeds"]


def collect_stability(root: str | Path, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a cell that was measured, and one an edge that any of its replicates or the circuit itself kept.

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
        kept = edges["in_circuit"] | (edges[["bootstrap", "orders", "seeds"]].fillna(0) > 0).any(axis=1)
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
