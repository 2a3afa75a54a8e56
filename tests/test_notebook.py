"""The tour runs from its first to its last cell on a synthetic experiment, as a user would run it."""

from __future__ import annotations

import ast
from pathlib import Path
from runpy import run_path

import jupytext
import nbformat
import papermill
import pytest
from support import made_cells

from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import write_figures
from pahq.analysis.tables import write_tables

TESTS = Path(__file__).resolve().parent
TOUR = TESTS.parent / "notebooks" / "tour.py"
FP8 = TESTS.parent / "notebooks" / "fp8.py"


def test_tour_executes(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ids = made_cells.make_experiment(root, thresholds=(0.01, 0.1))
    evaluate(root, "synthetic", [*ids, "tracr-reverse/never"])
    write_tables(root, "synthetic")
    write_figures(root, "synthetic")
    source, executed = tmp_path / "tour.ipynb", tmp_path / "out.ipynb"
    jupytext.write(jupytext.read(TOUR), source)
    papermill.execute_notebook(
        str(source),
        str(executed),
        parameters={"root": str(root), "experiment": "synthetic"},
        kernel_name="python3",
        progress_bar=False,
    )
    notebook = nbformat.read(executed, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 4
    assert kinds.count("text/markdown") == 4
    text = nbformat.writes(notebook)
    assert "tracr-reverse/never" in text
    assert "published circuit" in text


def test_tour_owns_no_logic() -> None:
    """No computation: one helper that reads a file, no branch, no import from the package."""
    tree = ast.parse(TOUR.read_text())
    kinds = [type(node) for node in ast.walk(tree)]
    assert kinds.count(ast.FunctionDef) == 1
    assert not {ast.If, ast.For, ast.While, ast.Lambda, ast.ClassDef} & set(kinds)
    assert "import pahq" not in TOUR.read_text()
    assert "from pahq" not in TOUR.read_text()


@pytest.mark.parametrize("path", [TOUR, FP8], ids=lambda path: path.stem)
def test_the_pair_is_in_step(path: Path) -> None:
    """The .ipynb is the .py, cell by cell, and carries no outputs."""
    script, notebook = jupytext.read(path), nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ]
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_fp8_shows_both_failures_and_their_cure(tmp_path: Path) -> None:
    """Executed as a user would; its tables hold what its text says."""
    source, executed = tmp_path / "fp8.ipynb", tmp_path / "out.ipynb"
    jupytext.write(jupytext.read(FP8), source)
    papermill.execute_notebook(str(source), str(executed), kernel_name="python3", progress_bar=False)
    outputs = [out for cell in nbformat.read(executed, as_version=4).cells for out in cell.get("outputs", [])]
    kinds = [kind for out in outputs for kind in out.get("data", {})]
    assert kinds.count("image/png") == 2
    assert kinds.count("text/html") == 2
    ran = run_path(str(FP8))
    rows = {spread: table.to_dict("index") for spread, table in ran["spreads"].items()}
    assert rows[0.0005]["fp8, bare cast"]["underflow"] > 0.9
    assert rows[0.0005]["fp8, scale per row"]["underflow"] < 0.001
    assert rows[0.02]["fp8, bare cast"]["lost mantissa"] > 0.1
    assert rows[0.02]["fp8, scale per row"]["lost mantissa"] < 0.01
    for table in ran["matrices"].values():  # of nano
        errors = table["relative error"]
        assert errors["fp8, bare cast"] >= errors["fp8, scale per row"] > errors["int8, scale per row"]
        assert table["underflow"]["fp8, bare cast"] > 100 * table["underflow"]["fp8, scale per row"]
