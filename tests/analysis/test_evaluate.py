"""Evaluation of synthetic experiments: references, areas, agreement, missing cells."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest
from support import made_cells

from pahq.__main__ import main
from pahq.analysis.evaluate import evaluate
from pahq.analysis.summary import Evaluation
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.published import published_circuit
from pahq.config.cell import CellConfig, EngineConfig
from pahq.errors import PahqError
from pahq.files.frames import analysis_folder, read_parquet

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TRACR, NANO = "tracr-reverse", "nano-induction"
TRUTH = sorted(published_circuit(TRACR, graph_of(TRACR)) or ())
WRONG = sorted(set(graph_of(TRACR).edge_index) - set(TRUTH))


def only(frame: pd.DataFrame, **values: object) -> pd.Series:
    """The one row with these values."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_area_against_the_published_circuit_by_hand(tmp_path: Path) -> None:
    """15 true and 91 false edges: (0, 5/15), (0, 5/15) again, (13/91, 10/15), and a dominated point."""
    sweep = {0.4: TRUTH[:5], 0.3: TRUTH[3:8], 0.2: TRUTH[:10] + WRONG[:13], 0.1: TRUTH[:6] + WRONG[:26]}
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", t), edges) for t, edges in sweep.items()]
    folder = evaluate(tmp_path, "tiny", ids)
    row = only(read_parquet(folder, "auc"), reference="published")
    assert (row["thresholds"], row["interior_points"]) == (4, 2)
    assert row["auc_steps"] == pytest.approx(1 / 3 + (1 - 1 / 7) * (1 / 3))
    assert row["auc_trapezoid"] == pytest.approx(1 / 7 * 1 / 2 + 6 / 7 * 5 / 6)
    assert "few points" in row["note"]
    points = read_parquet(folder, "roc").query("reference == 'published'").set_index("threshold")
    assert points.loc[0.2, "fpr"] == pytest.approx(1 / 7)
    assert points["on_front"].to_dict() == {0.4: True, 0.3: True, 0.2: True, 0.1: False}


def test_one_threshold_is_noted(tmp_path: Path) -> None:
    folder = evaluate(tmp_path, "one", [cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH)])
    row = only(read_parquet(folder, "auc"), reference="published")
    assert (row["auc_steps"], row["note"]) == (1.0, "few points")


def test_of_the_points_tables_and_figures_hold_those_against_the_published_circuit(tmp_path: Path) -> None:
    """The file has those against ACDC's circuits too, which are as many as a sweep has thresholds, squared."""
    sweep = {0.3: TRUTH[:5], 0.2: TRUTH[:10] + WRONG[:2], 0.1: TRUTH[:12] + WRONG[:9]}
    searches = (("acdc", "float32"), ("pahq", "int8"))
    ids = [cell(tmp_path, config(TRACR, *search, t), edges) for search in searches for t, edges in sweep.items()]
    written = read_parquet(evaluate(tmp_path, "points", ids), "roc")
    references = ["published", "acdc@t0.1", "acdc@t0.2", "acdc@t0.3"]
    assert written["reference"].value_counts().to_dict() == dict.fromkeys(references, 6)
    held = Evaluation.read(tmp_path, "points").roc
    pd.testing.assert_frame_equal(held, written[written["reference"] == "published"].reset_index(drop=True))


def test_three_points_carry_no_note(tmp_path: Path) -> None:
    sweep = {0.3: TRUTH[:5], 0.2: TRUTH[:10] + WRONG[:2], 0.1: TRUTH[:12] + WRONG[:9]}
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", t), edges) for t, edges in sweep.items()]
    row = only(read_parquet(evaluate(tmp_path, "three", ids), "auc"), reference="published")
    assert (row["interior_points"], row["note"]) == (3, "")


def test_task_without_published_circuit_is_held_against_acdc(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)
    acdc = cell(tmp_path, config(NANO, "acdc", "float32", 0.1), names[:4])
    mine = cell(tmp_path, config(NANO, "rtn-q", "int4", 0.1), names[1:7])
    folder = evaluate(tmp_path, "nano", [acdc, mine])
    row = only(read_parquet(folder, "agreement"))
    assert (row["id"], row["reference"]) == (mine, acdc)
    assert row["differing"] == 4  # three here alone, one there
    assert row["jaccard"] == pytest.approx(3 / 7)
    assert row["jaccard_by_chance"] == pytest.approx((24 / 105) / (10 - 24 / 105))
    areas = read_parquet(folder, "auc")
    assert set(areas["reference"]) == {"acdc@t0.1"}
    against = only(areas, method="rtn-q")
    assert against["auc_steps"] == pytest.approx((1 - 3 / 101) * 3 / 4)
    assert "1 by construction" in only(areas, method="acdc")["note"]


