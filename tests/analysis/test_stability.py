"""Stability in the analysis: numbers in the right columns, the table, the figure, faults that name the file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from support import made_cells

from pahq.analysis.evaluate import evaluate
from pahq.analysis.stabilityfigures import inclusion_figure, stability_figure
from pahq.analysis.summary import Evaluation
from pahq.analysis.tables import circuit_table, stability_table, write_tables
from pahq.circuits.circuit import Circuit
from pahq.errors import PahqError
from pahq.files.frames import write_parquet
from pahq.files.sealed import digests, write_sealed
from pahq.resamples.cells import inclusion_frame
from pahq.resamples.measures import Stability

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TASK = "nano-induction"
A, B, C, *_ = map(str, graph_of(TASK).edges)


def with_stability(root: Path, **changes: object) -> list[str]:
    """A cell of edges A and B with two resamples and one order, and a cell without stability."""
    plain = cell(root, config(TASK, "acdc", "float32", 0.5), [A])
    measured = cell(root, config(TASK, "acdc", "float32", 0.1), [A, B])
    original = Circuit.from_names(graph_of(TASK), [A, B])
    drawn = {"resample-000": [A, B, C], "resample-001": [A]}
    found = Stability.of(original, {"resamples": drawn, "orders": {"ascending-nearest": [A]}})
    parts = {"resamples": found.resamples, "orders": found.orders, "seeds": found.seeds}
    values = {"id": measured, "kept": 2, "note": "one order", **{name: part.to_json() for name, part in parts.items()}}
    folder = root / "cells" / measured
    write_parquet(folder / "inclusion.parquet", inclusion_frame(found))
    files = digests(folder, ["inclusion.parquet"])
    write_sealed(folder / "stability.json", values | {"files": files} | changes)
    return [plain, measured]


def found(root: Path, ids: list[str]) -> Evaluation:
    evaluate(root, "tiny", ids)
    return Evaluation.read(root, "tiny")


def test_numbers_stand_in_their_columns(tmp_path: Path) -> None:
    evaluation = found(tmp_path, with_stability(tmp_path))
    [row] = stability_table(evaluation.stability).frame.to_dict("records")
    wanted = {"threshold": 0.1, "kept": 2, "resamples": 2, "kept_mean": 2.0, "kept_min": 1, "kept_max": 3}
    wanted |= {"jaccard_pairs": 1 / 3, "jaccard_circuit": (2 / 3 + 1 / 2) / 2, "jaccard_circuit_min": 1 / 2}
    wanted |= {"always": 1, "ever": 3, "orders": 1, "jaccard_orders": 0.5, "seeds": 0}
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    assert pd.isna(row["jaccard_seeds"])
    assert row["note"] == "one order"
    edges = evaluation.inclusion.set_index("edge")
    assert list(edges.index) == [A, B, C]  # no edge that nothing kept
    assert list(edges["resamples"]) == [1.0, 0.5, 0.5]
    assert list(edges["in_circuit"]) == [True, True, False]


def test_report_and_figure(tmp_path: Path) -> None:
    evaluation = found(tmp_path, with_stability(tmp_path))
    report = write_tables(tmp_path, "tiny").read_text()
    assert "## Stability" in report
    assert "figures/inclusion.png" in report
    [axes] = inclusion_figure(evaluation.inclusion, evaluation.stability).axes
    [curve], [thick] = axes.lines, axes.collections
    assert list(curve.get_ydata()) == [1.0, 0.5, 0.5]
    assert isinstance(thick, LineCollection)
    assert [segment[:, 0].tolist() for segment in thick.get_segments()] == [[0.5, 1.5], [1.5, 2.5]]


def test_each_circuits_stability_stands_beside_it(tmp_path: Path) -> None:
    evaluation = found(tmp_path, with_stability(tmp_path))
    shown = circuit_table(evaluation.cells, evaluation.stability).frame.set_index("threshold")
    assert shown.loc[0.1, "jaccard_circuit"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert shown.loc[0.1, "jaccard_orders"] == 0.5
    assert shown.loc[0.5, ["jaccard_circuit", "jaccard_orders", "jaccard_seeds"]].isna().all()
    assert len(shown) == 2


def test_one_line_a_series_over_its_thresholds(tmp_path: Path) -> None:
    evaluation = found(tmp_path, with_stability(tmp_path))
    [row] = evaluation.stability.to_dict("records")
    rows = pd.DataFrame([row, row | {"threshold": 0.01, "jaccard_circuit": 0.25}, row | {"series": "other"}])
    [axes] = stability_figure(rows).axes
    [both, single] = axes.lines
    assert list(both.get_xdata()) == pytest.approx([0.01, 0.1], rel=0.03)
    assert both.get_xdata()[1] < 0.1 < single.get_xdata()[0]  # side by side, so that equal ones both show
    assert list(both.get_ydata()) == pytest.approx([0.25, row["jaccard_circuit"]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "0.1"]
    least = [segment[:, 1].tolist() for lines in axes.collections for segment in lines.get_segments()]
    assert least[1] == [row["jaccard_circuit_min"], row["jaccard_circuit"]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "None"]


def test_edges_are_drawn_of_the_circuits_with_most_resamples_and_not_of_many(tmp_path: Path) -> None:
    evaluation = found(tmp_path, with_stability(tmp_path))
    [row], edges = evaluation.stability.to_dict("records"), evaluation.inclusion
    few = row | {"id": "few", "method": "acdc"}
    many = [row | {"id": f"many-{i}", "resamples": 20, "threshold": 1 - i / 10} for i in range(8)]
    every = [few, *many]
    inclusion = pd.concat(edges.assign(id=one["id"], threshold=one["threshold"]) for one in every)
    [axes] = inclusion_figure(inclusion, pd.DataFrame(every)).axes
    shown = [text.get_text() for text in axes.texts]
    assert sorted(name.split()[2].strip(":") for name in shown) == ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]
    assert len({line.get_color() for line in axes.lines}) == len(shown)  # of one precision, in shades of its colour


def test_names_of_equal_lines_stand_inside_the_panel(tmp_path: Path) -> None:
    """Two circuits all of whose edges every resample kept: their lines lie close together at the top."""
    evaluation = found(tmp_path, with_stability(tmp_path))
    [row] = evaluation.stability.to_dict("records")
    edge = evaluation.inclusion.iloc[0].to_dict()
    every = [row | {"id": name, "precision": name, "format": name} for name in ("float32", "int8")]
    rows = [edge | {"id": one["id"], "precision": one["id"], "format": one["id"]} for one in every for _ in range(9)]
    figure = inclusion_figure(pd.DataFrame(rows), pd.DataFrame(every))
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert len(axes.texts) == 2
    for name in axes.texts:
        assert axes.bbox.y0 < name.get_window_extent().y0 < name.get_window_extent().y1 < axes.bbox.y1


def test_without_any_stability_words_stand_there(tmp_path: Path) -> None:
    evaluation = found(tmp_path, [cell(tmp_path, config(TASK, "acdc", "float32", 0.5), [A])])
    assert "No row." in stability_table(evaluation.stability).markdown()
    figure = stability_figure(evaluation.stability)
    assert "Of no circuit of this experiment was the stability measured." in [text.get_text() for text in figure.texts]
    figure = inclusion_figure(evaluation.inclusion, evaluation.stability)
    assert "Of no circuit of this experiment was the stability measured." in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kept": 3}, "stability.json is of .* with 3 edges kept, not of the circuit beside it"),
        ({"orders": {}}, "stability.json is not a whole stability: 'circuits' is missing"),
    ],
)
def test_a_stability_that_does_not_fit_is_told(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(PahqError, match=sentence):
        found(tmp_path, with_stability(tmp_path, **changes))


@pytest.mark.parametrize("name", ["stability.json", "inclusion.parquet"])
def test_a_byte_that_changed_is_noticed(tmp_path: Path, name: str) -> None:
    [_, measured] = ids = with_stability(tmp_path)
    path = tmp_path / "cells" / measured / name
    content = path.read_bytes()
    for at in (0, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(PahqError, match=rf"{name} is damaged.*pahq stability|{name} is damaged.*makes it anew"):
            found(tmp_path, ids)
    path.unlink()
    if name == "inclusion.parquet":
        with pytest.raises(PahqError, match=r"inclusion\.parquet is damaged: it is gone"):
            found(tmp_path, ids)
    else:
        assert found(tmp_path, ids).stability.empty  # nobody measured it
