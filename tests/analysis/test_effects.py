"""Errors of effects: right numbers from journals, and no row where not every test was measured twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import made_cells

from pahq.analysis.effects import NAMES, ONCE, REMEASURED
from pahq.analysis.evaluate import evaluate
from pahq.analysis.tables import write_tables
from pahq.cell.files import read_result, write_result
from pahq.config.cell import BandConfig

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TASK = "nano-induction"
EDGES = sorted(graph_of(TASK).edge_index)[:6]
BAND = made_cells.BAND | {"share": 1.0, "overturned": 1, "could_differ": 0.0, "bits_share": 1.4}
BEFORE, SHIFT = 0.5, 0.03  # in low precision with a head in focus; without one it is so much more


def audited(
    root: Path,
    method: str,
    *,
    low: list[list[float]] | None,
    precision: str = "int8",
    seed: int = 0,
    rounding: str = "nearest",
    **band: Any,
) -> str:
    """A finished cell of threshold .2, whose effects in full precision are .1 for removed edges and .3 for others."""
    update = {"audit": "band", "band": BandConfig(share=1.0), "seed": seed}
    made = config(TASK, method, precision, 0.2).model_copy(update=update)
    made = made.model_copy(update={"precision": made.precision.model_copy(update={"rounding": rounding})})
    name: str = cell(root, made, EDGES, certainty={"audit": BAND | band})
    path = root / "cells" / name / "decisions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for i, line in enumerate(lines):
        line |= {"before": 0.0, "after": 0.1 if line["removed"] else 0.3, "audited": True}
        line |= {} if low is None else {"low": low[i]}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_result(path.parent, read_result(path.parent))
    return name


def losses(before: float, errors: list[float]) -> list[list[float]]:
    """In low precision: ``before``, and after each test what makes its effect so much too large."""
    graph = graph_of(TASK)
    exact = [0.3 if str(edge) in EDGES else 0.1 for edge in graph.edges]
    return [[before, before + e + error] for e, error in zip(exact, errors, strict=True)]


def test_errors_of_effects_with_and_without_the_baseline_of_the_focus(tmp_path: Path) -> None:
    n = len(graph_of(TASK).edges)
    errors = [0.00101 * i for i in range(n)]
    flips = sum(
        error >= 0.1 for error, edge in zip(errors, graph_of(TASK).edges, strict=True) if str(edge) not in EDGES
    )
    assert flips > 0
    ids = [
        cell(tmp_path, config(TASK, "acdc", "float32", 0.2), EDGES),
        audited(tmp_path, "pahq", low=losses(BEFORE, errors)),
        audited(tmp_path, "rtn-q", low=losses(BEFORE + SHIFT, [0.0] * n)),
    ]
    evaluate(tmp_path, "effects", ids)
    report = write_tables(tmp_path, "effects")
    frame = pd.read_parquet(report.parent / "effects.parquet")
    assert tuple(frame.columns) == NAMES
    focused, once, unfocused = (
        frame[(frame["method"] == method) & (frame["baseline"] == baseline)].iloc[0]
        for method, baseline in (("pahq", REMEASURED), ("pahq", ONCE), ("rtn-q", REMEASURED))
    )
    assert len(frame) == 3
    assert (focused["focus"], focused["tests"], focused["threshold"]) == ("receiver", n, 0.2)
    middle = 0.00101 * (n - 1)
    shown = [focused[f"error_{name}"] for name in ("median", "q90", "largest")]
    assert shown == pytest.approx([middle * 0.5, middle * 0.9, middle])
    assert focused["flipped"] == flips
    assert once["error_largest"] == pytest.approx(max(SHIFT, middle - SHIFT))  # everything is SHIFT less
    assert unfocused["error_largest"] == pytest.approx(0.0, abs=1e-12)
    assert unfocused["flipped"] == 0
    assert "## Ablations: errors of effects" in report.read_text()


def test_a_search_not_measured_twice_throughout_has_no_row(tmp_path: Path) -> None:
    n = len(graph_of(TASK).edges)
    ids = [
        audited(tmp_path, "pahq", low=losses(0.0, [0.0] * n), share=0.9),
        audited(tmp_path, "pahq", low=losses(0.0, [0.0] * n), precision="fp8", hopeless=True),
        audited(tmp_path, "pahq", low=None, precision="int4"),
    ]
    evaluate(tmp_path, "effects", ids)
    report = write_tables(tmp_path, "effects")
    assert pd.read_parquet(report.parent / "effects.parquet").empty


def test_cells_that_differ_in_nothing_shown_are_told_apart(tmp_path: Path) -> None:
    errors = [0.0] * len(graph_of(TASK).edges)
    ids = [cell(tmp_path, config(TASK, "acdc", "float32", 0.2), EDGES)]
    ids += [audited(tmp_path, "pahq", low=losses(BEFORE, errors), seed=seed) for seed in (0, 1)]
    evaluate(tmp_path, "effects", ids)
    report = write_tables(tmp_path, "effects")
    for name in ("effects", "audit"):
        frame = pd.read_parquet(report.parent / f"{name}.parquet")
        assert frame["variant"].tolist() == ["seed=0", "seed=1"], name


def test_a_baseline_that_was_not_remeasured_is_of_the_same_rounding(tmp_path: Path) -> None:
    n = len(graph_of(TASK).edges)
    ids = [
        audited(tmp_path, "pahq", low=losses(BEFORE, [0.0] * n), rounding="calibrated"),
        audited(tmp_path, "rtn-q", low=losses(BEFORE + 9.0, [0.0] * n)),
        audited(tmp_path, "rtn-q", low=losses(BEFORE + SHIFT, [0.0] * n), rounding="calibrated"),
    ]
    evaluate(tmp_path, "effects", ids)
    frame = pd.read_parquet(write_tables(tmp_path, "effects").parent / "effects.parquet")
    [once] = frame[frame["baseline"] == ONCE].to_dict("records")
    assert once["error_largest"] == pytest.approx(SHIFT)