def test_acdc_of_the_same_threshold_and_seed_alone_is_the_reference(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.2), names[:4]),
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1, seed=1), names[:4]),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.1), names[:4]),
    ]
    row = only(read_parquet(evaluate(tmp_path, "nano", ids), "agreement"))
    assert pd.isna(row["jaccard"])
    assert row["note"] == "no finished ACDC cell at this threshold"


def test_acdc_of_a_searchs_own_engine_is_its_reference_and_another_ones_where_there_is_none(tmp_path: Path) -> None:
    """Engines are exact, so that each would do; but float noise is an engine's own."""
    names = sorted(graph_of(NANO).edge_index)
    by = {
        (engine, dtype): cell(tmp_path, by_engine("acdc", "float32", engine, dtype), names[: 4 + at])
        for at, (engine, dtype) in enumerate(
            [("reference", "float64"), ("suffix", "float32"), ("suffix", "float64"), ("reference", "float32")]
        )
    }
    mine = {own: cell(tmp_path, by_engine("rtn-q", "int8", *own), names[:3]) for own in by}
    found = read_parquet(evaluate(tmp_path, "engines", [*by.values(), *mine.values()]), "agreement")
    assert dict(zip(found["id"], found["reference"], strict=True)) == {mine[own]: by[own] for own in by}
    left = [by["suffix", "float64"], mine["suffix", "float32"]]
    alone = read_parquet(evaluate(tmp_path, "alone", left), "agreement")
    assert list(alone["reference"]) == [by["suffix", "float64"]]


def by_engine(method: str, precision: str, engine: str, dtype: str) -> CellConfig:
    made = config(NANO, method, precision, 0.1)
    return made.model_copy(update={"engine": EngineConfig(name=engine, dtype=dtype)})  # type: ignore[arg-type]


def test_each_acdc_circuit_that_leaves_no_rate_undefined_is_a_reference(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)
    sweep = {0.4: [], 0.3: names[:1], 0.2: names[:-1], 0.1: names}
    ids = [cell(tmp_path, config(NANO, "acdc", "float32", t), edges) for t, edges in sweep.items()]
    ids += [cell(tmp_path, config(NANO, "rtn-q", "int8", t), names[:5]) for t in (0.4, 0.3)]
    folder = evaluate(tmp_path, "all", ids)
    areas, points = read_parquet(folder, "auc"), read_parquet(folder, "roc")
    for method, thresholds in (("acdc", [0.1, 0.2, 0.3, 0.4]), ("rtn-q", [0.3, 0.4])):
        own = areas[areas["method"] == method]
        assert sorted(own["reference"]) == ["acdc@t0.2", "acdc@t0.3"]
        assert set(own["thresholds"]) == {len(thresholds)}
        for reference in own["reference"]:
            rows = points[(points["method"] == method) & (points["reference"] == reference)]
            assert sorted(rows["threshold"]) == thresholds
    own_notes = {"few points; the sweep contains its own reference, so 1 by construction", "few points"}
    assert {(row["method"], row["note"]) for _, row in areas.iterrows()} <= {
        (method, note) for method in ("acdc", "rtn-q") for note in own_notes
    }
    assert set(areas[areas["method"] == "rtn-q"]["note"]) == {"few points"}


def test_a_sweep_contains_the_acdc_circuit_that_it_is_held_against_and_no_published_one(tmp_path: Path) -> None:
    ids = [cell(tmp_path, config(TRACR, method, "float32", 0.1), TRUTH[:9]) for method in ("acdc", "rtn-q")]
    areas = read_parquet(evaluate(tmp_path, "notes", ids), "auc")
    own = "the sweep contains its own reference, so 1 by construction"
    notes = {(row["method"], row["reference"]): row["note"] for _, row in areas.iterrows()}
    assert notes == {
        ("acdc", "published"): "few points",
        ("acdc", "acdc@t0.1"): f"few points; {own}",
        ("rtn-q", "published"): "few points; ACDC by construction",
        ("rtn-q", "acdc@t0.1"): f"few points; ACDC by construction; {own}",
    }


def test_one_empty_circuit_differs_from_another_and_needs_no_note(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)[:4]
    ids = [cell(tmp_path, config(NANO, "acdc", "float32", t), edges) for t, edges in ((0.1, []), (0.2, names))]
    ids += [cell(tmp_path, config(NANO, "rtn-q", "int8", t), edges) for t, edges in ((0.1, names), (0.2, []))]
    found = read_parquet(evaluate(tmp_path, "empty", ids), "agreement")
    assert list(zip(found["differing"], found["jaccard"], found["note"], strict=True)) == [(4, 0.0, "")] * 2


