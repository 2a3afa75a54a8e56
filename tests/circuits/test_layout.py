"""Where a circuit is drawn: nothing overlaps, no line runs through a node, and every edge ends where it belongs."""

from __future__ import annotations

import random

import pytest

from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.grid import Grid, Row, Wire
from pahq.circuits.layout import SLOT, Box, Layout, lay_out
from pahq.circuits.picture import way

SHAPES = {
    "small": ModelShape(3, 4, 4, mlp=True),
    "without MLPs": ModelShape(2, 3, 3, mlp=False),
    "two embeddings": ModelShape(4, 1, 1, mlp=True, split_embed=True),
    "shared keys and values": ModelShape(4, 6, 2, mlp=True),
    "parallel": ModelShape(3, 4, 4, mlp=True, parallel=True),
    "large": ModelShape(30, 9, 3, mlp=True),
}
EACH = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def some(graph: Graph, count: int, seed: int = 0) -> list[Wire]:
    edges = random.Random(seed).sample(graph.edges[: graph.n_addition], min(count, graph.n_addition))
    return [Wire(str(edge.sender), str(edge.receiver)) for edge in edges]


def overlap(a: Box, b: Box, room: float = -0.01) -> bool:
    across, down = (a.width + b.width) / 2 + room, (a.height + b.height) / 2 + room
    return abs(a.x - b.x) < across and abs(a.y - b.y) < down


def bezier(points: list[tuple[float, float]], steps: int = 16) -> list[tuple[float, float]]:
    found = []
    for i in range(1, len(points), 3):
        corners = [points[i - 1], *points[i : i + 3]]
        for step in range(steps + 1):
            t = step / steps
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            found.append(tuple(sum(w * p[axis] for w, p in zip(weights, corners, strict=True)) for axis in (0, 1)))
    return found


def inside(layout: Layout) -> bool:
    boxes = [*layout.boxes, *layout.slots]
    return all(
        b.width / 2 <= b.x <= layout.width - b.width / 2 and b.height / 2 <= b.y <= layout.height - b.height / 2
        for b in boxes
    )


@EACH
@pytest.mark.parametrize("count", [0, 1, 12, 60, 400])
def test_nothing_overlaps_and_everything_is_on_the_paper(shape: ModelShape, count: int) -> None:
    graph = build_graph(shape)
    layout = lay_out(graph, some(graph, count))
    nodes = [box for box in layout.boxes if box.label]
    for group in (nodes, [*layout.slots]):
        assert not [(a.name, b.name) for i, a in enumerate(group) for b in group[:i] if overlap(a, b)]
    assert not [(a.name, b.name) for a in nodes for b in layout.slots if overlap(a, b)]
    assert inside(layout)


@EACH
@pytest.mark.parametrize("letters", [True, False])
def test_no_line_runs_through_a_node(shape: ModelShape, letters: bool) -> None:
    graph = build_graph(shape)
    wires = some(graph, 60, seed=3)
    if not letters:
        wires = [Wire(w.sender, w.receiver.split("<")[0]) for w in wires if "<" not in w.receiver]
    layout = lay_out(graph, wires, letters=letters)
    for wire, route in zip(wires, layout.routes, strict=True):
        ends = {wire.sender, wire.receiver, wire.receiver.split("<")[0]}
        passed = [
            box.name
            for x, y in bezier([*way(route)])
            for box in layout.boxes
            if box.label and box.name not in ends and abs(x - box.x) < box.width / 2 and abs(y - box.y) < box.height / 2
        ]
        assert not passed, f"{wire} runs through {set(passed)}"


@EACH
def test_lines_lead_up_from_their_sender_to_their_slot(shape: ModelShape) -> None:
    graph = build_graph(shape)
    wires = some(graph, 60, seed=1)
    layout = lay_out(graph, wires)
    places = {box.name: box for box in (*layout.boxes, *layout.slots)}
    for wire, route in zip(wires, layout.routes, strict=True):
        sender, receiver = places[wire.sender], places[wire.receiver]
        assert route.start[1] == pytest.approx(sender.y - sender.height / 2)
        assert abs(route.start[0] - sender.x) <= sender.width / 2
        assert route.end[1] == pytest.approx(receiver.y + receiver.height / 2)
        assert abs(route.end[0] - receiver.x) <= receiver.width / 2
        heights = [y for _, y in bezier([*way(route)])]
        assert heights == sorted(heights, reverse=True)


def test_layers_go_up_and_heads_across() -> None:
    graph = build_graph(SHAPES["small"])
    places = {box.name: box for box in lay_out(graph, some(graph, 30)).boxes}
    order = ["embed", "a0.h0", "m0", "a1.h0", "m1", "a2.h0", "m2", "logits"]
    assert [places[name].y for name in order] == sorted((places[name].y for name in order), reverse=True)
    assert [places[f"a1.h{head}"].x for head in range(4)] == sorted(places[f"a1.h{head}"].x for head in range(4))


