"""The pictures of the documentation, drawn from a cell's files."""

from __future__ import annotations

from pathlib import Path

import draw_how_it_works
import photograph
import pytest

from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    [(config, _)] = compose_runs(["task=tracr-proportion", "task.examples=4", "method=acdc", "threshold=0.1"])
    root = tmp_path_factory.mktemp("results")
    return run_cell(config, RunConfig(root=str(root), wandb="disabled", progress=False)).folder


def test_the_commands_write_pictures(cell: Path, tmp_path: Path) -> None:
    assert draw_how_it_works.main([str(cell), str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"graph.png", "search.png", "engine.png", "precision.png"}


def test_a_folder_that_is_no_cell_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_how_it_works.main([str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("draw_how_it_works: ")


def test_a_photograph_needs_a_page_and_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert photograph.main([]) == 2
    assert photograph.main([str(tmp_path / "page.html"), str(tmp_path / "page.png")]) == 2
    monkeypatch.setattr(photograph, "FOUND", None)
    assert photograph.main([str(tmp_path / "page.html"), str(tmp_path / "page.png")]) == 2
    assert "there is no Chromium" in capsys.readouterr().err