def test_float32_is_noted_as_acdc_by_construction(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)[:4]
    ids = [cell(tmp_path, config(NANO, method, "float32", 0.1), names) for method in ("acdc", "pahq")]
    folder = evaluate(tmp_path, "nano", ids)
    assert "ACDC by construction" in only(read_parquet(folder, "agreement"))["note"]
    areas = read_parquet(folder, "auc")
    assert "ACDC by construction" in only(areas, method="pahq")["note"]
    assert "ACDC by construction" not in only(areas, method="acdc")["note"]


def test_empty_circuits_agree_with_a_note(tmp_path: Path) -> None:
    ids = [cell(tmp_path, config(NANO, *which, 1.0), []) for which in (("acdc", "float32"), ("rtn-q", "int8"))]
    folder = evaluate(tmp_path, "empty", ids)
    row = only(read_parquet(folder, "agreement"))
    assert (row["jaccard"], row["note"]) == (1.0, "both circuits are empty")
    assert read_parquet(folder, "auc").empty  # an empty circuit is no reference


def test_missing_cell_is_listed_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH)
    with caplog.at_level(logging.WARNING):
        folder = evaluate(tmp_path, "part", [done, "tracr-reverse/never"])
    assert list(read_parquet(folder, "cells")["id"]) == [done]
    assert read_parquet(folder, "missing").to_dict("records") == [
        {"id": "tracr-reverse/never", "reason": "not started"}
    ]
    assert "1 of 2 cells" in caplog.text
    assert "tracr-reverse/never" in caplog.text


def test_three_missing_cells_are_named_and_of_more_the_first_three(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH)
    for count, told in ((3, "never0, never1, never2\n"), (4, "never0, never1, never2, ...\n")):
        with caplog.at_level(logging.WARNING):
            evaluate(tmp_path, f"part{count}", [done, *(f"tracr-reverse/never{n}" for n in range(count))])
        assert told in caplog.text.replace("tracr-reverse/", "")
        caplog.clear()


def test_nothing_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="none of the 1 cells"):
        evaluate(tmp_path, "none", ["tracr-reverse/never"])
    with pytest.raises(PahqError, match="no cells"):
        evaluate(tmp_path, "none", [])
    assert not (tmp_path / "analysis").exists()


def test_whole_experiment(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    folder = evaluate(root, "whole", ids)
    areas, agreement = read_parquet(folder, "auc"), read_parquet(folder, "agreement")
    published = areas[areas["reference"] == "published"]
    assert set(published["task"]) == {"tracr-reverse", "tracr-proportion-zero"}
    assert len(published) == 2 * 11
    assert published["auc_steps"].between(0, 1).all()
    assert (published["auc_trapezoid"] >= published["auc_steps"]).all()
    assert len(agreement) == 4 * 10 * 4
    exact = agreement[agreement["format"] == "float32"]
    assert (exact["jaccard"] == 1).all()
    coarse = agreement[(agreement["precision"] == "int4") & (agreement["method"] == "rtn-q")]
    assert coarse["jaccard"].mean() < 0.9


def test_evaluating_twice_gives_the_same(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    first = read_parquet(evaluate(root, "again", ids), "auc")
    second = read_parquet(evaluate(root, "again", list(reversed(ids))), "auc")
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("name", ["", "../out", "a/b", ".hidden"])
def test_experiment_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(PahqError, match="name of an experiment"):
        analysis_folder(tmp_path, name)


def test_unreadable_parquet_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="evaluate the experiment"):
        read_parquet(tmp_path, "auc")
    (tmp_path / "auc.parquet").write_text("no parquet")
    with pytest.raises(PahqError, match=r"auc\.parquet") as raised:
        read_parquet(tmp_path, "auc")
    assert "\n" not in str(raised.value)


def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {"good": [cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH)], "bad": ["t/never"]}
    monkeypatch.setattr("pahq.experiments.compose.cells", ids.__getitem__)
    assert main(["evaluate", "good", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "analysis" / "good")
    assert main(["evaluate", "bad", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_whole_graph_of_many_edges_is_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts so large that Python has no one object for each of them."""
    large = build_graph(ModelShape(3, 4, 4, mlp=True))
    assert len(large.edges) > 256
    monkeypatch.setitem(made_cells.GRAPHS, "induction", large)
    names = list(large.edge_index)
    ids = [cell(tmp_path, config(NANO, "acdc", "float32", t), kept) for t, kept in ((0.01, names), (0.1, names[:9]))]
    assert set(read_parquet(evaluate(tmp_path, "whole", ids), "roc")["reference"]) == {"acdc@t0.1"}
