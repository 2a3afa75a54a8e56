"""Audited cells beside the search without audit and beside ACDC: the right numbers in the right columns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from support import made_cells

from pahq.analysis.audits import NAMES, audit_rows
from pahq.analysis.blocks import models_frame
from pahq.analysis.collect import collect
from pahq.analysis.evaluate import evaluate
from pahq.analysis.summary import Evaluation
from pahq.analysis.tables import write_tables
from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TASK = "nano-induction"
EDGES = sorted(graph_of(TASK).edge_index)[:6]
BAND = made_cells.BAND


def audited(threshold: float, method: str = "pahq", precision: str = "int8", **band: Any) -> Any:
    made = config(TASK, method, precision, threshold)
    return made.model_copy(update={"audit": "band", "band": made.band.model_copy(update=band)})


def test_the_table_of_audits(tmp_path: Path) -> None:
    ids = [
        cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES, seconds=1.0, peak_bytes=2**20),
        cell(tmp_path, config(TASK, "pahq", "int8", 0.1), EDGES[:3], seconds=2.0, peak_bytes=2 * 2**20),
        cell(tmp_path, config(TASK, "pahq", "fp8", 0.1), EDGES[:1]),
        cell(tmp_path, audited(0.1), EDGES[:5], seconds=3.0, peak_bytes=3 * 2**20, certainty={"audit": BAND}),
        cell(tmp_path, audited(0.2), EDGES, certainty={"audit": BAND | {"hopeless": True}}),
    ]
    evaluate(tmp_path, "audits", ids)
    report = write_tables(tmp_path, "audits")
    frame = pd.read_parquet(report.parent / "audit.parquet")
    assert tuple(frame.columns) == NAMES
    first, second = frame.to_dict("records")
    shown = [first[name] for name in ("differing_unaudited", "differing", "audited_share", "overturned")]
    assert shown == [3, 1, 0.2, 3]
    assert [first[name] for name in ("seconds_acdc", "seconds_unaudited", "seconds")] == [1, 2, 3]
    assert [first[name] for name in ("peak_mib_acdc", "peak_mib_unaudited", "peak_mib")] == [1, 2, 3]
    assert (first["could_differ"], first["bits_share"], first["note"]) == (1.5, 0.4, "")
    assert math.isnan(second["differing"])  # no ACDC at that threshold
    assert math.isnan(second["seconds_unaudited"])
    assert second["note"].startswith("hopeless")
    assert "## Audited searches" in report.read_text()


def test_a_way_of_rounding_is_compared_with_itself_and_named(tmp_path: Path) -> None:
    """Also where no other series is there that it could be taken for."""

    def calibrated(made: Any) -> Any:
        return made.model_copy(update={"precision": made.precision.model_copy(update={"rounding": "calibrated"})})

    plain, other = config(TASK, "pahq", "int8", 0.1), calibrated(config(TASK, "pahq", "int8", 0.1))
    ids = [
        cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES),
        cell(tmp_path, plain, EDGES[:1], seconds=2.0),
        cell(tmp_path, other, EDGES[:4], seconds=5.0),
        cell(tmp_path, calibrated(audited(0.1)), EDGES, certainty={"audit": BAND}),
    ]
    evaluate(tmp_path, "audits", ids)
    [row] = pd.read_parquet(write_tables(tmp_path, "audits").parent / "audit.parquet").to_dict("records")
    assert (row["differing_unaudited"], row["seconds_unaudited"]) == (2, 5.0)
    assert row["variant"] == "audit=band precision.rounding=calibrated"
    cells = Evaluation.read(tmp_path, "audits").cells
    assert len(models_frame(cells)) == 3  # ACDC and both ways of rounding
    assert set(collect(tmp_path, [other.id]).cells["variant"]) == {"precision.rounding=calibrated"}


def test_only_audited_series_get_another_name(tmp_path: Path) -> None:
    ids = [
        cell(tmp_path, one, EDGES) for one in (config(TASK, "pahq", "int8", 0.1), audited(0.1), audited(0.1, share=0.5))
    ]
    rows = collect(tmp_path, ids).cells
    assert rows["pair"].nunique() == 1
    assert rows["series"].nunique() == 3
    assert set(rows["variant"]) == {"", "audit=band", "audit=band band.share=0.5"}


def test_an_audit_of_changes_is_compared_with_the_search_of_changes(tmp_path: Path) -> None:
    ids = [
        cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES),
        cell(tmp_path, config(TASK, "pahq", "int8", 0.1), EDGES[:1], seconds=2.0),
        cell(tmp_path, config(TASK, "pahq-changes", "int8", 0.1), EDGES[:4], seconds=3.0),
        cell(tmp_path, audited(0.1, "pahq-changes"), EDGES, certainty={"audit": BAND | {"share": 0.04}}),
    ]
    evaluate(tmp_path, "audits", ids)
    [row] = pd.read_parquet(write_tables(tmp_path, "audits").parent / "audit.parquet").to_dict("records")
    assert (row["method"], row["audited_share"], row["variant"]) == ("pahq-changes", 0.04, "audit=band")
    assert (row["differing_unaudited"], row["differing"], row["seconds_unaudited"]) == (2, 0, 3.0)


def test_without_audits_the_table_is_empty(tmp_path: Path) -> None:
    evaluate(tmp_path, "none", [cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES)])
    report = write_tables(tmp_path, "none")
    assert pd.read_parquet(report.parent / "audit.parquet").empty
    assert Evaluation.read(tmp_path, "none").cells["audited_share"].isna().all()


def test_audited_scores_stand_beside_the_same_scores_without_an_audit(tmp_path: Path) -> None:
    words = ["task=nano-ioi", "task.examples=2", "precision=int8", "method=exact", "size=20,40", "audit=band,none"]
    cells = [cell for cell, _ in compose_runs(words, sweep=True)]
    for cell in cells:
        run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False))
    found = collect(tmp_path, [cell.id for cell in cells]).cells
    found["seconds"] = [float(number) for number in range(len(found))]  # sizes share a scoring, and so its seconds
    rows = audit_rows(found, pd.DataFrame({"id": [], "differing": []}))
    assert sorted(rows["size"]) == [20, 40]
    assert rows["audited_share"].between(0, 1, inclusive="right").all()
    plain = found[found["audit"] == "none"].set_index("size")["seconds"]
    for row in rows.to_dict("records"):
        assert row["seconds_unaudited"] == plain[row["size"]]
