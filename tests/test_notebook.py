"""The notebooks run from their first to their last cell, show what their words promise, and are pairs in step."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import papermill
import pytest
from support.explorer import held
from support.notebooks import Ran, run
from support.places import ROOT

FOLDER = ROOT / "notebooks"
NAMES = ("five_minutes", "your_own_task", "reading_a_circuit", "fp8")


def ran(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    monkeypatch.chdir(folder)
    return run(FOLDER / f"{name}.py")


def test_there_are_no_others() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_is_in_step(name: str) -> None:
    """The .ipynb is the .py, cell by cell, and carries no outputs."""
    path = FOLDER / f"{name}.py"
    script, notebook = jupytext.read(path), nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ]
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_five_minutes_on_nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran("five_minutes", tmp_path, monkeypatch)
    assert "49 of 1,615 edges are left after 121 tests" in found.text
    assert "faithfulness 0.45" in found.text
    one, three = found.of("image/svg+xml")
    assert "49 of 1,615 edges" in one
    assert three.count("nano-ioi, threshold ") == 3
    assert "edges in both" in found.text  # the difference to eight bits
    assert [step["label"] for step in held((tmp_path / "sweep.html").read_text())["sweep"]["steps"]] == [
        "0.03",
        "0.1",
        "0.3",
    ]


def test_your_own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran("your_own_task", tmp_path, monkeypatch)
    assert "wrong.csv, row 1, column answer: 'Zebediah' is no word in the vocabulary of model 'nano'" in found.text
    assert "on 100% of 3 prompts: the answer before the wrong one" in found.text
    assert len(found.of("image/svg+xml")) == 2  # of the cell, and of the search that writes nothing
    strongest = found.names["decisions"].nlargest(8, "effect")
    assert not strongest["removed"].any()
    assert 0 < found.names["fresh"].faithfulness < 1


def test_reading_a_circuit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words on the missing edges hold: those that were tested changed nothing, and the others were not tested."""
    found = ran("reading_a_circuit", tmp_path, monkeypatch)
    effects = found.names["effects"]["effect"]
    missing = effects[~effects.index.isin(found.names["circuit"].edges)]
    assert sorted(missing.dropna()) == [0.0, 0.0]
    assert missing.isna().sum() == 4
    assert (effects.drop(missing.index) > 0.1).all()
    assert "faithfulness 1.000" in found.text
    assert found.names["to_original"].mean > 0.5 > found.names["stable"].resamples.by_chance
    assert "the searches part at test" in found.text
    first, safe, both = found.of("image/svg+xml")
    assert "published, not found" in first
    assert "kept by every draw" in safe
    assert both.count("gifts, threshold ") == 2


def test_fp8_shows_both_failures_and_their_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran("fp8", tmp_path, monkeypatch)
    assert len(found.of("image/png")) == 2
    assert len(found.of("text/html")) == 2
    tables: dict[float, pd.DataFrame] = found.names["spreads"]
    rows = {spread: table.to_dict("index") for spread, table in tables.items()}
    assert rows[0.0005]["fp8, bare cast"]["underflow"] > 0.9
    assert rows[0.0005]["fp8, scale per row"]["underflow"] < 0.001
    assert rows[0.02]["fp8, bare cast"]["lost mantissa"] > 0.1
    assert rows[0.02]["fp8, scale per row"]["lost mantissa"] < 0.01
    for table in found.names["matrices"].values():  # of nano
        errors = table["relative error"]
        assert errors["fp8, bare cast"] >= errors["fp8, scale per row"] > errors["int8, scale per row"]
        assert table["underflow"]["fp8, bare cast"] > 100 * table["underflow"]["fp8, scale per row"]


def test_a_kernel_runs_one_as_a_user_would(tmp_path: Path) -> None:
    """A real kernel, once: it imports torch, which takes seconds."""
    source, executed = FOLDER / "fp8.ipynb", tmp_path / "out.ipynb"
    papermill.execute_notebook(str(source), str(executed), parameters={"model": "nano"}, progress_bar=False)
    outputs = [out for cell in nbformat.read(executed, as_version=4).cells for out in cell.get("outputs", [])]
    assert [kind for out in outputs for kind in out.get("data", {})].count("image/png") == 2
