"""The tour runs from its first to its last cell on a synthetic experiment, as a user would run it."""

from __future__ import annotations

import ast
from pathlib import Path
from runpy import run_path

import jupytext
import nbformat
import papermill

from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import write_figures
from pahq.analysis.tables import write_tables

TESTS = Path(__file__).resolve().parent
TOUR = TESTS.parent / "notebooks" / "tour.py"
MAKE = run_path(str(TESTS / "analysis" / "conftest.py"))


def test_tour_executes(tmp_path: Path) -> None:
    root = tmp_path / "results"
    ids = MAKE["make_experiment"](root, thresholds=(0.01, 0.1))
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


def test_the_pair_is_in_step() -> None:
    """tour.ipynb is tour.py, cell by cell, and carries no outputs."""
    script, notebook = jupytext.read(TOUR), nbformat.read(TOUR.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ]
    assert not any(cell.get("outputs") for cell in notebook.cells)
