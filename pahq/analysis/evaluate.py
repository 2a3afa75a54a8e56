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
from pahq.analysis.names import EVALUATED, SERIES
from pahq.analysis.pairs import pair_rows
from pahq.analysis.stability import collect_stability
from pahq.circuits.agreement import Agreement, Curve, point
from pahq.circuits.circuit import Circuit
from pahq.circuits.published import published_circuit
from pahq.errors import PahqError
from pahq.files.frames import analysis_folder, write_parquet

LOG = logging.getLogger(__name__)
PUBLISHED = "published"
FEW_POINTS_NOTE = "few points"
BY_CONSTRUCTION = "ACDC by construction"

_ROC = [*SERIES, "reference", "threshold", "fpr", "tpr", "on_front"]
_AUC = [*SERIES, "reference", "thresholds", "interior_points", "auc_steps", "auc_trapezoid", "note"]
_AGREEMENT = [*SERIES, "id", "reference", "threshold", "differing", "jaccard", "jaccard_by_chance", "note"]


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
    roc, auc = _curves(collected)
    stability, inclusion = collect_stability(root, collected.cells)
    twice = measured_twice(root, collected.cells)
    frames = {
        "cells": collected.cells,
        "missing": missing,
        "roc": pd.DataFrame(roc, columns=_ROC),
        "auc": pd.DataFrame(auc, columns=_AUC),
        "agreement": pd.DataFrame(_agreements(collected), columns=_AGREEMENT),
        "stability": stability,
        "inclusion": inclusion,
        "effects": effect_rows(twice),
        "errors": error_rows(twice),
        "pairs": pair_rows(root, collected),
    }
    for name in EVALUATED:
        write_parquet(folder / f"{name}.parquet", frames[name])
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


def _curves(collected: Collected) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """ROC rows and area rows of every series against every reference that it has."""
    roc: list[dict[str, Any]] = []
    auc: list[dict[str, Any]] = []
    for _, series in collected.cells.groupby("series", sort=False):
        sweep: list[dict[str, Any]] = series.to_dict("records")  # type: ignore[assignment]
        first = sweep[0]
        label = {name: first[name] for name in SERIES}
        for reference, edges in _references(collected, first):
            points = [point(_edges(collected.circuits[row["id"]]), edges, first["edges"]) for row in sweep]
            curve = Curve(tuple(points))
            roc += [
                label
                | {"reference": reference, "threshold": row["threshold"]}
                | {"fpr": p.fpr, "tpr": p.tpr, "on_front": p in curve.front}
                for row, p in zip(sweep, points, strict=True)
            ]
            auc.append(
                label
                | {"reference": reference, "thresholds": len(sweep), "interior_points": curve.interior}
                | {"auc_steps": curve.auc_steps, "auc_trapezoid": curve.auc_trapezoid}
                | {"note": _curve_note(curve, first, reference)}
            )
    return roc, auc


def _references(collected: Collected, row: Mapping[str, Any]) -> Iterator[tuple[str, frozenset[str]]]:
    """The circuits to hold a series against, by name. One with no edge, or all, leaves a rate undefined."""
    published = published_circuit(row["kind"], collected.circuits[row["id"]].graph)
    if published:
        yield PUBLISHED, published
    acdc: list[dict[str, Any]] = acdc_cells(collected.cells, row).to_dict("records")  # type: ignore[assignment]
    for cell in acdc:
        edges = _edges(collected.circuits[cell["id"]])
        if 0 < len(edges) < row["edges"]:
            yield f"acdc@t{cell['threshold']:g}", edges


def _curve_note(curve: Curve, row: Mapping[str, Any], reference: str) -> str:
    notes = [FEW_POINTS_NOTE] if curve.few_points else []
    if is_acdc_by_construction(row):
        notes.append(BY_CONSTRUCTION)
    if reference != PUBLISHED and (row["method"] == "acdc" or is_acdc_by_construction(row)):
        notes.append("the sweep contains its own reference, so 1 by construction")
    return "; ".join(notes)


def _agreements(collected: Collected) -> Iterator[dict[str, Any]]:
    """Every search that is not ACDC against full-precision ACDC at the same threshold. Scores have none."""
    rows: list[dict[str, Any]] = collected.cells.to_dict("records")  # type: ignore[assignment]
    for row in rows:
        if row["method"] == "acdc" or row["scores"]:
            continue
        same = {name: row[name] for name in (*SERIES, "id", "threshold")}
        acdc = acdc_cells(collected.cells, row)
        acdc = acdc[acdc["threshold"] == row["threshold"]]
        if acdc.empty:
            yield same | {"note": "no finished ACDC cell at this threshold"}
            continue
        reference_id = str(acdc.iloc[0]["id"])
        mine, theirs = _edges(collected.circuits[row["id"]]), _edges(collected.circuits[reference_id])
        agreement = Agreement.of(mine, theirs, row["edges"])
        notes = [BY_CONSTRUCTION] if is_acdc_by_construction(row) else []
        notes += ["both circuits are empty"] if not mine and not theirs else []
        yield (
            same
            | {"reference": reference_id, "differing": agreement.differing, "jaccard": agreement.jaccard}
            | {"jaccard_by_chance": agreement.jaccard_by_chance, "note": "; ".join(notes)}
        )


def _edges(circuit: Circuit) -> frozenset[str]:
    return frozenset(circuit.edges)
