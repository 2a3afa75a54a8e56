"""``pahq diff`` and ``pahq.diff``: edges, the first decision that differs, and one circuit on the other's task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import small_models
from support.made_cells import make_cell, make_config

import pahq
from pahq.__main__ import main
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs

HERE = ("embed->a3.h0<v>", "a3.h0<v>", "pos->m1", "a3.h0->logits")
THERE = ("embed->a3.h0<v>", "a3.h0<v>", "embed->m1", "a3.h0->logits")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two made searches, which differ in two edges."""
    configs = [make_config("tracr-reverse", method, "int8", 0.1) for method in ("pahq", "rtn-q")]
    ids = [make_cell(tmp_path, config, edges) for config, edges in zip(configs, (HERE, THERE), strict=True)]
    return tmp_path / "cells" / ids[0], tmp_path / "cells" / ids[1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real cells of one compiled program: two searches and scores."""
    root, found = tmp_path_factory.mktemp("real"), {}
    for name, typed in {
        "acdc": ["method=acdc", "threshold=0.1"],
        "rough": ["method=acdc", "threshold=100"],
        "scores": ["method=exact", "size=5"],
    }.items():
        [(config, _)] = compose_runs(["task=tracr-reverse", "task.examples=4", *typed])
        found[name] = run_cell(config, RunConfig(root=str(root), wandb="disabled", progress=False)).folder
    return found


def test_edges_that_left_and_came_and_the_first_decision_that_differs(pair: tuple[Path, Path]) -> None:
    found = pahq.diff(*pair, swap=False)
    assert found.left == ("pos->m1",)
    assert found.came == ("embed->m1",)
    assert found.jaccard == pytest.approx(3 / 5)
    assert found.first is not None
    assert found.first.a is not None
    assert found.first.b is not None
    assert (found.first.a.edge, found.first.a.kept, found.first.b.kept) == ("embed->m1", False, True)
    assert "the searches part at test" in repr(found)
    assert pahq.diff(pair[0], pair[0], swap=False).first is None


def test_the_command_prints_words_or_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *map(str, pair), "--no-swap"]) == 0
    told = capsys.readouterr().out
    assert "3 edges in both, 1 left, 1 came: Jaccard index 0.600" in told
    assert "left: pos->m1\ncame: embed->m1\n" in told
    assert main(["diff", *map(str, pair), "--no-swap", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["left"], values["came"], values["shared"]) == (["pos->m1"], ["embed->m1"], 3)
    assert values["first"]["b"] == {"edge": "embed->m1", "effect": pytest.approx(0.2), "kept": True}
    assert values["swap"] is None


def test_the_second_circuit_is_judged_on_the_first_ones_task(real: dict[str, Path]) -> None:
    same = pahq.diff(real["acdc"], real["acdc"]).swap
    assert same is not None
    assert same.value == pytest.approx(same.own_value)
    worse = pahq.diff(real["acdc"], real["rough"])
    assert worse.swap is not None
    assert worse.swap.value > worse.swap.own_value
    assert "on A's task (fresh prompts): A mse" in repr(worse)


def test_scores_beside_a_search_are_compared_by_the_edges_that_both_graphs_have(real: dict[str, Path]) -> None:
    found = pahq.diff(real["acdc"], real["scores"])
    assert found.first is None
    assert not any(edge.startswith("a") and "->" not in edge for edge in (*found.left, *found.came))
    assert "no Direct edges" in found.note
    assert found.swap is not None


def test_results_of_the_library(pair: tuple[Path, Path]) -> None:
    model = small_models.random_model("gpt2")
    prompts = small_models.random_prompts(model)
    few, many = (pahq.acdc(model, prompts, threshold, progress=False) for threshold in (0.3, 0.1))
    found = pahq.diff(few, many)
    assert found.agreement.shared == len(set(few.edges) & set(many.edges))
    assert found.first is not None
    assert found.swap is None
    assert pahq.diff(few.circuit, few).jaccard == 1
    with pytest.raises(pahq.PahqError, match="models of different shapes"):
        pahq.diff(few, pair[0])
    with pytest.raises(pahq.PahqError, match="was expected, not list"):
        pahq.diff(few, [])  # type: ignore[arg-type]


def test_a_search_that_was_over_earlier_is_said_to_be() -> None:
    model = small_models.random_model("gpt2")
    found = pahq.acdc(model, small_models.random_prompts(model), 0.1, progress=False)
    shorter = pahq.Found(found.circuit, found.decisions[:-1], found.certainty)
    parting = pahq.diff(found, shorter).first
    assert str(parting).endswith("B was over")
    assert Circuit.from_names(found.circuit.graph, found.edges) == found.circuit


@pytest.mark.parametrize("typed", [[], ["only-one"], ["a", "b"]])
def test_bad_input_is_told_in_one_sentence(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", *typed]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_page_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "b", "--out", "x.txt"]) == 2
    assert (
        capsys.readouterr().err
        == "pahq: error: --out x.txt: two circuits are written as a page; end the name in html\n"
    )
