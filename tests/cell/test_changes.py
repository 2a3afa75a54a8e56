"""Cells of method=pahq-changes: their results, their audit, their resuming, and the same from Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_models import random_model

import pahq
from pahq.__main__ import main
from pahq.cell.files import cell_folder
from pahq.cell.journal import read_journal
from pahq.cell.result import Result
from pahq.cell.run import load, run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig, RunConfig
from pahq.experiments.compose import compose_runs
from pahq.model import save_model


def cell(*words: str) -> CellConfig:
    """At a threshold where int4 changes two edges without an audit."""
    ((found, _),) = compose_runs(["task=nano-ioi", "threshold=0.0001", *words])
    return found


def run_in(root: Path, what: CellConfig, store: str = "auto") -> tuple[Result, frozenset[str]]:
    run = RunConfig(root=str(root), wandb="disabled", progress=False, store=store)  # type: ignore[arg-type]
    found = run_cell(what, run)
    return found.result, frozenset(Circuit.read(found.folder / "circuit.json").edges)


@pytest.fixture(scope="module")
def acdc(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    return run_in(tmp_path_factory.mktemp("acdc"), cell("method=acdc"))[1]


@pytest.mark.parametrize("precision", ["bf16", "int8", "fp8", "int4", "nf4"])
def test_with_its_audit_the_circuit_is_acdc_s(tmp_path: Path, acdc: frozenset[str], precision: str) -> None:
    result, edges = run_in(tmp_path, cell("method=pahq-changes", f"precision={precision}", "audit=band"))
    assert edges == acdc
    assert result.band is not None
    assert 0 < result.band.share < 0.2
    assert not result.band.hopeless
    assert (result.kept, result.store) == (len(acdc), "packed")


def test_with_its_audit_a_model_with_norms_behind_heads_has_acdc_s_circuit(tmp_path: Path) -> None:
    """Its weights stay packed, and its cell verifies."""
    nano = pahq.load_model("nano")
    words = {"d_vocab": nano.config.d_vocab, "d_vocab_out": nano.config.d_vocab, "context": 48, "layers": 3}
    save_model(replace(random_model("olmo2", dtype=torch.float32, **words), vocabulary=nano.vocabulary), tmp_path / "m")
    here = ("task.examples=3", f"model.source={tmp_path / 'm'}", "threshold=0.01")
    _, expected = run_in(tmp_path, cell("method=acdc", *here))
    what = cell("method=pahq-changes", "precision=int4", "audit=band", *here)
    result, edges = run_in(tmp_path, what)
    assert edges == expected
    assert (len(edges), result.store) == (result.kept, "packed")
    assert result.band is not None
    assert not result.band.hopeless
    assert main(["verify", str(cell_folder(tmp_path, what.id))]) == 0


def test_without_an_audit_8_bits_and_more_give_acdc_s_circuit_here(tmp_path: Path, acdc: frozenset[str]) -> None:
    for precision in ("bf16", "int8", "fp8"):
        assert run_in(tmp_path, cell("method=pahq-changes", f"precision={precision}"))[1] == acdc
    assert 0 < len(run_in(tmp_path, cell("method=pahq-changes", "precision=int4"))[1] ^ acdc) < 6


def test_stores_engines_and_an_interruption_change_nothing(tmp_path: Path) -> None:
    """Packed or plain, by the slow engine, or from the middle of a round on: the decisions are the same."""
    few = ("method=pahq-changes", "task.examples=2")
    fast, slow = cell(*few, "precision=int8"), cell(*few, "engine=reference")
    packed, plain = run_in(tmp_path / "packed", fast), run_in(tmp_path / "plain", fast, "plain")
    lines = read_journal(cell_folder(tmp_path / "packed", fast.id) / "decisions.jsonl")
    there = read_journal(cell_folder(tmp_path / "plain", fast.id) / "decisions.jsonl")
    assert [(x.edge, x.before, x.after) for x in lines] == [(x.edge, x.before, x.after) for x in there]
    assert plain[0].store == "plain"
    assert run_in(tmp_path / "slow", slow)[1] == packed[1]
    for stop in (1, 47, 100):
        folder, root = cell_folder(tmp_path / "packed", fast.id), tmp_path / f"from{stop}"
        begun = cell_folder(root, fast.id)
        begun.mkdir(parents=True)
        for name in ("config.json", "provenance.json"):
            (begun / name).write_bytes((folder / name).read_bytes())
        whole = (folder / "decisions.jsonl").read_text().splitlines(keepends=True)
        (begun / "decisions.jsonl").write_text("".join(whole[:stop]))
        again, edges = run_in(root, fast)
        assert (again.resumed, edges) == (True, packed[1])


def test_a_finished_cell_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for audit in ("none", "band", "float64"):
        what = cell("method=pahq-changes", "precision=int4", "task.examples=4", f"audit={audit}")
        run_in(tmp_path, what)
        assert main(["verify", str(cell_folder(tmp_path, what.id))]) == 0
        assert capsys.readouterr().out.rstrip().endswith("agrees")


def test_from_python_it_is_the_same_search(tmp_path: Path) -> None:
    what = cell("method=pahq-changes", "precision=int8")
    _, edges = run_in(tmp_path, what, "plain")
    model, task = load(what, "cpu")
    setting = {"precision": "int8", "focus": "receiver", "arithmetic": "changes"}
    found = pahq.acdc(model, task, 0.0001, progress=False, **setting)  # type: ignore[arg-type]
    assert frozenset(found.edges) == edges
    with pytest.raises(pahq.PahqError, match="arithmetic=changes is for low precision"):
        pahq.acdc(model, task, 0.0001, arithmetic="changes")


def test_what_a_cell_says_of_itself(tmp_path: Path) -> None:
    what = cell("method=pahq-changes", "precision=int8", "method.round=8")
    run_in(tmp_path, what)
    told = json.loads((cell_folder(tmp_path, what.id) / "config.json").read_text())
    assert (told["method"]["arithmetic"], told["method"]["round"]) == ("changes", 8)
