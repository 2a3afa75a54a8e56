"""The page of a sweep: a slider chooses the circuit, lines come and go, and nothing moves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from photograph import FOUND, Browser
from support.explorer import enter, held, shows
from support.made_cells import graph_of, make_cell, make_config

import pahq
from pahq.__main__ import main
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.scores import Scores
from pahq.circuits.shown import Fact, Shown
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs
from pahq.report.page import page
from pahq.report.sweep import siblings, sweep_data, sweep_of, sweep_of_cells

needs_chromium = pytest.mark.skipif(FOUND is None, reason="there is no Chromium here, so the page was not opened")
TASK = "tracr-reverse"
GRAPH = graph_of(TASK)
MANY = ("embed->a3.h0<v>", "a3.h0<v>", "a3.h0->logits", "pos->m1", "m1->logits", "embed->logits")
SOME = ("embed->a3.h0<v>", "a3.h0<v>", "a3.h0->logits", "embed->logits")
FEW = ("embed->logits", "pos->logits")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three made searches of one sweep, the last threshold first."""
    root = tmp_path_factory.mktemp("sweep")
    kept = {0.3: FEW, 0.1: SOME, 0.03: MANY}
    return [root / "cells" / make_cell(root, make_config(TASK, "acdc", "float32", t), kept[t]) for t in kept]


def test_steps_stand_in_order_and_say_what_each_edge_is(cells: list[Path]) -> None:
    sweep = sweep_of_cells(cells)
    assert (sweep.name, sweep.labels) == ("threshold", ("0.03", "0.1", "0.3"))
    assert sweep.title == "tracr-reverse, acdc, 3 thresholds from 0.03 to 0.3"
    found = sweep_data(sweep)
    lines = {line["name"]: line["steps"] for line in found["edges"]}
    assert {*MANY, *FEW} - {"a3.h0<v>"} <= set(lines)  # published ones that none found have lines, too
    assert [face["kept"] for face in lines["a3.h0->logits"]] == [True, True, False]
    assert [face["mark"] for face in lines["a3.h0->logits"]] == ["hit", "hit", "missed"]  # a published edge
    assert [(face["here"], face["mark"]) for face in lines["pos->logits"]] == [
        (False, ""),
        (False, ""),
        (True, "extra"),
    ]
    effects = [face["a"]["effect"] for face in lines["embed->logits"]]
    assert effects == pytest.approx([0.13, 0.2, 0.4])
    assert [(face["kept"], face["here"]) for face in found["direct"][0]["steps"]] == [
        (True,) * 2,
        (True,) * 2,
        (False,) * 2,
    ]
    assert [set(step["used"]) for step in found["sweep"]["steps"]] == [
        {"embed", "pos", "logits", "a3.h0", "m1"},
        {"embed", "pos", "logits", "a3.h0"},
        {"embed", "pos", "logits"},
    ]
    assert found["sweep"]["steps"][0]["title"] == "tracr-reverse, acdc, threshold 0.03: 6 of 106 edges"


def test_cells_of_one_sweep_know_each_other() -> None:
    configs = [
        make_config(TASK, method, bits, t)
        for method, bits in (("acdc", "float32"), ("pahq", "int8"))
        for t in (0.3, 0.1)
    ]
    configs.append(make_config(TASK, "acdc", "float32", 0.2, seed=1))
    found = siblings({config.id: config for config in configs})
    a, b, *_, alone = configs
    assert found[a.id] == found[b.id] == [(b.id, "0.1"), (a.id, "0.3")]
    assert found[alone.id] == [(alone.id, "0.2")]


