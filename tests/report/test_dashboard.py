"""``pahq wandb``: an experiment's tables with their lineage, and the dashboard, both without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.made_cells import graph_of, make_cell, make_config
from support.wandb_records import artifacts, contents, records, run_folders, summary_of

from pahq.__main__ import main
from pahq.analysis.evaluate import evaluate
from pahq.analysis.summary import Evaluation
from pahq.analysis.tables import write_tables
from pahq.cell import tracking
from pahq.cell.files import cell_folder, read_result
from pahq.cell.tracking import log_cell
from pahq.config.cell import RunConfig
from pahq.report.dashboard import curves, log_tables, specification
from pahq.report.library import explorer

TASK = "tracr-reverse"  # whose circuit is known
EDGES = sorted(graph_of(TASK).edge_index)
Records = list[dict[str, Any]]


@pytest.fixture(autouse=True, scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody's key, and no memory of an earlier failure."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        _clean(patch, home)
        yield


def _clean(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"):
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(home))
    patch.setenv("NETRC", str(home / "netrc"))
    patch.setattr(tracking, "_settled", {})


@pytest.fixture(scope="module")
def root(clean: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated experiment of four cells: ACDC twice, and PAHQ at 8 and 4 bits."""
    made = tmp_path_factory.mktemp("results")
    ids = [make_cell(made, make_config(TASK, "acdc", "float32", t), EDGES[:n]) for t, n in ((0.1, 9), (0.2, 30))]
    for precision, least in (("int8", 9), ("int4", 12)):
        ids.append(make_cell(made, make_config(TASK, "pahq", precision, 0.1), EDGES[:least]))
    evaluate(made, "tiny", ids)
    write_tables(made, "tiny")
    return made


@pytest.fixture(scope="module")
def logged(root: Path) -> tuple[Records, Records]:
    """What was logged of one cell, and of the experiment's tables."""
    folder = next((root / "cells" / TASK).glob("acdc-float32-t0.1-*"))
    cell = read_result(folder).config
    log_cell(cell, RunConfig(root=str(root), wandb="offline"), folder, explorer)
    assert log_tables(root, "tiny", "offline") == "offline"
    found = {place.name.split("-", 3)[3]: records(place) for place in run_folders(root)}
    return found[cell.digest], found["tables-tiny"]


def test_tables_are_logged_with_what_they_were_made_of(root: Path, logged: tuple[Records, Records]) -> None:
    of_cell, of_tables = logged
    [written] = artifacts(of_cell, "circuit")
    read = {artifact["name"]: artifact for artifact in artifacts(of_tables, "circuit")}
    assert len(read) == 4
    assert all(artifact["use_after_commit"] for artifact in read.values())
    assert read[written["name"]]["digest"] == written["digest"]  # one artifact: written by one run, read by the other
    [tables] = artifacts(of_tables, "tables")
    assert not tables.get("use_after_commit")
    files = {file.name for file in (root / "analysis" / "tiny" / "tables").glob("*.csv")}
    assert set(contents(tables)) == files
    assert "bits.csv" in files
    [run] = [record["run"] for record in of_tables if record["type"] == "run"]
    assert (run["run_group"], run["job_type"]) == ("tiny", "tables")
    assert summary_of(of_tables)["tables/bits._type"] == "table-file"


def test_lines_over_the_bits_are_means(root: Path, logged: tuple[Records, Records]) -> None:
    found = Evaluation.read(root, "tiny")
    points = {point["bits"]: point for point in curves(found)}
    assert list(points) == [4, 8, 32]
    areas = found.auc[(found.auc["reference"] == "published")].set_index(["method", "bits"])["auc_steps"]
    assert points[4]["auc/pahq"] == pytest.approx(areas["pahq", 4])
    assert points[32]["auc/acdc"] == pytest.approx(areas["acdc", 32])
    assert points[8]["jaccard/pahq"] == 1.0  # the same nine edges
    assert points[4]["jaccard/pahq"] == pytest.approx(9 / 12)
    history = [record["history"]["item"] for record in logged[1] if record["type"] == "history"]
    assert [item["bits"] for item in history if "bits" in item] == [4, 8, 32]


