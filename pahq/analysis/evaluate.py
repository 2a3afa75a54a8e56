"""Judge an experiment's circuits: ROC points, areas, agreement with ACDC. Reads cells, writes parquet.

Two kinds of reference, never mixed up: ``published`` (a circuit that others published for the task's model)
and ``acdc@t<threshold>`` (what full-precision ACDC found at one threshold: agreement with a method, not
with a truth).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.analysis.collect import Collected, collect
from pahq.analysis.effects import effect_rows, error_rows, measured_twice
from pahq.analysis.names import SERIES
from pahq.analysis.pairs import pair_rows
from pahq.analysis.rows import Rows, records
from pahq.analysis.stability import inclusion_parts, stability_rows
from pahq.circuits.agreement import Agreement, Curve, point
from pahq.circuits.packed import Packed
from pahq.circuits.published import published_circuit
from pahq.errors import PahqError
from pahq.files.frames import PART, analysis_folder, write_parquet, write_parquet_parts

LOG = logging.getLogger(__name__)
PUBLISHED = "published"
FEW_POINTS_NOTE = "few points"
BY_CONSTRUCTION = "ACDC by construction"

_ROC = [*SERIES, "reference", "threshold", "fpr", "tpr", "on_front"]
_AUC = [*SERIES, "reference", "thresholds", "interior_points", "auc_steps", "auc_trapezoid", "note"]
_AGREEMENT = [*SERIES, "id", "reference", "threshold", "differing", "jaccard", "jaccard_by_chance", "note"]
_COMPARED = ["pair", "engine", "dtype", "edges", "full_precision", "scores"]  # what a comparison reads besides


def evaluate(root: str | Path, experiment: str, ids: Sequence[str]) -> Path:
    """Write the parquet files of ``EVALUATED``; return their folder.

    Cells without a result are listed in missing.parquet and warned of; the rest is evaluated all the same.
    Raises PahqError for a broken result, and if no cell is finished.
    """
    folder = analysis_folder(root, experiment)
    if not ids:
        raise PahqError(f"the experiment {experiment!r} has no cells to evaluate")
    collected = collect(root, ids)
    missing = collected.missing
    if collected.cells.empty:
        raise PahqError(f"none of the {len(missing)} cells of the experiment {experiment!r} is finished below {root}")
    if len(missing):
        names = ", ".join(missing["id"].head(3)) + (", ..." if len(missing) > 3 else "")
        LOG.warning("%d of %d cells are not finished and left out: %s", len(missing), len(set(ids)), names)
    against = _References(collected)
    stability = stability_rows(root, collected.cells)
    twice = measured_twice(root, collected.cells)
    effects, errors, pairs = effect_rows(twice), error_rows(twice), pair_rows(root, collected)
    auc = Rows(_AUC)
    write_parquet_parts(folder / "inclusion.parquet", inclusion_parts(root, collected.cells))
    write_parquet_parts(folder / "roc.parquet", _curves(collected, against, auc))
    frames = {
        "cells": collected.cells,
        "missing": missing,
        "auc": auc.frame(),
        "agreement": _agreements(collected, against),
        "stability": stability,
        "effects": effects,
        "errors": errors,
        "pairs": pairs,
    }
    for name, frame in frames.items():
        write_parquet(folder / f"{name}.parquet", frame)
    return folder


def is_acdc_by_construction(row: Mapping[str, Any]) -> bool:
    """Whether a row's search is full-precision ACDC under another method's name."""
    return bool(row["method"] != "acdc" and row["full_precision"] and not row["scores"])


def acdc_cells(cells: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """The full-precision ACDC cells to compare a row with, one a threshold; of its own engine if possible."""
    found = cells[(cells["method"] == "acdc") & (cells["pair"] == row["pair"])]
    own = (found["engine"] == row["engine"]) & (found["dtype"] == row["dtype"])
    ordered = found.assign(_other=~own).sort_values(["threshold", "_other", "id"]).drop(columns="_other")
    first: pd.DataFrame = ordered.drop_duplicates("threshold")
    return first


class _References:
    """The full-precision ACDC circuits that each series is held against."""

    def __init__(self, collected: Collected) -> None:
        cells = collected.cells[["method", "pair", "engine", "dtype", "threshold", "id"]]
        self._circuits, self._acdc = collected.circuits, cells[cells["method"] == "acdc"]
        self._ids: dict[tuple[Any, ...], dict[float, str]] = {}

    def ids(self, row: Mapping[str, Any]) -> Mapping[float, str]:
        """By threshold, the ids of the cells that ``acdc_cells`` finds for a row."""
        ground = (row["pair"], row["engine"], row["dtype"])
        if ground not in self._ids:
            found = acdc_cells(self._acdc, row)
            self._ids[ground] = dict(zip(found["threshold"], found["id"], strict=True))
        return self._ids[ground]

    def of(self, row: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
        """The circuits to hold a series against, by name. One with no edge, or all, leaves a rate undefined."""
        graph = self._circuits.packed(row["id"]).graph
        published = published_circuit(row["kind"], graph)
        if published:
            yield PUBLISHED, Packed.of_names(graph, published)
        for threshold, cell_id in self.ids(row).items():
            edges = self._circuits.packed(cell_id)
            if 0 < len(edges) < row["edges"]:
                yield f"acdc@t{threshold:g}", edges


def _curves(collected: Collected, against: _References, auc: Rows) -> Iterator[pd.DataFrame]:
    """ROC rows of every series against every reference that it has, in parts; ``auc`` gets the areas' rows."""
    roc = Rows(_ROC)
    for first, sweep in _sweeps(collected.cells):
        circuits = [collected.circuits.packed(cell_id) for cell_id in sweep]
        label = {name: first[name] for name in SERIES}
        for reference, edges in against.of(first):
            if len(roc) >= PART:
                yield roc.frame()
                roc = Rows(_ROC)
            points = [point(circuit, edges, first["edges"]) for circuit in circuits]
            curve = Curve(tuple(points))
            front = set(curve.front)
            same = label | {"reference": reference}
            for threshold, p in zip(sweep.values(), points, strict=True):
                roc.add(same | {"threshold": threshold, "fpr": p.fpr, "tpr": p.tpr, "on_front": p in front})
            auc.add(
                same
                | {"thresholds": len(sweep), "interior_points": curve.interior}
                | {"auc_steps": curve.auc_steps, "auc_trapezoid": curve.auc_trapezoid}
                | {"note": _curve_note(curve, first, reference)}
            )
    yield roc.frame()


