"""One row a series: what a sweep over thresholds comes to. The tables and figures are views of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.analysis.evaluate import BY_CONSTRUCTION, PUBLISHED, is_acdc_by_construction
from pahq.analysis.names import EVALUATED, METHODS, SERIES
from pahq.errors import PahqError
from pahq.faithfulness.rows import read_rows
from pahq.files.frames import analysis_folder, read_parquet

WANTED = {"roc": {"reference": PUBLISHED}}  # rows that a table or figure shows; ACDC's as references are many
AGAINST_PUBLISHED = "published circuit"
AGAINST_ACDC = "full-precision ACDC, same threshold"
HARMLESS = 0.01  # of the smallest threshold: a rounded model that starts with less loss can hardly lose an edge
WORDS = {"audit=band": "audited", "precision.rounding=calibrated": "calibrated"}  # settings that figures name so


@dataclass(frozen=True)
class Evaluation:
    """The parquet files of an evaluated experiment; ``faithfulness`` has no row where it was not measured.

    Cells of the serial schedule beside which there is the overlapped one stand apart in ``serial``: their numbers are
    those of the cells beside them, but for seconds and memory. ``roc`` has the points against published circuits.
    """

    folder: Path
    cells: pd.DataFrame
    serial: pd.DataFrame
    missing: pd.DataFrame
    roc: pd.DataFrame
    auc: pd.DataFrame
    agreement: pd.DataFrame
    stability: pd.DataFrame
    inclusion: pd.DataFrame
    effects: pd.DataFrame
    errors: pd.DataFrame
    pairs: pd.DataFrame
    faithfulness: pd.DataFrame

    @classmethod
    def read(cls, root: str | Path, experiment: str) -> Evaluation:
        """Read what ``evaluate`` wrote; PahqError in one sentence if it is missing or broken."""
        folder = analysis_folder(root, experiment)
        frames = {name: read_parquet(folder, name, WANTED.get(name)) for name in EVALUATED}
        if "full_precision" not in frames["cells"] or "series" not in frames["stability"]:
            raise PahqError(f"{folder} was evaluated by an older version; evaluate the experiment {experiment!r} again")
        serial = _serial(frames["cells"])
        for name in ("cells", "roc", "auc", "agreement", "stability", "inclusion", "errors"):
            frames[name] = frames[name][~frames[name]["series"].isin(serial["series"])].reset_index(drop=True)
        return cls(folder, **frames, serial=serial, faithfulness=read_rows(folder))


def _serial(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of the serial schedule beside which there is the same cell of the other."""
    is_serial = cells["schedule"] == "serial"
    return cells[is_serial & cells["without_schedule"].isin(cells["without_schedule"][~is_serial])]


def summarise(found: Evaluation) -> pd.DataFrame:
    """One row a series, in the order of task, method, bits and precision."""
    cells = found.cells
    thresholds = cells.groupby("pair")["threshold"].nunique()
    rows = []
    for series, sweep in cells.groupby("series", sort=False):
        first = {str(name): value for name, value in sweep.iloc[0].items()}
        row: dict[str, Any] = {name: first[name] for name in (*SERIES, "engine", "device", "threads")}
        of_thresholds = len(sweep) if first["scores"] else int(thresholds[first["pair"]])
        row |= {"thresholds": len(sweep), "of_thresholds": of_thresholds}
        row |= (
            _area(found.auc, str(series), scores=bool(first["scores"]))
            | _agreement(found.agreement, str(series))
            | cost_of(cells, sweep)
        )
        row |= {"mean_kept": sweep["kept"].mean(), "mean_kl": kl_of_logits(sweep).mean()}
        row["start_loss"] = _loss_by_rounding(first, sweep)
        row["note"] = "; ".join(_notes(row, first, sweep))
        rows.append(row)
    order = pd.DataFrame(rows).sort_values(["task", "method", "bits", "precision", "variant"], kind="stable")
    return order.reset_index(drop=True)


def _loss_by_rounding(first: Mapping[str, Any], sweep: pd.DataFrame) -> float:
    """The loss before any edge is removed, where that is the rounded network's: not of changes, nor if audited."""
    rounded = first["search_metric"] in ("kl", "mse") and not first["method"].endswith("-changes")
    return float(sweep["search_start"].max()) if rounded and first["audit"] != "band" else float("nan")


def _area(auc: pd.DataFrame, series: str, *, scores: bool) -> dict[str, Any]:
    found = auc[(auc["series"] == series) & (auc["reference"] == PUBLISHED)]
    if found.empty:
        nothing = dict.fromkeys(("auc_steps", "auc_trapezoid", "points"), float("nan"))
        return {"against": "nothing" if scores else AGAINST_ACDC, "area_note": "", **nothing}
    row = found.iloc[0]
    areas = {"auc_steps": row["auc_steps"], "auc_trapezoid": row["auc_trapezoid"]}
    return {"against": AGAINST_PUBLISHED, "points": row["interior_points"], "area_note": row["note"], **areas}


