"""pahq export and pahq import: a cell goes out and is judged as what it was when it comes back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pahq.__main__ import main
from pahq.cell.exchange import imported
from pahq.cell.files import read_cell, read_result
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.foreign import to_eap_ig
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs

TASK = ("task=nano-ioi", "task.examples=3")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("root")
    run = RunConfig(root=str(root), wandb="disabled", progress=False)
    words = {
        "scored": ("method=eap-ig", "method.steps=2", "size=80"),
        "searched": ("method=acdc", "threshold=0.3"),
        "split": ("task=tracr-proportion", "method=acdc", "threshold=0.1"),
    }
    return {
        name: run_cell(compose_runs([*(() if name == "split" else TASK), *more])[0][0], run).folder
        for name, more in words.items()
    }


def test_there_and_back_the_circuit_is_worth_the_same(
    cells: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, back = tmp_path / "graph.json", tmp_path / "circuit.json"
    assert main(["export", str(cells["scored"]), "--format", "eap-ig", "--out", str(path)]) == 0
    assert main(["import", str(path), "--like", str(cells["searched"]), "--out", str(back)]) == 0
    fresh = read_result(cells["scored"]).fresh
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"KL {fresh.kl:.4g}" in said
    assert f"{fresh.metric} {fresh.value:.4g}" in said
    assert Circuit.read(back) == Circuit.read(cells["scored"] / "circuit.json")


def test_a_search_goes_out_with_its_effects(cells: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(cells["searched"]), "--format", "csv"]) == 0
    table = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    kept = {row["edge"] for row in table if row["in_circuit"] == "True"}
    assert kept == set(Circuit.read(cells["searched"] / "circuit.json").edges)
    assert all(float(row["score"]) >= 0.3 for row in table if row["edge"] in kept)
    assert main(["export", str(cells["searched"]), "--format", "networkx"]) == 0
    assert len(json.loads(capsys.readouterr().out)["edges"]) == len(kept)


def test_a_size_is_chosen_by_the_ablation_of_the_cell_that_it_is_like(cells: dict[str, Path], tmp_path: Path) -> None:
    """A node that nothing reaches sends what it always sends: with corrupted prompts that is no part of a circuit."""
    graph = Circuit.read(cells["scored"] / "circuit.json").graph
    names = ("m0->logits", "a1.h0->m1", "m1->logits")  # from no node that the embedding reaches
    values = [float(str(edge) in names) for edge in graph.edges]
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(to_eap_ig(Circuit(graph, (False,) * len(values)), values, 64)))
    cell = read_cell(cells["scored"] / "config.json")
    zero = cell.model_copy(update={"task": cell.task.model_copy(update={"ablation": "zero"})})
    assert imported(path, cell, None, "cpu", 3).circuit.edges == ()
    assert set(imported(path, zero, None, "cpu", 3).circuit.edges) == set(names)


def test_a_folder_for_mib(cells: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in ((None, "ioi_nano"), ("ioi_gpt2", "ioi_gpt2")):
        words = ["--name", name] if name else []
        assert main(["export", str(cells["scored"]), "--format", "mib", "--out", str(tmp_path), *words]) == 0
        data = json.loads((tmp_path / folder / "importances.json").read_text())
        assert {"cfg", "nodes", "edges"} == set(data)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{split}", "--format", "eap-ig"], "EAP-IG's graph has one embedding"),
        (["nowhere", "--format", "csv"], "nowhere"),
        (["{scored}", "--format", "mib"], "say --out FOLDER"),
        (["{scored}", "--format", "csv", "--name", "x"], "--name is for --format mib"),
        (["{scored}", "--format", "mib", "--out", "x", "--name", "../y"], "cannot be the name of a folder"),
        (["{scored}", "--format", "xml"], "unknown --format 'xml'; known: csv, eap-ig, mib, networkx"),
    ],
)
def test_bad_exports_are_one_sentence(
    cells: dict[str, Path], words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *[word.format(**cells) for word in words]]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_graph_of_another_model_is_refused(
    cells: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.json"
    assert main(["export", str(cells["scored"]), "--format", "eap-ig", "--out", str(path)]) == 0
    capsys.readouterr()
    assert main(["import", str(path), "--like", str(cells["split"])]) == 2
    assert "of another shape" in capsys.readouterr().err
    data = json.loads(path.read_text())
    for edge in data["edges"].values():
        edge["in_graph"] = False
    path.write_text(json.dumps(data))
    assert main(["import", str(path), "--like", str(cells["scored"])]) == 2
    assert "has no edge in its graph, so nothing is chosen; --size chooses" in capsys.readouterr().err
    assert main(["import", str(path), "--like", str(cells["scored"]), "--size", "80"]) == 0
    assert f"KL {read_result(cells['scored']).fresh.kl:.4g}" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "none.json"), "--like", str(cells["scored"])]) == 2
    assert "does not exist" in capsys.readouterr().err
