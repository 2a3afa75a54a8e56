"""The committed reports: copied whole or refused, and in step with what the tables' code writes today."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import redraw
import reference
from PIL import Image
from support.made_cells import make_experiment
from support.places import ROOT

from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import write_figures
from pahq.analysis.names import FIGURES, SETTINGS
from pahq.analysis.tables import write_tables
from pahq.experiments.compose import cells

MADE = "made"
COMMITTED = ROOT / "results" / "reference"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic experiment with its report: one cell of it is missing."""
    folder = tmp_path_factory.mktemp("results")
    ids = make_experiment(folder, (0.01, 0.1))
    evaluate(folder, MADE, [*ids, "tracr-reverse/never"])
    write_tables(folder, MADE)
    write_figures(folder, MADE)
    return folder


@pytest.fixture
def known(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the experiment ``made`` is made of, to be changed."""
    ids = [str(path.parent.relative_to(root / "cells")) for path in root.glob("cells/*/*/result.json")]
    ids.append("tracr-reverse/never")
    monkeypatch.setattr(reference, "cells", lambda name: dict.fromkeys(ids))
    return ids


def test_a_report_is_copied_with_its_provenance(
    root: Path, known: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / MADE / "tables").mkdir(parents=True)
    (tmp_path / MADE / "tables" / "old.csv").touch()  # of an earlier copy
    words = [MADE, "--root", str(root), "--out", str(tmp_path)]
    assert reference.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("reference.py: error: 1 cells of 'made' are not finished below")
    assert error.count("\n") == 1
    assert reference.main([*words, "--missing-ok"]) == 0
    made, copied = root / "analysis" / MADE, tmp_path / MADE
    for path in (*made.glob("tables/*.md"), *made.glob("tables/*.csv")):
        assert (copied / "tables" / path.name).read_bytes() == path.read_bytes()
    assert "tracr-reverse/never" in (copied / "tables" / "REPORT.md").read_text()
    assert not list(copied.rglob("*.parquet")) + list(copied.rglob("*.pdf")) + list(copied.rglob("old.csv"))
    assert_figures(copied)
    said = json.loads((copied / "PROVENANCE.json").read_text())
    assert (said["experiment"], said["version"], said["missing"]) == (MADE, ["0.1.0"], 1)
    assert said["cells"] == len(known) - 1
    assert said["command"] == "snakemake --cores all --config experiment=made"


def test_figures_drawn_from_the_tables_are_those_drawn_from_the_cells(
    root: Path, known: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference.copy_report(root, MADE, tmp_path, missing_ok=True)
    figures = {path: path.read_bytes() for path in sorted((tmp_path / MADE / "figures").iterdir())}
    drawn = ["bits", "edges_kl"]
    for path in figures:
        if path.stem in drawn:
            path.write_bytes(b"")
    assert redraw.main([MADE, "--out", str(tmp_path)]) == 0
    left = ", ".join(path.stem for path in figures if path.stem not in drawn)
    assert capsys.readouterr().out == f"drawn: {', '.join(drawn)}; left as they were: {left}\n"
    assert {path: path.read_bytes() for path in (tmp_path / MADE / "figures").iterdir()} == figures
    assert redraw.main(["none", "--out", str(tmp_path)]) == 2
    assert "is no committed report" in capsys.readouterr().err


def test_a_report_of_other_cells_is_refused(
    root: Path, known: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known.append("tracr-reverse/new")
    assert reference.main([MADE, "--root", str(root), "--out", str(tmp_path), "--missing-ok"]) == 2
    assert "is of other cells than are finished now; evaluate 'made' again" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_experiment_that_was_not_evaluated_is_refused(
    tmp_path: Path, known: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reference.main([MADE, "--root", str(tmp_path), "--out", str(tmp_path), "--missing-ok"]) == 2
    assert "does not exist; evaluate the experiment 'made' first" in capsys.readouterr().err


@pytest.mark.parametrize("experiment", ["default", "compare", "real", "compare-real", "real-more"])
def test_what_is_committed_is_in_step(experiment: str, root: Path) -> None:
    """The columns of every table are those that are written today, and the report is of a part of the experiment."""
    folder = COMMITTED / experiment
    if not folder.is_dir():
        pytest.skip(f"no reference of {experiment} is committed yet")
    said = json.loads((folder / "PROVENANCE.json").read_text())
    assert said["version"]
    assert said["cells"] + said["missing"] == len(cells(experiment))
    today = {path.name: path for path in (root / "analysis" / MADE / "tables").glob("*.csv")}
    assert {path.name for path in folder.glob("tables/*.csv")} == set(today)
    for name, path in today.items():
        there, wanted = (list(pd.read_csv(at).columns) for at in (folder / "tables" / name, path))
        if name == "models.csv":  # has the settings of precisions that differ from the defaults somewhere
            there, wanted = ([column for column in of if column not in SETTINGS] for of in (there, wanted))
        assert there == wanted, name
    assert {path.stem for path in folder.glob("tables/*.md")} == {Path(name).stem for name in today} | {"REPORT"}
    assert_figures(folder)
    assert {path.stem for path in folder.glob("figures/*")} <= set(FIGURES)


def assert_figures(folder: Path) -> None:
    """There are just those that the report shows: of others it has nothing to show."""
    report, pictures = (folder / "tables" / "REPORT.md").read_text(), list(folder.glob("figures/*.png"))
    assert pictures
    assert {path.name for path in pictures} == set(re.findall(r"\(\.\./figures/(\w+\.png)\)", report))
    for path in pictures:
        with Image.open(path) as image:
            image.load()
            assert image.width <= reference.PIXELS
