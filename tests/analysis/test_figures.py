"""Figures: always the same files, no line through one point, words where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from support import made_cells

from pahq.__main__ import main
from pahq.analysis.agreementfigures import bits_figure
from pahq.analysis.colours import COLOURS, GUIDE, colour_of
from pahq.analysis.drawing import with_legend
from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import areas_in_words, edges_figure, roc_figure, write_figures
from pahq.analysis.names import FIGURES, precision_columns
from pahq.analysis.summary import Evaluation, summarise
from pahq.circuits.published import published_circuit
from pahq.config.precision import FORMATS, PrecisionConfig
from pahq.config.presets import preset
from pahq.errors import PahqError
from pahq.experiments.compose import options

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TRACR, NANO = "tracr-reverse", "nano-induction"
TRUTH = sorted(published_circuit(TRACR, graph_of(TRACR)) or ())
WRONG = sorted(set(graph_of(TRACR).edge_index) - set(TRUTH))


def found(root: Path, ids: list[str]) -> Evaluation:
    evaluate(root, "tiny", ids)
    return Evaluation.read(root, "tiny")


def drawn_lines(figure: Figure) -> list[list[float]]:
    """x values of every line that joins points, without guides (diagonal, dotted)."""
    lines = [line for axes in figure.axes for line in axes.lines]
    return [list(line.get_xdata()) for line in lines if line.get_linestyle() != "None" and line.get_color() != GUIDE]


def test_writes_png_and_pdf(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    evaluate(root, "figures", ids)
    paths = write_figures(root, "figures")
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf", "svg")}
    for path in paths:
        assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xm"}[path.suffix]
        assert path.stat().st_size > (2000 if path.suffix == ".svg" else 5000)
    assert len(list(paths[0].parent.iterdir())) == len(paths)


def test_no_line_through_one_point(tmp_path: Path) -> None:
    one = found(tmp_path, [cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH[:9])])
    series = summarise(one)
    for figure in (roc_figure(one.roc, series), edges_figure(one.cells), bits_figure(series)):
        assert figure.axes
        assert drawn_lines(figure) == []


def test_no_line_through_ties(tmp_path: Path) -> None:
    """Three thresholds, one circuit: still one point."""
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", t), TRUTH[:9]) for t in (0.1, 0.2, 0.3)]
    one = found(tmp_path, ids)
    assert drawn_lines(roc_figure(one.roc, summarise(one))) == []
    assert drawn_lines(edges_figure(one.cells)) == []


def test_two_points_are_joined(tmp_path: Path) -> None:
    sweep = {0.1: TRUTH + WRONG[:13], 0.2: TRUTH[:9]}
    two = found(tmp_path, [cell(tmp_path, config(TRACR, "acdc", "float32", t), edges) for t, edges in sweep.items()])
    figure = roc_figure(two.roc, summarise(two))
    assert drawn_lines(figure) == [[0.0, 0.0, pytest.approx(1 / 7), 1.0]]
    assert drawn_lines(edges_figure(two.cells)) == [[28, 9]]


def test_roc_says_each_area_once_with_those_that_have_it_and_marks_few_points(tmp_path: Path) -> None:
    one = found(tmp_path, [cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH)])
    series = summarise(one)
    figure = roc_figure(one.roc, series)
    (told,) = [text.get_text() for text in figure.axes[0].texts]
    assert told.splitlines() == ["area under the steps (AUC; *: rests on few points)", "1.000*  ACDC"]
    assert [text.get_text() for text in figure.legends[0].get_texts() if text.get_text().strip()] == ["ACDC", "float32"]
    rows = pd.DataFrame([{"series": name, "method": "rtn-q", "precision": name, "variant": ""} for name in "abcdefgh"])
    areas = pd.DataFrame({"auc_steps": [0.5, 0.75, 0.75, 0.25, 0.3, 0.2, 0.1, 0.05], "area_note": ""}, list("abcdefgh"))
    assert areas_in_words(rows, areas).splitlines() == [
        "area under the steps (AUC)",
        "0.750  RTN-Q b, RTN-Q c",
        "0.500  RTN-Q a",
        "0.300  RTN-Q e",
        "0.250  RTN-Q d",
        "0.200  RTN-Q f",
        "and 2 more, down to 0.050",
    ]
    assert areas_in_words(rows, areas.assign(auc_steps=0.5)).splitlines()[1:] == ["0.500  all series"]


def test_axes_have_units(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1), names[:9]),
        cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH),
    ]
    axes = {one.get_title(): one for one in edges_figure(found(tmp_path, ids).cells).axes}
    assert "nats" in axes[NANO].get_ylabel()
    assert axes[TRACR].get_ylabel() == "mean squared error"


def test_float_noise_does_not_fill_the_axis(tmp_path: Path) -> None:
    fresh = {"kl": 0.2, "metric": "mse", "value": 1e-17, "clean": 0.0, "corrupted": 0.2, "faithfulness": 1.0}
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH, fresh=fresh)]
    assert edges_figure(found(tmp_path, ids).cells).axes[0].get_ylim()[1] > 0.2


def test_words_where_there_is_nothing(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)
    nano = found(tmp_path, [cell(tmp_path, config(NANO, "acdc", "float32", 0.1), names[:9])])
    figure = roc_figure(nano.roc, summarise(nano))
    assert not figure.axes
    assert "No task has a published circuit." in [text.get_text() for text in figure.texts]
    assert len(write_figures(tmp_path, "tiny")) == 3 * len(FIGURES)


def test_every_format_has_a_colour_of_its_own_and_a_place_in_the_legend() -> None:
    assert set(COLOURS) == set(FORMATS)
    names = options("precision")
    frame = pd.DataFrame(
        [{"method": "rtn-q", "variant": "", **precision_columns(one(name))} for name in names if name != "auto"]
    )
    colours = {colour_of(*pair) for pair in zip(frame["precision"], frame["format"], strict=True)}
    assert len(colours) == len(names) - 1
    [legend] = with_legend(Figure(), frame).legends
    assert {text.get_text() for text in legend.get_texts()} - {" "} == {"RTN-Q", *names} - {"auto"}


def one(name: str) -> PrecisionConfig:
    return PrecisionConfig(**preset("precision", name))


def test_one_list_names_the_figures() -> None:
    """The Snakefile and the report ask for what is drawn."""
    rule = (Path(__file__).resolve().parents[2] / "workflow" / "rules" / "analysis.smk").read_text()
    assert "from pahq.analysis.names import EVALUATED, FIGURES" in rule
    assert "name=FIGURES" in rule
    assert "name=EVALUATED" in rule


def test_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PahqError, match="evaluate the experiment"):
        write_figures(tmp_path, "x")
    assert main(["figures", "x", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