def test_the_inputs_of_a_head_stand_side_by_side_and_tell_which_have_an_edge() -> None:
    graph = build_graph(SHAPES["small"])
    slots = {slot.letter: slot for slot in lay_out(graph, [Wire("embed", "a1.h2<k>")]).slots}
    assert {letter: slot.used for letter, slot in slots.items()} == {"q": False, "k": True, "v": False}
    assert slots["q"].x + SLOT == pytest.approx(slots["k"].x) == slots["v"].x - SLOT


def test_an_input_of_several_heads_has_one_slot_and_one_line() -> None:
    graph = build_graph(SHAPES["shared keys and values"])
    layout = lay_out(graph, [Wire("embed", "a1.h1<v>"), Wire("a1.h4", "logits"), Wire("a1.h3", "logits")])
    assert [slot.name for slot in layout.slots if slot.letter == "v"] == ["a1.h1<v>"]
    bar = next(box for box in layout.boxes if box.name == "a1.g1")
    heads = [box for box in layout.boxes if box.name in ("a1.h3", "a1.h4", "a1.h5")]
    assert bar.x - bar.width / 2 == pytest.approx(min(box.x - box.width / 2 for box in heads))
    assert bar.x + bar.width / 2 == pytest.approx(max(box.x + box.width / 2 for box in heads))


def test_a_large_model_shows_only_what_has_an_edge_and_a_small_one_all() -> None:
    large = lay_out(build_graph(SHAPES["large"]), [Wire("embed", "m7"), Wire("m7", "logits")])
    assert [box.name for box in large.boxes] == ["embed", "m7", "logits"]
    small = lay_out(build_graph(SHAPES["small"]), [Wire("embed", "logits")])
    assert len(small.boxes) == 3 * 5 + 2
    assert {box.name for box in small.boxes if box.used} == {"embed", "logits"}


def test_the_same_wires_give_the_same_layout() -> None:
    graph = build_graph(SHAPES["large"])
    assert lay_out(graph, some(graph, 200)) == lay_out(graph, some(graph, 200))


def test_what_only_a_line_outside_the_circuit_touches_looks_unused() -> None:
    graph = build_graph(SHAPES["large"])
    layout = lay_out(
        graph, [Wire("embed", "logits"), Wire("embed", "a3.h4<q>", kept=False), Wire("m2", "m9", kept=False)]
    )
    assert {box.name for box in layout.boxes if box.used} == {"embed", "logits"}
    assert {box.name for box in layout.boxes} == {"embed", "logits", "a3.h4", "m2", "m9"}
    assert [(slot.name, slot.used) for slot in layout.slots] == [("a3.h4<q>", False)]


def test_rows_are_those_with_an_edge_or_all_of_a_small_model() -> None:
    wires = [Wire("embed", "a1.h0<q>"), Wire("m1", "logits")]
    small = Grid(ModelShape(2, 100, 100, mlp=True), wires)
    unused = (Row("head", 0, False), Row("mlp", 0, False))
    used = (Row("head", 1, True), Row("mlp", 1, True))
    assert small.rows == (Row("embed", -1, True), *unused, *used, Row("logits", 2, True))
    assert Grid(ModelShape(2, 101, 101, mlp=True), wires).rows == (
        Row("embed", -1, True),
        *used,
        Row("logits", 2, True),
    )


@pytest.mark.parametrize(("parallel", "rows"), [(False, ["mlp"]), (True, ["head"])])
def test_of_a_large_model_a_layer_of_which_only_the_mlp_has_an_edge_is_one_row(parallel: bool, rows: list[str]) -> None:
    shape = ModelShape(3, 101, 101, mlp=True, parallel=parallel)
    for layer in range(3):
        wires = [Wire("embed", f"m{layer}"), Wire(f"m{layer}", "logits")]
        grid = Grid(shape, wires)
        assert [(row.kind, row.layer) for row in grid.rows[1:-1]] == [(kind, layer) for kind in rows]
        layout = lay_out(build_graph(shape), wires)
        assert [text for text, _ in layout.labels] == [f"layer {layer}"]
        assert [box.name for box in layout.boxes] == ["embed", f"m{layer}", "logits"]


SIZES = {
    ("small", 400): (519.6, 547.25),
    ("shared keys and values", 60): (474.0, 524.9),
    ("large", 300): (905.0, 2764.35),
}


@pytest.mark.parametrize(("shape", "count"), SIZES)
def test_papers_have_the_size_that_they_had_when_they_were_looked_at(shape: str, count: int) -> None:
    graph = build_graph(SHAPES[shape])
    layout = lay_out(graph, some(graph, count))
    assert (layout.width, layout.height) == pytest.approx(SIZES[shape, count])
