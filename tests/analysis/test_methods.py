"""Searches beside methods that score edges: a row a series, sizes read off between circuits."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from pahq.analysis.methods import compared, method_rows
from pahq.analysis.methodsfigure import cost_figure, methods_figure


def cell(method: str, kept: int, kl: float, **more: object) -> dict[str, object]:
    values: dict[str, object] = {
        "id": f"{method}-{kept}",
        "task": "t",
        "method": method,
        "variant": "",
        "series": method,
    }
    values |= {"search_metric": "kl", "scores": method != "acdc", "full_precision": True, "engine": "suffix"}
    return (
        values
        | {"metric": "logit_diff", "edges": 1000, "kept": kept + 1, "kept_cleaned": kept, "kl": kl, "seconds": 2.0}
        | more
    )


CELLS = pd.DataFrame(
    [
        cell("eap-ig", 10, 4.0),
        cell("eap-ig", 40, 2.0),
        cell("eap-ig", 90, 1.0),
        cell("acdc", 0, 9.0, seconds=1.0),
        cell("acdc", 50, 0.5, seconds=3.0),
        cell("pahq", 50, 0.5, full_precision=False, scores=False),
        cell("acdc", 50, 0.5, task="searched only", scores=False),
        cell("acdc", 50, 0.5, engine="reference", scores=False, series="slow"),
    ]
)


def test_a_row_a_series_of_tasks_on_which_something_was_scored() -> None:
    rows = method_rows(CELLS, pd.DataFrame())
    assert list(rows["method"]) == ["acdc", "eap-ig"]
    assert list(rows["circuits"]) == [2, 3]
    assert list(rows["seconds"]) == [2.0, 2.0]
    assert rows["cmd_small"].isna().all()


def test_kl_at_a_size_lies_between_the_circuits_beside_it() -> None:
    acdc, scored = method_rows(CELLS, pd.DataFrame()).to_dict("records")
    assert scored["kl_at_2"] == pytest.approx(3.0)  # halfway from 10 to 40 edges in the logarithm
    assert 1.0 < scored["kl_at_5"] < 2.0
    assert math.isnan(scored["kl_at_10"])  # no circuit is so large
    assert acdc["kl_at_5"] == 0.5  # one circuit of just that size; the empty one says nothing
    assert math.isnan(acdc["kl_at_2"])


def test_an_experiment_without_scores_has_no_row_and_says_so_in_its_figure() -> None:
    none = CELLS.assign(scores=False)
    assert compared(none).empty
    assert method_rows(none, pd.DataFrame()).empty
    words = [text.get_text() for text in methods_figure(none).texts]
    assert any(text.startswith("No method of this experiment") for text in words)


def test_one_colour_a_method_and_grown_circuits_dashed() -> None:
    grown = CELLS[CELLS["method"] == "eap-ig"].assign(series="grown", variant="select=greedy")
    figure = methods_figure(pd.concat([CELLS, grown]))
    lines = figure.axes[0].get_lines()
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    assert lines[0].get_color() == lines[2].get_color() != lines[1].get_color()


def test_the_figures_know_a_method_that_somebody_added() -> None:
    own = pd.concat([CELLS, CELLS[CELLS["method"] == "eap-ig"].assign(series="moved", method="moved")])
    rows = method_rows(own, pd.DataFrame()).assign(cmd_small=0.5)
    for figure in (methods_figure(own), cost_figure(rows)):
        legends = [text for legend in figure.legends for text in legend.get_texts()]
        beside = [text for axes in figure.axes for text in axes.texts]
        assert "moved" in [text.get_text() for text in (*legends, *beside)]


def test_cost_is_distance_beside_seconds_one_marker_a_method() -> None:
    rows = method_rows(CELLS, pd.DataFrame()).assign(cmd_small=[0.2, 0.7])
    drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in cost_figure(rows).axes[0].get_lines()]
    assert drawn == list(zip(rows["seconds"], rows["cmd_small"], strict=True))
