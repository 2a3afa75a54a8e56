"""Blocks of the PAHQ paper (arXiv 2510.23264) across series: areas by grid, edge counts, costs, seconds and KL.

Where no number of the paper is known its column says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pahq.analysis.names import SETTINGS, SHOWN
from pahq.analysis.paper import AREAS, NOT_PUBLISHED, grid_area, pareto_point, printed_cost
from pahq.analysis.summary import Evaluation, cost_of, kl_of_logits
from pahq.analysis.table import Table
from pahq.circuits.agreement import Curve, Point
from pahq.config.precision import PrecisionConfig
from pahq.experiments.grids import GRIDS, Grid

THRESHOLDS = (0.001, 0.005, 0.01)  # the PAHQ paper's
ENOUGH = 0.5  # of a grid's thresholds: an area over fewer of them is not called that grid's


def blocks(found: Evaluation) -> list[Table]:
    """All blocks of an evaluation, in the report's order."""
    halves = "A grid of which fewer than half the thresholds are finished is left out."
    return [
        Table(
            "grids",
            "Areas by grid",
            "Areas against the published circuit over the thresholds of one grid: the sweeps of ACDC's and of the PAHQ "
            "authors' code, and the PAHQ paper's three thresholds. Steps: ACDC's area; trapezoid: the PAHQ authors' "
            f"kind of area, over the same points. {halves}",
            grid_frame(found.roc),
        ),
        Table(
            "printed",
            "Areas that the papers print",
            "Against the published circuit, corrupted activations. Ours: steps, over the grid named. HISP (head "
            "importance) and SP (subnetwork probing) are the ACDC paper's baselines.",
            printed_frame(found.cells, grid_frame(found.roc)),
        ),
        Table(
            "edges",
            "Edge counts",
            "Edges kept (Addition and Direct) at the PAHQ paper's thresholds, and the range over all thresholds.",
            edges_frame(found.cells),
        ),
        Table(
            "models",
            "Seconds and memory by model",
            "Over all tasks and thresholds of a model. Ratios: over the cells that ACDC has too, with the same "
            "prompts, thresholds, engine, device and threads.",
            models_frame(found.cells),
            by="model",
        ),
        Table(
            "scheduler",
            "Scheduler on and off",
            "PAHQ with the weights of the next head in focus read ahead (overlapped), and read when they are needed "
            "(serial): the same decisions. On a CPU a thread reads them from the model's file; a GPU has a stream for "
            "the copies and one for the head in focus. Seconds of all tests.",
            scheduler_frame(found.cells, found.serial),
        ),
        Table(
            "pareto",
            "Seconds against KL",
            "The circuits that no other circuit of the task, searched on the same engine, device and threads, beats in "
            "both seconds of its search and KL on fresh prompts. A scoring's seconds give circuits of every size, a "
            "search's or a training's (Edge Pruning) one circuit. The figure shows all.",
            pareto_frame(found.cells),
        ),
    ]


def grid_frame(roc: pd.DataFrame) -> pd.DataFrame:
    """One row a series and grid: areas over that grid's thresholds alone."""
    rows = []
    for _, sweep in roc.groupby("series", sort=False):
        first = _first(sweep)
        for grid in [grid for grid in GRIDS if grid.fits(first)]:
            points = on_grid(sweep, grid)
            if len(points) < ENOUGH * len(grid.thresholds):
                continue
            curve = Curve(tuple(Point(x, y) for x, y in zip(points["fpr"], points["tpr"], strict=True)))
            paper, source = grid_area(first, grid.name)
            label: dict[str, Any] = {name: first[name] for name in SHOWN}
            rows.append(
                label
                | {"grid": grid.name, "thresholds": f"{len(points)} of {len(grid.thresholds)}"}
                | {"points": curve.interior, "auc_steps": curve.auc_steps, "auc_trapezoid": curve.auc_trapezoid}
                | {"paper": paper, "paper_source": source, "note": "few points" if curve.few_points else ""}
            )
    names = "grid thresholds points auc_steps auc_trapezoid paper paper_source note"
    order = ["task", "search_metric", "grid", "method", "bits", "precision"]
    return pd.DataFrame(rows, columns=[*SHOWN, *names.split()]).sort_values(order, kind="stable", ignore_index=True)


