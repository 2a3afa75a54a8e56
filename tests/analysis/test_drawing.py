"""Figures read well: nothing overlaps or is cut off, every series has a look of its own, and empty ones say why."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from support import made_cells

from pahq.analysis.agreementfigures import agreement_figure, bits_figure
from pahq.analysis.drawing import FILLS, MARKS, fills_of, panels, plain_log, style_of, with_legend
from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import edges_figure, pareto_figure, roc_figure
from pahq.analysis.summary import Evaluation, in_words, summarise

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
NANO = "nano-induction"
A, B, C, *_ = map(str, graph_of(NANO).edges)
AUDITED = "audit=band precision.rounding=calibrated"


def found(root: Path, ids: list[str]) -> Evaluation:
    evaluate(root, "tiny", ids)
    return Evaluation.read(root, "tiny")


def drawn(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def boxes(texts: list[Any]) -> list[BboxBase]:
    return [Text.get_window_extent(text) for text in texts if text.get_text()]  # a note's leader is none of it


def assert_legible(figure: Figure) -> None:
    """No two labels of an axis overlap, and no text reaches out of the figure."""
    drawn(figure)
    everything = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]  # type: ignore[attr-defined]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            labels = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            labels += [tick.label1 for tick in axis.get_minor_ticks() if low <= tick.get_loc() <= high]
            assert not any(one.overlaps(other) for one, other in combinations(boxes(labels), 2))
            everything += [*labels, axis.label]
        everything += [axes.title, *axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes(list(axes.texts)), 2))
    for box in boxes(everything):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def row(method: str, variant: str = "", task: str = NANO, threshold: float = 0.1) -> dict[str, Any]:
    named = {"task": task, "method": method, "precision": "int8", "format": "int8", "bits": 8, "variant": variant}
    return named | {"threshold": threshold, "jaccard": 0.86, "differing": 117}


@pytest.mark.parametrize("limits", [(0.03, 0.7), (0.3, 0.9), (0.501, 0.509), (2, 15), (42, 54), (1e-7, 3e5)])
def test_a_log_axis_has_a_few_plain_numbers(limits: tuple[float, float]) -> None:
    figure = Figure(figsize=(4.7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(limits, [0, 1])
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    assert_legible(figure)
    low, high = axes.get_xlim()
    labels = [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert 2 <= len(labels) <= 8
    assert all(float(label) > 0 for label in labels)


@pytest.mark.parametrize("count", [3, 6, 7])
def test_numbers_of_the_agreement_stay_in_their_cells(count: int) -> None:
    kinds = [("pahq", ""), ("pahq", AUDITED), ("pahq-changes", AUDITED), ("rtn-q", "")]
    rows = [row(*kind, task, 0.01 * 2**i) for task in ("one", "other") for kind in kinds for i in range(count)]
    figure = agreement_figure(pd.DataFrame(rows), pd.DataFrame(rows))
    assert_legible(figure)
    for axes in figure.axes:
        wide = axes.bbox.width / count
        assert len(axes.texts) == count * len(kinds)
        assert all(box.width < 0.95 * wide for box in boxes(list(axes.texts)))
        assert "grey" not in figure.get_suptitle()
        assert "PAHQ int8, audited, calibrated" in [label.get_text() for label in axes.get_yticklabels()]


def test_what_was_not_searched_is_grey_and_said_to_be() -> None:
    rows = [row("pahq"), row("pahq", threshold=0.2), row("rtn-q")]
    figure = agreement_figure(pd.DataFrame(rows), pd.DataFrame(rows))
    assert "grey: not searched" in figure.get_suptitle().replace("\n", " ")
    assert len(figure.axes[0].texts) == 3


def test_panels_are_as_tall_as_their_rows() -> None:
    rows = [
        row("pahq", f"seed={i}", task) for task, count in (("one", 14), ("two", 2), ("three", 2)) for i in range(count)
    ]
    figure = agreement_figure(pd.DataFrame(rows), pd.DataFrame(rows))
    drawn(figure)
    first, _, third = figure.axes
    assert first.bbox.height > 2.5 * third.bbox.height


def test_figures_of_one_task_are_legible(tmp_path: Path) -> None:
    fresh = [{"kl": kl, "metric": "nll", "value": 1.0, "clean": 2.0, "corrupted": 0.0} for kl in (0.5, 1.5)]
    ids = [
        cell(tmp_path, config(NANO, method, form, threshold), edges, fresh=values)
        for method, form in (("acdc", "float32"), ("pahq", "int8"), ("rtn-q", "int8"))
        for threshold, edges, values in ((0.1, [A, B, C], fresh[0]), (0.2, [A, B], fresh[1]))
    ]
    one = found(tmp_path, ids)
    series = summarise(one)
    for figure in (
        agreement_figure(one.agreement, one.cells),
        edges_figure(one.cells),
        pareto_figure(one.cells),
        bits_figure(series),
        roc_figure(one.roc, series),
    ):
        assert_legible(figure)


def test_roc_s_areas_stand_in_the_corner_that_no_curve_crosses(experiment: tuple[Path, list[str]]) -> None:
    evaluation = found(*experiment)
    figure = roc_figure(evaluation.roc, summarise(evaluation))
    assert_legible(figure)
    for axes in figure.axes:
        (words,) = boxes(list(axes.texts))
        assert axes.bbox.x0 < words.x0 < words.x1 < axes.bbox.x1
        x, y = axes.transData.inverted().transform(((words.x0 + words.x1) / 2, (words.y0 + words.y1) / 2))
        assert x > y + 0.2  # below the line of chance


def test_an_empty_agreement_says_why(tmp_path: Path) -> None:
    acdc = cell(tmp_path, config(NANO, "acdc", "float32", 0.5), [A])
    alone = found(tmp_path, [acdc])
    other = found(tmp_path, [acdc, cell(tmp_path, config(NANO, "pahq", "int8", 0.1), [A])])
    for one, why in ((alone, "Every circuit here is ACDC's own"), (other, "No finished search of full-precision ACDC")):
        for figure in (agreement_figure(one.agreement, one.cells), bits_figure(summarise(one))):
            assert not figure.axes
            assert any(text.get_text().startswith(why) for text in figure.texts)
            assert_legible(figure)


def test_every_variant_fills_another_half_and_stands_in_the_legend() -> None:
    frame = pd.DataFrame([row("pahq"), row("pahq", AUDITED), row("pahq", "precision.rounding=calibrated"), row("acdc")])
    fills = fills_of(frame)
    looks = {
        (style["fillstyle"], style["markerfacecolor"])
        for style in (style_of(r, fills) for r in frame.to_dict("records"))
    }
    assert len(looks) == 4  # ACDC's is hollow
    [legend] = with_legend(panels(frame, lambda *_: None, "", ""), frame).legends
    words = [text.get_text() for text in legend.get_texts() if text.get_text().strip()]
    assert sorted(words) == sorted(["ACDC", "PAHQ", "int8", "audited, calibrated", "calibrated"])


@pytest.mark.parametrize("method", ["pahq", "rtn-q"])
def test_more_variants_than_halves_share_a_look(method: str) -> None:
    frame = pd.DataFrame([row(method, f"seed={i}" if i else "") for i in range(8)])
    fills = fills_of(frame)
    looks = [style_of(r, fills) for r in frame.to_dict("records")]
    assert len({(style["fillstyle"], style["markerfacecolor"]) for style in looks}) == len(FILLS) + 2
    [legend] = with_legend(panels(frame, lambda *_: None, "", ""), frame).legends
    assert "other settings" in [text.get_text() for text in legend.get_texts()]


def test_a_method_without_a_mark_of_its_own_is_told_from_the_others() -> None:
    frame = pd.DataFrame([row(method) for method in (*MARKS, "pahq-new")])
    assert len({style_of(r)["marker"] for r in frame.to_dict("records")}) == len(MARKS) + 1
    [legend] = with_legend(panels(frame, lambda *_: None, "", ""), frame).legends
    assert "pahq-new" in [text.get_text() for text in legend.get_texts()]


def test_a_legend_of_many_stays_within_a_narrow_figure() -> None:
    variants = ["", AUDITED, *(f"engine.kind=reference method.focus={i}" for i in range(5))]
    frame = pd.DataFrame([row(method, variant) for method in (*MARKS, "pahq-new") for variant in variants])
    figure = with_legend(panels(frame, lambda *_: None, "A title", ""), frame)
    drawn(figure)
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.axes[0].bbox.height > 200


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (AUDITED, "audited, calibrated"),
        ("band.share=0.5 task.prompts=my own.csv", "share=0.5, prompts=my own.csv"),
        ("engine.name=reference method.focus=both seed=1", "engine.name=reference, focus=both, seed=1"),
    ],
)
def test_variants_in_words(variant: str, words: str) -> None:
    assert in_words(variant) == words
