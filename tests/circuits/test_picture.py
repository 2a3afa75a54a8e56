"""A drawn circuit: a line for each edge, its marks and widths, what is too much for one picture, and its SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from support.pictures import FOLDER, pictures

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.picture import COLOURS, DASHES, MARKS, Curve, Patch, Picture, Words, draw
from pahq.circuits.shown import EXTRA, HIT, MISSED, Fact, Shown
from pahq.circuits.svg import to_svg

GRAPH = build_graph(ModelShape(2, 2, 2, mlp=True))
BOLD = FontProperties(family="DejaVu Sans", weight="bold")
EDGES = ("embed->a0.h1<q>", "a0.h1<q>", "a0.h1->m0", "m0->a1.h0<v>", "a1.h0<v>", "a1.h0->logits")
CIRCUIT = Circuit.from_names(GRAPH, EDGES)


def lines(picture: Picture) -> dict[str, Curve]:
    """Curves by the edge that they tell of."""
    return {shape.about.split(",")[0]: shape for shape in picture.shapes if isinstance(shape, Curve) and shape.about}


def words(picture: Picture) -> list[str]:
    return [shape.text for shape in picture.shapes if isinstance(shape, Words)]


def test_every_addition_edge_has_a_line_of_its_letters_colour_and_a_direct_edge_is_its_slot() -> None:
    drawn = lines(draw(Shown(CIRCUIT, "a circuit")))
    assert set(drawn) == {name for name in EDGES if "->" in name}
    assert drawn["embed->a0.h1<q>"].colour == COLOURS["q"]
    assert drawn["m0->a1.h0<v>"].colour == COLOURS["v"]
    assert drawn["a0.h1->m0"].colour == COLOURS[""]


def test_a_larger_effect_is_a_wider_line_and_the_legend_says_how_wide() -> None:
    effects = {"embed->a0.h1<q>": 4.0, "a0.h1->m0": -1.0, "m0->a1.h0<v>": 0.1}
    shown = Shown(CIRCUIT, facts={GRAPH.index_of(name): Fact(value) for name, value in effects.items()})
    picture = draw(shown)
    widths = [lines(picture)[name].width for name in effects]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3
    assert {"effect 4", "effect 0.4"} <= set(words(picture))
    assert len({line.width for line in lines(draw(Shown(CIRCUIT))).values()}) == 1


def test_published_edges_are_marked_hit_missed_and_extra() -> None:
    published = {"embed->a0.h1<q>", "embed->m0", "embed->logits"}
    picture = draw(Shown(CIRCUIT, published=frozenset(map(GRAPH.index_of, published))))
    drawn = lines(picture)
    assert drawn["embed->a0.h1<q>"].dash == DASHES[HIT] == ()
    assert drawn["embed->m0"].dash == drawn["embed->logits"].dash == DASHES[MISSED]
    assert drawn["a0.h1->m0"].dash == DASHES[EXTRA]
    assert set(MARKS.values()) <= set(words(picture))
    assert not set(MARKS.values()) & set(words(draw(Shown(CIRCUIT))))


def test_more_edges_than_the_limit_are_drawn_node_by_node_with_a_note() -> None:
    graph = build_graph(ModelShape(4, 4, 4, mlp=True))
    whole = Circuit.from_indices(graph, range(len(graph.edges)))
    merged, single, note = Shown(whole).lines(limit=400)
    assert not single
    assert sum(len(line.edges) for line in merged) == graph.n_addition
    assert note == f"{graph.n_addition} edges, drawn as {len(merged)} lines from node to node."
    fewer, _, note = Shown(whole).lines(limit=50)
    assert len(fewer) == 50
    assert note.endswith("of which the 50 strongest are shown.")
    assert any("from node to node" in text for text in words(draw(Shown(whole), limit=100)))


def test_lines_from_node_to_node_are_called_so_even_if_each_is_one_edge() -> None:
    picture = draw(Shown(CIRCUIT), limit=3)
    assert len(lines(picture)) == 3
    assert "from node to node" in words(picture)
    assert not {"into queries", "into values", "into an MLP or the logits"} & set(words(picture))
    assert {"into queries", "into values", "into an MLP or the logits"} <= set(words(draw(Shown(CIRCUIT), limit=4)))


def test_keys_that_several_heads_share_are_merged_with_their_values() -> None:
    graph = build_graph(ModelShape(1, 4, 2, mlp=False))
    circuit = Circuit.from_names(graph, ["embed->a0.h1<k>", "embed->a0.h1<v>", "embed->a0.h1<q>"])
    merged, _, _ = Shown(circuit).lines(limit=2)
    assert {line.wire.receiver: len(line.edges) for line in merged} == {"a0.g1": 2, "a0.h1": 1}


@pytest.mark.parametrize("title", ["plain", '<script>alert(1)</script> & "quotes"', "a very long title " * 20, ""])
def test_svg_is_xml_that_holds_every_word_as_it_is_and_the_same_bytes_each_time(title: str) -> None:
    picture = draw(Shown(CIRCUIT, title))
    root = ElementTree.fromstring(to_svg(picture))
    texts = [of.text for of in root if of.tag.endswith("text")]
    assert texts == words(picture)
    curves = [shape for shape in picture.shapes if isinstance(shape, Curve)]
    assert sum((of.get("d") or "").count("C") for of in root) >= sum(len(curve.points) // 3 for curve in curves) > 0
    assert "".join(title.split()) in "".join("".join(text or "" for text in texts).split())
    assert to_svg(picture) == to_svg(draw(Shown(CIRCUIT, title)))


def test_words_stay_on_the_paper() -> None:
    for title in ("a very long title " * 20, "smollm2-induction, acdc, threshold 0.1: 22 of 71,101 edges"):
        picture = draw(Shown(CIRCUIT, title, notes=("A note that goes on and on. " * 9,)))
        for shape in picture.shapes:
            if isinstance(shape, Words) and shape.anchor == "start":
                wide = TextPath((0, 0), shape.text, size=shape.size, prop=BOLD if shape.bold else None).get_extents().x1
                assert shape.at[0] + wide < picture.width, shape.text


def test_the_words_of_a_node_and_of_a_slot_stand_in_the_middle_of_its_box() -> None:
    for title in ("", "a long title " * 20):
        picture = draw(Shown(CIRCUIT, title))
        boxes = [shape.points for shape in picture.shapes if isinstance(shape, Patch) and len(shape.points) == 2]
        labels = [shape for shape in picture.shapes if isinstance(shape, Words) and shape.anchor == "middle"]
        assert {"embed", "h1", "m0", "logits"} <= {label.text for label in labels}
        for label in labels:
            x, y = label.at
            own = [(a, b) for a, b in boxes if a[0] < x < b[0] and a[1] < y < b[1]]
            assert any(abs((a[0] + b[0]) / 2 - x) < 1e-6 for a, b in own), label.text
            assert any(0 <= y - (a[1] + b[1]) / 2 < label.size / 2 for a, b in own), label.text


def test_a_circuit_shows_itself_in_two_lines_and_in_a_notebook_as_a_picture() -> None:
    assert repr(CIRCUIT) == "Circuit of 6 of 58 edges\nembed->a0.h1<q>, a0.h1->m0, m0->a1.h0<v>, a1.h0->logits, ..."
    assert repr(Circuit.from_names(GRAPH, [])) == "Circuit of 0 of 58 edges"
    assert repr(GRAPH) == "Graph of 2 layers of 2 heads: 46 + 12 edges"
    assert CIRCUIT._repr_svg_() == CIRCUIT.draw().svg == CIRCUIT.draw()._repr_svg_()
    assert ElementTree.fromstring(CIRCUIT.draw().svg).tag.endswith("svg")


def test_pictures_are_drawn_as_they_were_when_they_were_looked_at() -> None:
    """A change that is meant draws them anew: ``PYTHONPATH=tests python -m support.pictures``, and look at them."""
    drawn = {name: to_svg(picture).splitlines() for name, picture in pictures().items()}
    assert sorted(drawn) == sorted(path.name for path in FOLDER.iterdir())
    for name, text in drawn.items():
        kept = (FOLDER / name).read_text().splitlines()
        other = [(new, old) for new, old in zip(text, kept, strict=False) if new != old]
        assert not other[:1], f"{name}, and {len(other) - 1} more lines"
        assert len(text) == len(kept), name
