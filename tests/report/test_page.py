"""The explorer: one file that asks for nothing, escapes what it is given, and does in a browser what it promises."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from photograph import FOUND, Browser
from support.explorer import enter, held, shows
from support.made_cells import graph_of, make_cell, make_config

import pahq
from pahq.__main__ import main
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.scores import Scores
from pahq.circuits.shown import Fact, Shown
from pahq.report.page import data, page

needs_chromium = pytest.mark.skipif(FOUND is None, reason="there is no Chromium here, so the page was not opened")
GRAPH = build_graph(ModelShape(3, 4, 4, mlp=True))
CIRCUIT = Circuit.from_names(
    GRAPH,
    ["embed->a0.h1<q>", "a0.h1<q>", "a0.h1->m1", "m1->a2.h0<v>", "a2.h0<v>", "a2.h0->logits", "embed->logits"],
)
FACTS = {edge: Fact(0.5 / (n + 1), 0.1, "int8", n + 1) for n, edge in enumerate(CIRCUIT.indices)}
SHOWN = Shown(CIRCUIT, "seven edges", FACTS, frozenset(map(GRAPH.index_of, ["embed->logits", "embed->m0"])))
SPITEFUL = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'> & \u2028"


def test_the_file_is_whole_and_forbids_every_request() -> None:
    text = page(SHOWN)
    assert "default-src 'none'" in text
    own = text.replace((files("pahq.report") / "vendored" / "cytoscape.min.js").read_text(), "")
    assert not re.findall(r"https?://", own)
    assert not re.findall(r"<(?:link|img|iframe)|\ssrc=", own)
    assert not re.findall(r"innerHTML|outerHTML|document\.write|eval\(", own)
    assert held(text) == data(SHOWN)
    assert page(SHOWN) == text


def test_words_cannot_leave_their_place() -> None:
    spiteful = Shown(CIRCUIT, SPITEFUL, FACTS, notes=(SPITEFUL,), measure=SPITEFUL)
    text = page(spiteful)
    assert text.count("<script") == page(SHOWN).count("<script")
    assert SPITEFUL not in text
    assert held(text)["title"] == SPITEFUL


def test_a_line_says_all_that_is_known_of_its_edge() -> None:
    lines = {line["name"]: line for line in data(SHOWN)["edges"]}
    line = lines["m1->a2.h0<v>"]
    fact = FACTS[GRAPH.index_of("m1->a2.h0<v>")]
    assert line["a"] == {"effect": fact.effect, "margin": 0.1, "precision": "int8", "order": fact.order, "kept": True}
    assert (line["source"], line["target"], line["letter"], line["layers"]) == ("m1", "a2.h0", "v", [1, 2])
    assert {name: lines[name]["mark"] for name in ("embed->logits", "embed->m0", "a0.h1->m1")} == {
        "embed->logits": "hit",
        "embed->m0": "missed",
        "a0.h1->m1": "extra",
    }
    assert [edge["name"] for edge in data(SHOWN)["direct"]] == ["a0.h1<q>", "a2.h0<v>"]


def test_two_circuits_are_told_apart_edge_by_edge() -> None:
    other = Shown(Circuit.from_names(GRAPH, ["embed->logits", "embed->a0.h2<k>", "a0.h2<k>", "a0.h2->logits"]))
    sides = {line["name"]: line["side"] for line in data(SHOWN, other, ["a sentence"])["edges"]}
    assert (sides["embed->logits"], sides["a0.h1->m1"], sides["a0.h2->logits"]) == ("both", "a", "b")
    assert data(SHOWN, other, ["a sentence"])["diff"] == ["a sentence"]


def test_keys_of_several_heads_enter_the_bar_that_they_share() -> None:
    graph = build_graph(ModelShape(2, 4, 2, mlp=False))
    shown = Shown(Circuit.from_names(graph, ["embed->a0.h1<k>", "a0.h3->logits", "a0.h2->logits"]))
    line = next(line for line in data(shown)["edges"] if line["name"] == "embed->a0.h1<k>")
    assert (line["target"], line["feeds"]) == ("a0.g1", ["a0.h2", "a0.h3"])


def test_the_library_is_the_one_that_its_note_names() -> None:
    folder = files("pahq.report") / "vendored"
    note = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / "cytoscape.min.js").read_bytes()).hexdigest() in note
    assert "MIT" in note
    assert "The Cytoscape Consortium" in (folder / "LICENSE-cytoscape").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as opened:
        yield opened


def opened(browser: Browser, text: str, tmp_path: Path) -> Browser:
    (tmp_path / "page.html").write_text(text)
    browser.errors.clear()
    browser.requests.clear()
    browser.open(tmp_path / "page.html")
    return browser


@needs_chromium
@pytest.mark.slow
def test_the_page_opens_from_disk_without_an_error_or_a_request(browser: Browser, tmp_path: Path) -> None:
    opened(browser, page(SHOWN), tmp_path)
    assert shows(browser) == sorted([name for name in CIRCUIT.edges if "->" in name] + ["embed->m0"])
    assert browser.tell("document.getElementById('title').textContent") == "seven edges"
    assert browser.tell("document.getElementById('count').textContent") == "6 of 6 lines, 2 Direct edges as slots"
    assert browser.tell("document.getElementById('paths').children.length") == 2
    assert browser.errors == []
    assert browser.requests == [(tmp_path / "page.html").as_uri()]
    opened(browser, page(Shown(CIRCUIT, SPITEFUL, FACTS, notes=(SPITEFUL,), measure=SPITEFUL)), tmp_path)
    assert browser.tell("document.getElementById('title').textContent") == SPITEFUL
    assert browser.tell("window.hurt === undefined")
    assert browser.errors == []


@needs_chromium
@pytest.mark.slow
def test_hover_filters_search_and_clicks(browser: Browser, tmp_path: Path) -> None:
    opened(browser, page(SHOWN), tmp_path)
    place = browser.tell(
        "(() => { const e = explorer.edges().filter((e) => e.data('name') === 'embed->logits')[0];"
        "const m = e.renderedMidpoint(), g = document.getElementById('graph').getBoundingClientRect();"
        "return [m.x + g.x, m.y + g.y]; })()"
    )
    browser.move(place[0] + 40, place[1])
    browser.move(*place)
    tip = browser.tell("document.getElementById('tip').innerText")
    for told in ("embed->logits", "effect", "margin", "int8", "test number", "published, found"):
        assert told in tip
    browser.tell("document.querySelectorAll('#letters input')[1].click()")  # values
    assert "m1->a2.h0<v>" not in shows(browser)
    browser.tell("document.getElementById('reset').click()")
    assert "m1->a2.h0<v>" in shows(browser)
    enter(browser, "least", 1000)
    strongest = max(CIRCUIT.indices, key=lambda edge: FACTS[edge].effect if not GRAPH.edges[edge].direct else 0)
    assert shows(browser) == sorted([str(GRAPH.edges[strongest]), "embed->m0"])
    browser.tell("document.getElementById('reset').click()")
    browser.tell(
        "(() => { const l = document.getElementById('to'); l.value = 1; l.dispatchEvent(new Event('change')); })()"
    )
    assert "m1->a2.h0<v>" not in shows(browser)
    browser.tell("document.getElementById('reset').click()")
    enter(browser, "find", "m1")
    told = browser.tell("document.getElementById('chosen').innerText")
    assert "1 edge in" in told
    assert "m1->a2.h0<v>" in told
    assert "Published circuit" in told
    paths = browser.tell("document.getElementById('paths').innerText")
    assert paths == "embed → a0.h1<q> → m1 → a2.h0<v> → logits"
    browser.tell("void explorer.getElementById('a0.h1').emit('tap')")
    assert "Direct edges" in browser.tell("document.getElementById('chosen').innerText")
    assert browser.errors == []


@needs_chromium
@pytest.mark.slow
def test_what_is_copied_is_the_circuit_again(browser: Browser, tmp_path: Path) -> None:
    opened(browser, page(SHOWN), tmp_path)
    browser.tell("document.getElementById('python').click()")
    names: dict[str, Any] = {}
    exec(browser.tell("window.copied"), names)
    assert names["circuit"] == CIRCUIT
    browser.tell("document.getElementById('json').click()")
    (tmp_path / "circuit.json").write_text(browser.tell("window.copied"))
    assert Circuit.read(tmp_path / "circuit.json") == CIRCUIT


@needs_chromium
@pytest.mark.slow
def test_the_page_of_two_cells(browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = ("embed->a3.h0<v>", "a3.h0<v>", "a3.h0->logits"), ("embed->m1", "m1->logits", "a3.h0->logits")
    configs = [make_config("tracr-reverse", method, "int8", 0.1) for method in ("pahq", "rtn-q")]
    ids = [make_cell(tmp_path, config, edges) for config, edges in zip(configs, (one, two), strict=True)]
    folders = [str(tmp_path / "cells" / name) for name in ids]
    assert main(["diff", *folders, "--no-swap", "--out", str(tmp_path / "diff.html")]) == 0
    capsys.readouterr()
    opened(browser, (tmp_path / "diff.html").read_text(), tmp_path)
    assert "the searches part at test" in browser.tell("document.getElementById('parting').innerText")
    assert shows(browser) == sorted(name for name in {*one, *two} if "->" in name)
    browser.tell("document.querySelectorAll('#sides input')[0].click()")  # only in A
    assert shows(browser) == sorted(two)
    assert browser.errors == []


@needs_chromium
@pytest.mark.slow
def test_a_thousand_edges_are_drawn(browser: Browser, tmp_path: Path) -> None:
    """How smoothly they move is measured by ``benchmarks/explorer.py``."""
    graph = build_graph(ModelShape(4, 8, 8, mlp=True), direct_edges=False)
    scores = Scores(graph, tuple(float(1 + edge % 97) for edge in range(len(graph.edges))), "exact", "kl")
    pahq.draw(scores.top(1000, clean=False), tmp_path / "many.html", scores=scores)
    opened(browser, (tmp_path / "many.html").read_text(), tmp_path)
    assert len(shows(browser)) == 1000
    assert browser.errors == []


def test_a_page_is_written_by_name(tmp_path: Path) -> None:
    pahq.draw(Circuit.from_names(graph_of("tracr-reverse"), ["pos->m1"]), tmp_path / "x.html", title="one edge")
    assert held((tmp_path / "x.html").read_text())["title"] == "one edge"