def _sweeps(cells: pd.DataFrame) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """By series: the row of its first cell, and the thresholds of all its cells by id."""
    found: dict[str, tuple[dict[str, Any], dict[str, float]]] = {}
    for row in records(cells[[*SERIES, "id", "threshold", *_COMPARED]]):
        found.setdefault(row["series"], (row, {}))[1][row["id"]] = row["threshold"]
    return list(found.values())


def _curve_note(curve: Curve, row: Mapping[str, Any], reference: str) -> str:
    notes = [FEW_POINTS_NOTE] if curve.few_points else []
    if is_acdc_by_construction(row):
        notes.append(BY_CONSTRUCTION)
    if reference != PUBLISHED and (row["method"] == "acdc" or is_acdc_by_construction(row)):
        notes.append("the sweep contains its own reference, so 1 by construction")
    return "; ".join(notes)


def _agreements(collected: Collected, against: _References) -> pd.DataFrame:
    """Every search that is not ACDC against full-precision ACDC at the same threshold. Scores have none."""
    found, cells = Rows(_AGREEMENT), collected.cells
    searches = cells[(cells["method"] != "acdc") & ~cells["scores"]]
    for row in records(searches[[*SERIES, "id", "threshold", *_COMPARED]]):
        same = {name: row[name] for name in (*SERIES, "id", "threshold")}
        reference_id = against.ids(row).get(row["threshold"])
        if reference_id is None:
            found.add(same | {"note": "no finished ACDC cell at this threshold"})
            continue
        mine, theirs = collected.circuits.packed(row["id"]), collected.circuits.packed(reference_id)
        agreement = Agreement.of(mine, theirs, row["edges"])
        notes = [BY_CONSTRUCTION] if is_acdc_by_construction(row) else []
        notes += ["both circuits are empty"] if not len(mine) and not len(theirs) else []
        found.add(
            same
            | {"reference": reference_id, "differing": agreement.differing, "jaccard": agreement.jaccard}
            | {"jaccard_by_chance": agreement.jaccard_by_chance, "note": "; ".join(notes)}
        )
    return found.frame()