def test_sizes_are_in_order_of_how_many_edges_they_are(tmp_path: Path) -> None:
    typed = ["task=nano-ioi", "task.examples=2", "method=eap-ig"]
    run = RunConfig(root=str(tmp_path), wandb="disabled", progress=False)
    folders = [run_cell(compose_runs([*typed, f"size={size}"])[0][0], run).folder for size in (400, 0.02, 9)]
    sweep = sweep_of_cells(folders, every=True)
    assert (sweep.name, sweep.labels) == ("size", ("9", "0.02", "400"))
    few, some, many = (len(shown.circuit) for shown in sweep.steps)
    assert 0 < few < some < many


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["{0}", "{1}"], "several cells are shown as a page with a slider: name it with --out FILE.html"),
        (
            ["{0}", "{1}", "--out", "x.svg"],
            "several circuits are written as a page with a slider; end the name in html",
        ),
        (["{0}", "{0}", "--out", "x.html"], "two cells of the sweep have threshold 0.3: {0} and {0}"),
        (["{0}", "{other}", "--out", "x.html"], "{0} and {other} differ in method, precision"),
        (["{0}", "{root}", "--out", "x.html"], "{root} holds no finished cell"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    cells: list[Path], tmp_path: Path, typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "cells" / make_cell(tmp_path, make_config(TASK, "pahq", "int8", 0.1), FEW)
    names: dict[str, Any] = {"other": other, "root": tmp_path}
    assert main(["show", *(word.format(*cells, **names) for word in typed)]) == 2
    told = capsys.readouterr().err
    assert sentence.format(*cells, **names) in told
    assert told.count("\n") == 1
    assert not (tmp_path / "x.html").exists()


def test_the_library_draws_circuits_by_threshold_and_by_size(tmp_path: Path) -> None:
    circuits = {0.3: Circuit.from_names(GRAPH, FEW), 0.1: Circuit.from_names(GRAPH, SOME)}
    drawing = pahq.draw(circuits, tmp_path / "sweep.html", title="by hand", published=["embed->logits"])
    assert [
        f"by hand, threshold {label}: {n} of 106 edges" in drawing.svg for label, n in (("0.1", 4), ("0.3", 2))
    ] == [True, True]
    found = held((tmp_path / "sweep.html").read_text())
    assert found["title"] == "by hand, 2 thresholds from 0.1 to 0.3"
    assert [face["mark"] for line in found["edges"] if line["name"] == "embed->logits" for face in line["steps"]] == [
        "hit",
        "hit",
    ]
    scores = Scores(GRAPH, tuple(float(edge) for edge in range(len(GRAPH.edges))), "exact", "kl")
    pahq.draw({size: scores.top(size, clean=False) for size in (30, 5)}, tmp_path / "sizes.html", scores=scores)
    found = held((tmp_path / "sizes.html").read_text())["sweep"]
    assert (found["name"], [step["label"] for step in found["steps"]]) == ("size", ["5", "30"])
    other = Circuit.from_names(graph_of("tracr-proportion-zero"), [])
    for wrong, sentence in (
        ({0.1: circuits[0.1]}, "a page of a sweep has from 2 to 60 circuits, not 1"),
        (circuits | {0.2: other}, "those at 0.1 and 0.2 are not"),
        ({"a": circuits[0.1]}, "circuits by their thresholds or sizes were expected, and 'a' is neither"),
    ):
        with pytest.raises(pahq.PahqError, match=sentence):
            pahq.draw(wrong)  # type: ignore[arg-type]
    with pytest.raises(pahq.PahqError, match="end the name in html"):
        pahq.draw(circuits, tmp_path / "sweep.svg")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as opened:
        yield opened


@needs_chromium
@pytest.mark.slow
def test_the_slider_walks_and_places_stay(browser: Browser, cells: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "sweep.html"
    assert main(["show", *map(str, cells), "--out", str(out)]) == 0
    browser.open(out)
    missed = {line["name"] for line in held(out.read_text())["edges"] if line["steps"][0]["mark"] == "missed"}
    where = "explorer.nodes().map((node) => [node.id(), node.position('x'), node.position('y')])"
    screen = "[explorer.zoom(), explorer.pan().x, explorer.pan().y, document.getElementById('graph').offsetHeight]"
    places, seen, label = browser.tell(where), browser.tell(screen), "document.getElementById('step-label').textContent"

    def lines(kept: tuple[str, ...]) -> list[str]:
        """Of a circuit, and what was published but is not in it."""
        published = missed | {"embed->a3.h0<v>", "a3.h0->logits", "pos->m1"}
        return sorted({name for name in kept if "->" in name} | published)

    assert browser.tell(label) == "0.03"
    assert shows(browser) == lines(MANY)
    browser.tell("document.getElementById('on').click()")
    assert browser.tell(label) == "0.1"
    assert shows(browser) == lines(SOME)
    assert browser.tell("document.getElementById('step-change').textContent") == "0 came and 2 left since 0.03"
    assert browser.tell("explorer.getElementById('m1').hasClass('unused')")
    enter(browser, "step", 2)
    assert shows(browser) == lines(FEW)
    assert browser.tell("document.getElementById('title').textContent").endswith("threshold 0.3: 2 of 106 edges")
    assert browser.tell("explorer.edges('.hit').map((e) => e.data('name'))") == []
    browser.tell("document.getElementById('json').click()")
    assert browser.tell("JSON.parse(window.copied).edges") == sorted(FEW)
    enter(browser, "find", "m1->logits")
    told = browser.tell("document.getElementById('chosen').innerText")
    assert "kept at threshold" in told
    assert "0.03" in told
    assert browser.tell(where) == places
    assert browser.tell(screen) == seen
    assert browser.errors == []
    assert set(browser.requests) == {out.as_uri()}


@needs_chromium
@pytest.mark.slow
def test_a_page_of_one_circuit_has_no_slider(browser: Browser, tmp_path: Path) -> None:
    circuit = Circuit.from_names(GRAPH, FEW)
    (tmp_path / "one.html").write_text(page(Shown(circuit, "one")))
    browser.open(tmp_path / "one.html")
    assert browser.tell("document.getElementById('sweep').offsetHeight") == 0


def test_places_leave_room_for_the_widest_line() -> None:
    one, two = (
        Shown(Circuit.from_names(GRAPH, SOME), facts={GRAPH.index_of("embed->logits"): Fact(effect)})
        for effect in (0.1, -3.0)
    )
    sweep = sweep_of("threshold", [(0.1, one), (0.2, replace(two, title="second"))])
    assert sweep_data(sweep)["edges"][0]["name"] == "embed->logits"
