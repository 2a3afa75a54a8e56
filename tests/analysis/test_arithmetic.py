"""Network against changes: each number in its column, and no row where one of the two is missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from support import made_cells

from pahq.analysis.arithmetic import NAMES
from pahq.analysis.evaluate import evaluate
from pahq.analysis.tables import write_tables

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TASK = "nano-induction"
EDGES = sorted(graph_of(TASK).edge_index)[:9]


def made(root: Path, method: str, precision: str, kept: int, *, share: float | None = None, **changes: Any) -> str:
    """A finished cell; ``share``: of the tests that it audited, if it has an audit."""
    one = config(TASK, method, precision, 0.1)
    band = one.band.model_copy(update={name: changes.pop(name) for name in ("hopeless",) if name in changes})
    one = one.model_copy(update={"precision": one.precision.model_copy(update=changes)})
    if share is None:
        return cell(root, one, EDGES[:kept])
    certainty = {"audit": made_cells.BAND | {"share": share}}
    return cell(root, one.model_copy(update={"audit": "band", "band": band}), EDGES[:kept], certainty=certainty)


def rows(root: Path, ids: list[str]) -> tuple[list[dict[str, Any]], str]:
    evaluate(root, "both", ids)
    report = write_tables(root, "both")
    frame = pd.read_parquet(report.parent / "arithmetic.parquet")
    assert tuple(frame.columns) == NAMES
    return frame.to_dict("records"), report.read_text()  # type: ignore[return-value]


def test_network_and_changes_stand_side_by_side(tmp_path: Path) -> None:
    ids = [
        cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES),
        made(tmp_path, "pahq", "int8", 4),
        made(tmp_path, "pahq", "int8", 7, share=0.2),
        made(tmp_path, "pahq-changes", "int8", 8),
        made(tmp_path, "pahq-changes", "int8", 9, share=0.04),
        made(tmp_path, "pahq-changes", "int8", 1, share=1.0, hopeless=1.0),  # no ordinary audit
        made(tmp_path, "rtn-q", "int8", 3),
        made(tmp_path, "pahq", "fp8", 3),
    ]
    [row], report = rows(tmp_path, ids)
    assert [row[name] for name in ("task", "method", "precision", "threshold")] == [TASK, "pahq", "int8", 0.1]
    assert [row[name] for name in NAMES[6:]] == [9, 5, 2, 1, 0, 0.2, 0.04]
    assert "## Network against changes" in report


def test_rounds_of_another_size_are_another_row(tmp_path: Path) -> None:
    def of_round(size: int, kept: int, *, share: float | None = None) -> str:
        one = config(TASK, "pahq-changes", "int8", 0.1)
        one = one.model_copy(update={"method": one.method.model_copy(update={"round": size})})
        if share is None:
            return cell(tmp_path, one, EDGES[:kept])
        certainty = {"audit": made_cells.BAND | {"share": share}}
        return cell(tmp_path, one.model_copy(update={"audit": "band"}), EDGES[:kept], certainty=certainty)

    ids = [cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES), made(tmp_path, "pahq", "int8", 4)]
    ids += [of_round(16, 2), of_round(64, 6), of_round(64, 8, share=0.1)]
    found, _ = rows(tmp_path, ids)
    shown = [[row[name] for name in NAMES[7:11]] for row in found]
    assert [row[:1] + row[2:3] for row in shown] == [[5, 7], [5, 3]]
    assert math.isnan(shown[0][3])
    assert shown[1][3] == 1
    frame = pd.read_parquet(tmp_path / "analysis" / "both" / "tables" / "audit.parquet")
    assert list(frame["differing_unaudited"]) == [3]


def test_what_is_not_finished_is_missing_and_products_are_told(tmp_path: Path) -> None:
    ids = [
        made(tmp_path, "rtn-q", "bf16", 4, compute="bf16"),
        made(tmp_path, "rtn-q-changes", "bf16", 4, share=0.3, compute="bf16"),
        made(tmp_path, "rtn-q-changes", "bf16", 4, compute="tf32"),
    ]
    [row], _ = rows(tmp_path, ids)
    assert "precision.compute=bf16" in row["variant"]
    assert "audit" not in row["variant"]
    assert row["share_changes"] == 0.3
    assert all(math.isnan(row[name]) for name in NAMES[6:] if name != "share_changes")  # no ACDC to compare with


def test_without_both_there_is_no_row(tmp_path: Path) -> None:
    found, report = rows(tmp_path, [made(tmp_path, "pahq", "int8", 4), made(tmp_path, "pahq", "int8", 4, share=0.1)])
    assert found == []
    assert "## Network against changes" not in report
    assert "Tables without a row in this experiment: " in report
