"""Tables and report: the right numbers in the right rows, with the notes that keep them honest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from support import made_cells

from pahq.__main__ import main
from pahq.analysis.evaluate import evaluate
from pahq.analysis.paper import NOT_PUBLISHED, paper_area
from pahq.analysis.summary import Evaluation, label, summarise
from pahq.analysis.table import markdown_table
from pahq.analysis.tables import write_tables
from pahq.errors import PahqError

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
NANO = "nano-induction"
NAMES = sorted(graph_of(NANO).edge_index)


@pytest.fixture(scope="module")
def folder(experiment: tuple[Path, list[str]]) -> Path:
    root, ids = experiment
    evaluate(root, "tables", [*ids, "tracr-reverse/never"])
    write_tables(root, "tables")
    return root / "analysis" / "tables" / "tables"


def test_files_of_every_table(folder: Path) -> None:
    for name in ("auc", "circuits", "bits", "cost", "auc_against_acdc"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        assert len(frame) == len(pd.read_csv(folder / f"{name}.csv")) > 0
        shown = (folder / f"{name}.md").read_text()
        assert shown.count("\n|") == len(frame) + 2 * frame["task"].nunique()
    assert not list(folder.glob(".*"))


def test_area_rows_name_what_they_are_judged_against(folder: Path) -> None:
    rows = pd.read_parquet(folder / "auc.parquet")
    published = rows[rows["task"].str.startswith("tracr")]
    others = rows[~rows["task"].str.startswith("tracr")]
    assert set(published["against"]) == {"published circuit"}
    assert published[["auc_steps", "auc_trapezoid"]].notna().all().all()
    assert set(others["against"]) == {"full-precision ACDC, same threshold"}
    assert others[["auc_steps", "auc_trapezoid"]].isna().all().all()
    assert others[others["method"] != "acdc"]["mean_jaccard"].notna().all()
    assert set(others[others["method"] == "acdc"]["note"]) == {"is the reference"}


def test_float32_rows_are_noted_in_every_table(folder: Path) -> None:
    for name in ("auc", "circuits", "bits"):
        rows = pd.read_parquet(folder / f"{name}.parquet")
        exact = rows[(rows["precision"] == "float32") & (rows["method"] != "acdc")]
        assert len(exact)
        assert exact["note"].str.contains("ACDC by construction").all()


def test_papers_numbers_stand_on_their_rows_alone(folder: Path) -> None:
    rows = pd.read_parquet(folder / "auc.parquet")
    known = rows[rows["paper"] != NOT_PUBLISHED]
    found = {(row.task, row.method, row.precision): row.paper for row in known.itertuples()}
    assert found == {
        ("nano-docstring", "acdc", "float32"): "0.982",
        ("nano-docstring", "pahq", "int4"): "0.61",
        ("nano-docstring", "pahq", "bf16"): "0.96",
        ("nano-docstring", "rtn-q", "fp8"): "0.534",
        ("tracr-reverse", "acdc", "float32"): "0.2",
    }
    nano = known[known["task"] == "nano-docstring"]
    assert nano["paper_source"].str.contains("another model").all()


def test_paper_area_depends_on_the_metric_and_the_ablation() -> None:
    row = {
        "kind": "ioi",
        "search_metric": "kl",
        "method": "acdc",
        "format": "float32",
        "ablation": "corrupted",
    }
    assert paper_area(row | {"model": "gpt2"}) == ("0.869", "ACDC paper")
    assert paper_area(row | {"model": "gpt2", "search_metric": "logit_diff"})[0] == "0.589"
    assert paper_area(row | {"model": "gpt2", "ablation": "zero"}) == (NOT_PUBLISHED, "")


def test_paper_headlines_stand_beside_low_precision_pahq_alone(folder: Path) -> None:
    rows = pd.read_parquet(folder / "cost.parquet")
    known = rows[rows["paper_runtime"] != NOT_PUBLISHED]
    assert set(known["method"]) == {"pahq"}
    assert "float32" not in set(known["precision"])
    assert "80%" in known["paper_runtime"].iloc[0]
    assert "30%" in known["paper_memory"].iloc[0]


def test_report_joins_all_and_warns(folder: Path) -> None:
    report = (folder / "REPORT.md").read_text()
    assert "176 of 177 cells are finished" in report
    assert "| tracr-reverse/never | not started |" in report
    for word in (
        "few points",
        "by chance",
        "Seconds do not show",
        "Peak memory hardly falls",
        "by construction",
    ):
        assert word in report
    for title in ("Areas and agreement", "Circuits", "Bit widths", "Seconds and memory", "figures/roc.png"):
        assert title in report


def summary(root: Path, ids: list[str]) -> pd.DataFrame:
    evaluate(root, "tiny", ids)
    return summarise(Evaluation.read(root, "tiny"))


def test_cost_is_set_against_acdc_at_the_same_thresholds(tmp_path: Path) -> None:
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:4], seconds=2.0, peak_bytes=100),
        cell(tmp_path, config(NANO, "acdc", "float32", 0.2), NAMES[:4], seconds=50.0, peak_bytes=900),
        cell(tmp_path, config(NANO, "rtn-q", "int8", 0.2), NAMES[:4], seconds=75.0, peak_bytes=1350),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.1), NAMES[:4], seconds=3.0, device="NVIDIA X"),
    ]
    rows = summary(tmp_path, ids).set_index("method")
    assert rows.loc["rtn-q", "seconds_to_acdc"] == pytest.approx(1.5)
    assert rows.loc["rtn-q", "peak_to_acdc"] == pytest.approx(1.5)
    assert rows.loc["rtn-q", "ms_per_test"] == pytest.approx(75_000 / 105)
    assert pd.isna(rows.loc["pahq", "seconds_to_acdc"])  # another device
    assert "1 of 2 thresholds" in rows.loc["rtn-q", "note"]


def test_agreement_over_fewer_thresholds_is_noted(tmp_path: Path) -> None:
    ids = [cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:4])]
    ids += [cell(tmp_path, config(NANO, "pahq", "int8", t), NAMES[:4]) for t in (0.1, 0.2)]
    rows = summary(tmp_path, ids).set_index("method")
    assert rows.loc["pahq", "mean_jaccard"] == 1
    assert rows.loc["pahq", "note"] == "ACDC at 1 of 2 thresholds"
    assert rows.loc["acdc", "note"] == "is the reference; 1 of 2 thresholds"


def test_circuit_notes(tmp_path: Path) -> None:
    fresh = {"kl": 0.0, "metric": "nll", "value": 1.0, "clean": 1.0, "corrupted": 1.0, "faithfulness": None}
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.0), NAMES),
        cell(tmp_path, config(NANO, "acdc", "float32", 0.9), [], fresh=fresh),
    ]
    evaluate(tmp_path, "notes", ids)
    write_tables(tmp_path, "notes")
    rows = pd.read_parquet(tmp_path / "analysis" / "notes" / "tables" / "circuits.parquet")
    assert list(rows["note"]) == ["whole graph", "empty circuit; clean and corrupted metric are equal"]
    assert "No row." in (tmp_path / "analysis" / "notes" / "tables" / "auc_against_acdc.md").read_text()


def test_resumed_cells_are_noted(tmp_path: Path) -> None:
    evaluate(tmp_path, "r", [cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:4], resumed=True)])
    write_tables(tmp_path, "r")
    rows = pd.read_parquet(tmp_path / "analysis" / "r" / "tables" / "cost.parquet")
    assert list(rows["note"]) == ["1 resumed: peak of the last run alone"]


def test_peaks_of_a_shared_process_are_noted(tmp_path: Path) -> None:
    """A later cell of one process finds memory already there: its small peak is no merit of its format."""
    peaks = {("acdc", "float32"): 1000, ("pahq", "int8"): 400, ("rtn-q", "int8"): 900}
    ids = [cell(tmp_path, config(NANO, *which, 0.1), NAMES[:4], peak_bytes=peak) for which, peak in peaks.items()]
    evaluate(tmp_path, "p", ids)
    write_tables(tmp_path, "p")
    rows = pd.read_parquet(tmp_path / "analysis" / "p" / "tables" / "cost.parquet").set_index("method")
    assert "shared process" in rows.loc["pahq", "note"]
    assert rows.loc["rtn-q", "note"] == rows.loc["acdc", "note"] == ""


def test_models_that_rounding_spares_are_noted(tmp_path: Path) -> None:
    """Agreement at a loss far below the threshold is to be expected; above it, it is a finding."""
    search = {"final": 0.2, "smallest_margin": 1e-4}
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:4]),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.1), NAMES[:4], search=search | {"start": 1e-4}),
        cell(tmp_path, config(NANO, "rtn-q", "int8", 0.1), NAMES[:4], search=search | {"start": 1e-2}),
    ]
    rows = summary(tmp_path, ids).set_index("method")
    assert "rounding hardly changes this model" in rows.loc["pahq", "note"]
    assert "rounding" not in rows.loc["rtn-q", "note"] + rows.loc["acdc", "note"]
    assert rows.loc["rtn-q", "start_loss"] == 1e-2


def test_a_circuit_that_differs_is_never_excused_by_small_rounding(tmp_path: Path) -> None:
    """Little loss by rounding, and yet other edges: that is a finding, so the note would mislead."""
    search = {"final": 0.2, "smallest_margin": 1e-4, "start": 1e-4}
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:4]),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.1), NAMES[:3], search=search),
    ]
    rows = summary(tmp_path, ids).set_index("method")
    assert rows.loc["pahq", "edges_differing"] == 1
    assert "rounding" not in rows.loc["pahq", "note"]


def test_no_kl_where_outputs_are_no_logits(folder: Path) -> None:
    rows = pd.read_parquet(folder / "circuits.parquet")
    tracr = rows["task"].str.startswith("tracr")
    assert rows[tracr]["kl"].isna().all()
    assert rows[~tracr]["kl"].notna().all()


def test_labels() -> None:
    row = {"method": "pahq", "precision": "int8", "variant": "seed=1"}
    assert label(row) == "PAHQ int8, seed=1"
    assert label(row | {"method": "pahq-changes"}) == "PAHQ int8, changes, seed=1"
    assert label({"method": "acdc", "precision": "float32", "variant": ""}) == "ACDC"


def test_markdown_numbers() -> None:
    frame = pd.DataFrame({"kl": [0.000123456, 2.0, float("nan")], "n": [1, 32491, 3], "why": ["a|b", "", "c"]})
    assert markdown_table(frame).split("\n") == [
        "| KL (nats) | n | why |",
        "| ---: | ---: | --- |",
        "| 0.000123 | 1 | a\\|b |",
        "| 2 | 32491 |  |",
        "| - | 3 | c |",
    ]


def test_reads_the_parquet_files_alone(experiment: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Neither tables nor report look at the cells."""
    root, ids = experiment
    source = evaluate(root, "alone", ids[:44])
    shutil.copytree(source, tmp_path / "analysis" / "alone")
    assert write_tables(tmp_path, "alone").is_file()


def test_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PahqError, match="evaluate the experiment 'x' first"):
        write_tables(tmp_path, "x")
    assert main(["tables", "x", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
