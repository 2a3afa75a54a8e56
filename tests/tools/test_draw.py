"""The pictures of the documentation: drawn from a cell's files, one line an edge, grouped heads included."""

from __future__ import annotations

from pathlib import Path

import draw_circuit
import draw_how_it_works
import pytest
from matplotlib.patches import FancyArrowPatch

from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    [(config, _)] = compose_runs(["task=tracr-proportion", "task.examples=4", "method=acdc", "threshold=0.1"])
    root = tmp_path_factory.mktemp("results")
    return run_cell(config, RunConfig(root=str(root), wandb="disabled", progress=False)).folder


def lines(circuit: Circuit) -> int:
    [axes] = draw_circuit.draw_circuit(circuit, "title").axes
    return sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches)


def test_every_addition_edge_has_a_line_and_a_direct_edge_has_none() -> None:
    graph = build_graph(ModelShape(2, 2, 2, True))
    assert lines(Circuit.from_names(graph, ["embed->a0.h1<q>", "a0.h1<q>", "a0.h1->m0", "m0->logits"])) == 3


def test_a_shared_key_input_has_a_line_to_each_of_its_heads() -> None:
    graph = build_graph(ModelShape(1, 4, 2, False))
    assert lines(Circuit.from_names(graph, ["embed->a0.h1<k>"])) == 2
    assert lines(Circuit.from_names(graph, ["embed->a0.h1<q>"])) == 1


def test_the_commands_write_pictures(cell: Path, tmp_path: Path) -> None:
    assert draw_circuit.main([str(cell), str(tmp_path / "circuit.png")]) == 0
    assert draw_how_it_works.main([str(cell), str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"circuit.png", "graph.png", "search.png", "engine.png", "precision.png"}


def test_a_folder_that_is_no_cell_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_circuit.main([str(tmp_path), str(tmp_path / "x.png")]) == 2
    assert "is not a readable circuit" in capsys.readouterr().err
    assert draw_how_it_works.main([str(tmp_path), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("draw_how_it_works: ")