def metrics(specified: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and name of everything that the dashboard's panels draw."""
    for section in specified["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            yield from (
                ("summary", config[axis].split(":")[1]) for axis in ("xAxis", "yAxis") if ":" in config.get(axis, "")
            )
            yield from (("summary", name) for name in config.get("metrics", ()))
            yield from (("media", name) for name in config.get("mediaKeys", ()))
            if "metricRegex" in config:
                yield "line", config["metricRegex"]
            yield from (("table", name) for name in re.findall(r"tables/\w+", json.dumps(panel)))


def test_the_dashboard_draws_what_is_logged(root: Path, logged: tuple[Records, Records]) -> None:
    """But for stability, which these cells have none of."""
    of_cell = logged[0]
    specified = specification("somebody", "some-project")
    assert (specified["entity"], specified["project"]) == ("somebody", "some-project")
    sections = [one["name"] for one in specified["spec"]["section"]["panelBankConfig"]["sections"]]
    assert sections == ["AUC by bits", "KL against edges", "Seconds and memory", "Stability", "Circuits"]
    drawn = set(metrics(specified))
    lines = {name for point in curves(Evaluation.read(root, "tiny")) for name in point}
    summary = summary_of(of_cell)
    for kind, name in drawn:
        if kind == "summary":
            assert isinstance(summary[name], int | float), name
        elif kind == "media":
            assert summary[f"{name}._type"] == "html-file"
        elif kind == "line" and "stability" not in name:
            assert any(re.search(name, line) for line in lines), name
    assert {name for kind, name in drawn if kind == "summary"} == {"kept", "kl", "seconds", "peak_bytes"}
    assert ("table", "tables/stability") in drawn


def test_the_dashboard_is_read_again_as_it_was_made() -> None:
    from wandb_workspaces.workspaces import Workspace

    from pahq.report.dashboard import workspace

    made = workspace("somebody", "some-project")
    again = Workspace._from_model(made._to_model())
    assert [section.name for section in again.sections] == [section.name for section in made.sections]
    assert [len(section.panels) for section in again.sections] == [len(section.panels) for section in made.sections]
    assert not any(type(panel).__name__.startswith("Unknown") for section in again.sections for panel in section.panels)


def test_stability_has_its_lines(root: Path) -> None:
    found = Evaluation.read(root, "tiny")
    rows = [{"method": "pahq", "bits": 8, "variant": "", "jaccard_pairs": x} for x in (0.5, 0.7)]
    rows.append({"method": "pahq", "bits": 8, "variant": "audit=band", "jaccard_pairs": 0.1})
    stability = pd.DataFrame(rows)
    points = {point["bits"]: point for point in curves(replace(found, stability=stability))}
    assert points[8]["stability/pahq"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (None, "W&B: no key is configured (wandb login, or WANDB_API_KEY), so the dashboard cannot be put there"),
        ("0123456789" * 4, "W&B: 127.0.0.1 cannot be reached"),
    ],
)
def test_without_a_server_the_dashboard_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str | None, sentence: str
) -> None:
    monkeypatch.setattr("pahq.report.dashboard.has_key", lambda: key is not None)
    monkeypatch.setattr("pahq.report.dashboard.unreachable", lambda: "127.0.0.1 cannot be reached (refused)")
    assert main(["wandb", "dashboard"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pahq: error: {sentence}")
    assert err.endswith("--out FILE writes its specification\n")
    assert err.count("\n") == 1


def test_a_page_comes_to_a_run_that_was_logged_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_cell(tmp_path, make_config(TASK, "acdc", "float32", 0.1), EDGES[:9])
    evaluate(tmp_path, "one", [made])
    folder = cell_folder(tmp_path, made)
    log_cell(read_result(folder).config, RunConfig(root=str(tmp_path)), folder, explorer)  # nobody asked for W&B
    assert len(run_folders(tmp_path)) == 1
    assert not list(tmp_path.glob("wandb/*/files/media/html/*"))
    assert main(["wandb", "circuits", "one", "--root", str(tmp_path)]) == 0
    told = f"one: 1 circuits logged offline; wandb sync {tmp_path}/wandb/offline-run-* sends them\n"
    assert capsys.readouterr().out == told
    [run] = run_folders(tmp_path)
    assert [path.name[:8] for path in run.glob("files/media/html/*.html")] == ["circuit_"]


@pytest.mark.parametrize("works", ["offline", "nowhere"])
def test_circuits_are_told_as_they_were_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], works: str
) -> None:
    """Online logging fails at once; offline it works, with the page, or has a file where its folder belongs."""
    import wandb

    real = wandb.init

    def init(**options: Any) -> Any:
        if options["mode"] == "online":
            raise wandb.errors.CommError("the server is gone")
        return real(**options)

    made = make_cell(tmp_path, make_config(TASK, "acdc", "float32", 0.1), EDGES[:9])
    evaluate(tmp_path, "one", [made])
    monkeypatch.setattr(tracking, "_settled", {})
    monkeypatch.setattr(tracking, "_choose", lambda asked: "online")
    monkeypatch.setattr(wandb, "init", init)
    if works == "nowhere":
        (tmp_path / "wandb").write_text("in the way\n")
    code = main(["wandb", "circuits", "one", "--root", str(tmp_path)])
    out, err = capsys.readouterr()
    if works == "offline":
        assert (code, out.split(";")[0]) == (0, "one: 1 circuits logged offline")
        [run] = run_folders(tmp_path)
        assert [path.name[:8] for path in run.glob("files/media/html/*.html")] == ["circuit_"]
    else:
        assert (code, out) == (2, "")
        assert "W&B: nothing was logged" in err


