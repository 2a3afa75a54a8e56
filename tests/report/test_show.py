"""``pahq show`` and ``pahq.draw``: terminal, files, notebook, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import small_models
from support.made_cells import graph_of, make_cell, make_config

import pahq
from pahq.__main__ import main
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs
from pahq.report.cells import show_cell
from pahq.report.terminal import as_text

REVERSE = ("embed->a3.h0<v>", "a3.h0<v>", "pos->m1", "a3.h0->logits", "a0.h0<q>")  # the last one on no path


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A made search whose task has a published circuit."""
    config = make_config("tracr-reverse", "pahq", "int8", 0.1)
    return tmp_path / "cells" / make_cell(tmp_path, config, REVERSE)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    typed = ["task=nano-ioi", "task.examples=4", "method=eap-ig", "size=30"]
    [(config, _)] = compose_runs(typed)
    root = tmp_path_factory.mktemp("scored")
    return run_cell(config, RunConfig(root=str(root), wandb="disabled", progress=False)).folder


def test_the_terminal_lists_layers_and_the_strongest_edges_in_plain_text(
    cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(cell)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tracr-reverse, pahq int8, threshold 0.1: 3 of 106 edges\n      logits\n    3 h0 ·\n")
    assert "\x1b" not in out
    rows = [line.split() for line in out.splitlines()]
    assert ["3", "h0", "·"] in rows
    assert re.search(r"^ +0\.2  embed->a3\.h0<v> +\d+  published$", out, re.M)
    assert re.search(r"^\d of 15 published edges are here\.$", out, re.M)


def test_all_edges_are_shown_on_demand(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(cell), "--all", "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert "5 of 106 edges" in out
    assert "Not drawn: 1 Direct edge of inputs that no other edge enters." in out
    assert "... and 3 more; --top 5 lists them all" in out


def test_colours_only_in_a_terminal(cell: Path) -> None:
    shown = show_cell(cell)
    assert "\x1b[" in as_text(shown, colour=True)
    plain = re.sub(r"\x1b\[\d+m", "", as_text(shown, colour=True))
    assert plain == as_text(shown)


def test_facts_of_a_search_are_its_tests(cell: Path) -> None:
    shown = show_cell(cell)
    graph = graph_of("tracr-reverse")
    fact = shown.facts[graph.index_of("pos->m1")]
    assert fact.effect == pytest.approx(0.2)
    assert fact.margin == pytest.approx(0.1)
    assert fact.precision == "int8"
    assert fact.order == graph.index_of("pos->m1") + 1
    assert len(shown.facts) == len(graph.edges)
    assert any("kept, on no path" in note for note in shown.notes)


def test_facts_of_scores_are_scores_and_ranks(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = show_cell(scored)
    assert shown.measure == "score"
    assert [shown.facts[edge].order for edge in shown.strongest[:3]] == [1, 2, 3]
    assert main(["show", str(scored)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("nano-ioi, eap-ig, top: ")


@pytest.mark.parametrize("kind", ["svg", "png", "pdf", "dot"])
def test_files_are_written_as_their_names_end_and_alike_each_time(
    cell: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / f"circuit.{kind}"
    assert main(["show", str(cell), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    begins = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}
    first = out.read_bytes()
    assert first.startswith(begins[kind])
    assert main(["show", str(cell), "--out", str(out)]) == 0
    assert out.read_bytes() == first


def test_dot_has_a_line_for_every_edge_and_marks_missed_ones(cell: Path, tmp_path: Path) -> None:
    pahq.draw(cell, tmp_path / "circuit.dot")
    text = (tmp_path / "circuit.dot").read_text()
    assert '"embed" -> "a3.h0" [' in text
    assert 'style="dashed"' in text
    assert text.count(" -> ") == len(show_cell(cell).lines()[0])
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--out", "circuit.gif"], "a circuit is written as svg, png, pdf"),
        (["--out", "circuit"], "end the file's name in one of them"),
        (["--top", "-1"], "--top is a number of edges from 0 on, not -1"),
        (["--top", "many"], "--top: input should be a valid integer"),
        (["--colour"], "pahq show: unknown option '--colour'; known: --all, "),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    cell: Path, typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(cell), *typed]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_what_is_no_cell_is_told_with_the_cells_that_are_there(
    cell: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (cell.parent, cell.parent / "acdc-float32-t0.2"):
        assert main(["show", str(wrong)]) == 2
        assert (
            capsys.readouterr().err == f"pahq: error: {wrong} holds no finished cell; {cell.parent} has {cell.name}\n"
        )
    assert main(["show", str(tmp_path / "nowhere" / "at all")]) == 2
    assert "holds no finished cell, which is a folder like" in capsys.readouterr().err
    (tmp_path / "x.svg").mkdir()
    with pytest.raises(pahq.PahqError, match="is a folder"):
        pahq.draw(Circuit.from_names(graph_of("tracr-reverse"), []), tmp_path / "x.svg")
    with pytest.raises(pahq.PahqError, match="a search's result, a circuit or a cell's folder was expected, not int"):
        pahq.draw(3)  # type: ignore[arg-type]


def test_a_damaged_cell_is_not_shown(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads((cell / "circuit.json").read_text())
    (cell / "circuit.json").write_text(json.dumps(values | {"edges": []}))
    assert main(["show", str(cell)]) == 2
    assert "circuit.json" in capsys.readouterr().err


def test_results_of_the_library_show_themselves(tmp_path: Path) -> None:
    model = small_models.random_model("gpt2")
    prompts = small_models.random_prompts(model)
    found = pahq.acdc(model, prompts, 0.1, progress=False)
    first, second = repr(found).splitlines()
    assert (
        first == f"Found {len(found.edges)} of {len(found.circuit.graph.edges)} edges in {len(found.decisions)} tests"
    )
    assert second.startswith("largest effects: ")
    assert found._repr_svg_().startswith("<svg")
    found.draw(tmp_path / "found.pdf")
    assert (tmp_path / "found.pdf").read_bytes().startswith(b"%PDF")
    scores = pahq.score(model, prompts, metric="kl", method="exact")
    assert len(repr(scores).splitlines()) == 2
    drawing = pahq.draw(scores.top(10), scores=scores, title="ten edges", published=[found.edges[0]])
    assert "ten edges" in drawing.svg
    assert "score" in drawing.svg
    with pytest.raises(pahq.PahqError, match="of another graph"):
        pahq.draw(found.circuit, scores=pahq.Scores(graph_of("tracr-reverse"), (0.0,) * 106, "exact", "kl"))


def test_a_terminal_without_unicode_and_a_reader_that_has_enough(cell: Path) -> None:
    command = [sys.executable, "-m", "pahq", "show", str(cell), "--top", "200"]
    plain = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert plain.returncode == 0
    assert "3 h0 ." in plain.stdout
    piped = ["bash", "-c", '"$@" | true', "bash"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for words in (command, [sys.executable, "-m", "pahq", "--version"]):
        assert subprocess.run([*piped, *words], env=buffered, capture_output=True, text=True).stderr == ""