def _agreement(agreement: pd.DataFrame, series: str) -> dict[str, Any]:
    found = agreement[(agreement["series"] == series) & agreement["jaccard"].notna()]
    names = ("mean_jaccard", "jaccard_by_chance", "edges_differing")
    if found.empty:
        return dict.fromkeys(names, float("nan")) | {"agreement_thresholds": 0}
    values = (found["jaccard"].mean(), found["jaccard_by_chance"].mean(), found["differing"].sum())
    return dict(zip(names, values, strict=True)) | {"agreement_thresholds": len(found)}


COSTS = ["seconds", "peak_bytes"]


def cost_of(cells: pd.DataFrame, sweep: pd.DataFrame) -> dict[str, Any]:
    """Seconds and bytes; ratios to ACDC's at the same thresholds on the same engine, device and threads."""
    if sweep["scores"].all():
        sweep = sweep.drop_duplicates(["task", "seconds"])  # circuits that follow from one scoring share its seconds
    same = ["pair", "engine", "dtype", "device", "threads", "threshold"]
    acdc = cells[cells["method"] == "acdc"].drop_duplicates(same)
    both = sweep[[*same, *COSTS]].merge(acdc[[*same, *COSTS]], on=same, suffixes=("", "_acdc"))
    comparable = len(both) > 0 and both["seconds_acdc"].sum() > 0
    return {
        "tests": int(sweep["tests"].sum()),
        "seconds": sweep["seconds"].sum(),
        "ms_per_test": 1000 * sweep["seconds"].sum() / max(sweep["tests"].sum(), 1),
        "peak_mib": sweep["peak_bytes"].max() / 2**20,
        "seconds_to_acdc": both["seconds"].sum() / both["seconds_acdc"].sum() if comparable else float("nan"),
        "peak_to_acdc": both["peak_bytes"].max() / both["peak_bytes_acdc"].max() if comparable else float("nan"),
        "resumed": int(sweep["resumed"].sum()),
    }


def _agrees(row: Mapping[str, Any]) -> bool:
    """Whether nothing speaks against the note: no edge differs from ACDC's, as far as is known."""
    differing = row["edges_differing"]
    return bool(pd.isna(differing) or differing == 0)


def _notes(row: Mapping[str, Any], first: Mapping[str, Any], sweep: pd.DataFrame) -> list[str]:
    notes = [row["area_note"]] if row["area_note"] else []
    if is_acdc_by_construction(first) and BY_CONSTRUCTION not in row["area_note"]:
        notes.append(BY_CONSTRUCTION)
    elif row["method"] != "acdc" and row["start_loss"] < HARMLESS * sweep["threshold"].min() and _agrees(row):
        notes.append("rounding hardly changes this model")
    if row["against"] == AGAINST_ACDC and row["method"] == "acdc":
        notes.append("is the reference")
    if row["thresholds"] < row["of_thresholds"]:
        notes.append(f"{row['thresholds']} of {row['of_thresholds']} thresholds")
    elif row["method"] != "acdc" and not first["scores"] and row["agreement_thresholds"] < len(sweep):
        notes.append(f"ACDC at {row['agreement_thresholds']} of {len(sweep)} thresholds")
    if row["against"] == AGAINST_ACDC and row["thresholds"] == row["of_thresholds"] == 1:
        notes.append("one threshold")
    return notes


def kl_of_logits(cells: pd.DataFrame) -> pd.Series[float]:
    """KL of the cells whose outputs are logits; no number for Tracr, whose outputs are not."""
    return cells["kl"].where(cells["metric"] != "mse")


def label(row: Mapping[str, Any]) -> str:
    """A series' name in a legend: ``PAHQ int8, changes``, plain ``ACDC``, with its variant where it has one."""
    name, *more = METHODS.get(row["method"], row["method"]).split(", ")
    first = name if row["method"] == "acdc" else f"{name} {row['precision']}"
    return ", ".join([first, *more, *([in_words(row["variant"])] if row["variant"] else [])])


def in_words(variant: str) -> str:
    """A variant as figures name it: settings without their groups (names keep theirs), the usual ones in a word."""
    settings = re.split(r" (?=[\w.]+=)", variant)
    return ", ".join(WORDS.get(text) or re.sub(r"^[\w.]+\.(?!name=)(?=\w+=)", "", text) for text in settings)