def test_the_command_writes_and_logs(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dashboard.json"
    assert main(["wandb", "dashboard", "--out", str(out), "--project", "mine"]) == 0
    assert json.loads(out.read_text())["project"] == "mine"
    assert main(["wandb", "tables", "tiny", "--root", str(root)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [str(out), f"tiny: tables logged offline; wandb sync {root}/wandb/offline-run-* sends it"]
    assert main(["wandb", "dashboard", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"what": "dashboard", "where": str(out)}
    for words, sentence in (
        (["tables", "none", "--root", str(root)], "evaluate the experiment 'none' first"),
        (["tables", "--mode", "loud"], "unknown --mode 'loud'"),
        (["pages"], "unknown tables|circuits|dashboard 'pages'"),
        ([], "tables|circuits|dashboard is missing"),
    ):
        assert main(["wandb", *words]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["wandb", "tables", "tiny", "--root", str(root)]) == 2
    assert "WANDB_MODE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["tables", "tiny", "--project", "other", "--out", "F"], "--project"),
        (["tables", "--entity", "me"], "--entity"),
        (["circuits", "--out", "F"], "--out"),
        (["dashboard", "tiny"], "EXPERIMENT"),
        (["dashboard", "--mode", "auto"], "--mode"),
        (["dashboard", "--root", "/nope"], "--root"),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_what_one_form_does_not_take_is_refused(
    words: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wandb", *words]) == 2
    other = "tables" if words[0] == "dashboard" else "dashboard"
    sentence = f"pahq wandb {words[0]} takes no {word}, which is for pahq wandb {other}; leave it out"
    assert capsys.readouterr().err == f"pahq: error: {sentence}\n"


def test_a_folder_is_no_file_of_a_dashboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb", "dashboard", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"pahq: error: --out {tmp_path} is a folder; name a file in it\n"
