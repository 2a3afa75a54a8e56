"""Errors of effects: right numbers from journals, and no row where not every test was measured twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import made_cells

from pahq.analysis.colours import GUIDE
from pahq.analysis.effects import MOST, NAMES, ONCE, POINTS, REMEASURED
from pahq.analysis.errorfigure import NOTHING, errors_figure
from pahq.analysis.evaluate import evaluate
from pahq.analysis.summary import Evaluation
from pahq.analysis.tables import write_tables
from pahq.cell.files import read_result, write_result

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
    made = config(TASK, method, precision, 0.2)
    every = made.band.model_copy(update={"share": 1.0})
    made = made.model_copy(update={"audit": "band", "band": every, "seed": seed})
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
    exact = [0.3 if str(edge) in EDGES else 0.1 for edge in graph_of(TASK).edges]
    relative = [error / effect for error, effect in zip(errors, exact, strict=True)]
    assert focused["relative_largest"] == pytest.approx(max(relative))
    assert focused["relative_median"] == pytest.approx(sorted(relative)[n // 2])
    assert n % 2 == 1
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
        assert frame["variant"].tolist() == ["seed=0 audit=band", "seed=1 audit=band"], name


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


def two_arithmetics(root: Path) -> list[str]:
    """Errors of the network that are equal for all tests, of changes that are in proportion, one precision without."""
    n = len(graph_of(TASK).edges)
    exact = [0.3 if str(edge) in EDGES else 0.1 for edge in graph_of(TASK).edges]
    return [
        cell(root, config(TASK, "acdc", "float32", 0.2), EDGES),
        audited(root, "pahq", low=losses(BEFORE, [0.05] * n)),
        audited(root, "pahq-changes", low=losses(BEFORE, [0.01 * effect for effect in exact])),
        audited(root, "pahq", low=losses(BEFORE, [0.5] * n), precision="fp8"),
        audited(root, "rtn-q", low=losses(BEFORE, [0.5] * n)),
    ]


def test_points_of_the_figure_are_of_searches_in_both_arithmetics(tmp_path: Path) -> None:
    evaluate(tmp_path, "errors", two_arithmetics(tmp_path))
    points = Evaluation.read(tmp_path, "errors").errors
    assert tuple(points.columns) == POINTS
    assert set(zip(points["method"], points["precision"], strict=True)) == {("pahq", "int8"), ("pahq-changes", "int8")}
    changes = points[points["method"] == "pahq-changes"]
    assert 0 < len(changes) <= MOST
    assert (changes["error"] / changes["effect"]).tolist() == pytest.approx([0.01] * len(changes))
    assert points[points["method"] == "pahq"]["error"].tolist() == pytest.approx([0.05] * (len(points) - len(changes)))
    assert set(changes["effect"].round(6)) == {0.1, 0.3}


def test_points_are_few_and_the_worst_are_among_them(tmp_path: Path) -> None:
    n = len(graph_of(TASK).edges)
    errors = [0.001] * n
    errors[n // 2 + 1] = 0.07
    evaluate(tmp_path, "one", [audited(tmp_path, "pahq", low=losses(BEFORE, errors))])  # of one arithmetic alone
    points = Evaluation.read(tmp_path, "one").errors
    assert n > MOST >= len(points) >= MOST - 3
    assert points["error"].max() == pytest.approx(0.07)


def test_a_panel_a_precision_with_the_diagonal_and_the_threshold(tmp_path: Path) -> None:
    evaluate(tmp_path, "errors", two_arithmetics(tmp_path))
    figure = errors_figure(Evaluation.read(tmp_path, "errors").errors)
    [axes] = figure.axes
    assert axes.get_title() == "int8"
    assert [axes.get_xscale(), axes.get_yscale()] == ["log", "log"]
    network, changes, diagonal, threshold = axes.lines
    assert network.get_color() != changes.get_color()
    assert max(changes.get_ydata()) < min(network.get_ydata())
    assert diagonal.get_color() == threshold.get_color() == GUIDE
    assert set(threshold.get_xdata()) == {0.2}
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "the whole network in low precision",
        "only the changes",
    ]


def test_no_test_measured_twice_is_said_in_words(tmp_path: Path) -> None:
    evaluate(tmp_path, "none", [cell(tmp_path, config(TASK, "acdc", "float32", 0.2), EDGES)])
    figure = errors_figure(Evaluation.read(tmp_path, "none").errors)
    assert not figure.axes
    assert any(text.get_text().replace("\n", " ") == NOTHING for text in figure.texts)


def test_a_baseline_of_the_network_is_none_of_changes(tmp_path: Path) -> None:
    n = len(graph_of(TASK).edges)
    ids = [audited(tmp_path, method, low=losses(BEFORE, [0.0] * n)) for method in ("pahq-changes", "rtn-q")]
    evaluate(tmp_path, "effects", ids)
    frame = pd.read_parquet(write_tables(tmp_path, "effects").parent / "effects.parquet")
    assert set(frame["baseline"]) == {REMEASURED}