def on_grid(sweep: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The rows of a sweep whose threshold is one of the grid's, to six significant digits."""
    wanted = {f"{value:.6g}" for value in grid.thresholds}
    return sweep[[f"{value:.6g}" in wanted for value in sweep["threshold"]]]


def printed_frame(cells: pd.DataFrame, grids: pd.DataFrame) -> pd.DataFrame:
    """Every area that a paper prints for a kind of task that is here, and ours on the same grid where there is one."""
    rows = []
    tasks = cells[cells["ablation"] == "corrupted"].drop_duplicates(["task", "kind"])
    for task, kind, model in zip(tasks["task"], tasks["kind"], tasks["model"], strict=True):
        for area in [area for area in AREAS if area.kind == kind]:
            label = {"task": task, "search_metric": area.metric, "method": area.method}
            same = grids[(grids[list(label)] == pd.Series(label)).all(axis=1)]
            same = same[(same["grid"] == area.grid) & (same["paper"] == area.value)]
            ours = ", ".join(
                f"{value:.3f} ({name})" for value, name in zip(same["auc_steps"], same["precision"], strict=True)
            )
            other = "" if model == area.model else f" (on {area.model}, another model)"
            rows.append(
                label
                | {"weights": ", ".join(area.formats), "grid": area.grid, "ours": ours or "-"}
                | {"paper": area.value, "paper_source": area.source + other}
            )
    names = "task search_metric method weights grid ours paper paper_source"
    return pd.DataFrame(rows, columns=names.split())


def edges_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a series: edges kept at the paper's thresholds, fewest and most over all."""
    rows = []
    for _, sweep in cells.groupby("series", sort=False):
        first = _first(sweep)
        row: dict[str, Any] = {name: first[name] for name in SHOWN} | {"edges": first["edges"]}
        for threshold in THRESHOLDS:
            at = sweep[sweep["threshold"] == threshold]["kept"]
            row[f"kept at {threshold:g}"] = float(at.iloc[0]) if len(at) else float("nan")
        row |= {"kept_min": sweep["kept"].min(), "kept_max": sweep["kept"].max(), "thresholds": len(sweep)}
        rows.append(row | {"paper_number": NOT_PUBLISHED})
    return pd.DataFrame(rows)


def models_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a model, method and precision on one engine, device and number of threads.

    A precision's settings are shown where any row has another one than is the default.
    """
    keys = ["model", "method", "precision", *SETTINGS, "engine", "device", "threads"]
    usual = [name for name in SETTINGS if (cells[name] == PrecisionConfig.model_fields[name].default).all()]
    costs = "tests seconds ms_per_test peak_mib seconds_to_acdc peak_to_acdc"
    rows = []
    for _, own in cells.groupby(keys, sort=False):
        first = _first(own)
        cost, printed = cost_of(cells, own), printed_cost(first)
        rows.append(
            {name: first[name] for name in keys}
            | {"bits": first["bits"], "tasks": own["task"].nunique(), "cells": len(own)}
            | {name: cost[name] for name in costs.split()}
            | {name: printed[name] for name in ("paper_runtime", "paper_memory")}
        )
    order = ["model", "method", "bits", "precision"]
    return pd.DataFrame(rows).sort_values(order, kind="stable", ignore_index=True).drop(columns=usual)


def scheduler_frame(cells: pd.DataFrame, serial: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of the serial schedule that has the overlapped one beside it, on the same device and threads."""
    both = cells.merge(serial, on=["without_schedule", "device", "threads"], suffixes=("", "_serial"))
    frame = both[["task", "model", "precision", "engine", "device", "threads", "threshold", "tests"]].assign(
        seconds_overlapped=both["seconds"],
        seconds_serial=both["seconds_serial"],
        overlapped_to_serial=both["seconds"] / both["seconds_serial"].where(both["seconds_serial"] > 0),
        same_end=(both["kept"] == both["kept_serial"]) & (both["search_final"] == both["search_final_serial"]),
        paper_number=NOT_PUBLISHED,
    )
    return frame.sort_values(["task", "precision", "threshold"], kind="stable", ignore_index=True)


def pareto_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells on the front of seconds and KL, quickest first; none for outputs that are no logits (Tracr)."""
    shown = cells.assign(kl=kl_of_logits(cells))
    shown = shown[shown["kl"].notna()]
    shown = shown[on_front(shown)].sort_values(["task", "seconds", "kl"], kind="stable", ignore_index=True)
    known = [pareto_point(row) for row in shown.to_dict("records")]  # type: ignore[arg-type]
    names = "threshold edges kept kl seconds engine device threads"
    return shown[[*SHOWN, *names.split()]].assign(
        paper_number=[value for value, _ in known], paper_source=[source for _, source in known]
    )


def on_front(cells: pd.DataFrame) -> pd.Series[bool]:
    """Whether no other cell of the task is at least as good in both and better in one.

    Cells compete on the same engine, device and threads alone.
    """
    same = ["task", "engine", "device", "threads"]
    front = pd.Series(False, index=cells.index)
    for _, rivals in cells.groupby(same, sort=False):
        best = float("inf")
        ordered = rivals.sort_values(["seconds", "kl"], kind="stable")
        last: tuple[float, float] | None = None
        for at, seconds, kl in zip(ordered.index, ordered["seconds"], ordered["kl"], strict=True):
            if kl < best or (seconds, kl) == last:
                front[at], best, last = True, kl, (seconds, kl)
    return front


def _first(sweep: pd.DataFrame) -> Mapping[str, Any]:
    return {str(name): value for name, value in sweep.iloc[0].items()}
