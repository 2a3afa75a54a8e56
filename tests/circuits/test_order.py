"""The order of visits and tests, spelled out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pahq.circuits.graph import ModelShape, Receiver, build_graph
from pahq.circuits.order import Order, sender_order, stage_numbers, stages, visits
from pahq.search.acdc import visit_edges


def visited(shape: ModelShape, *, direct_edges: bool = True) -> list[str]:
    graph = build_graph(shape, direct_edges=direct_edges)
    return [f"{visit.receiver}{' direct' if visit.direct else ''}" for visit in visits(graph)]


def senders(shape: ModelShape, receiver: Receiver, order: Order) -> list[str]:
    graph = build_graph(shape)
    return [str(graph.senders[i]) for i in sender_order(graph, receiver, order)]


def test_receivers_run_from_the_output_down() -> None:
    layer_1 = [
        "m1",
        "a1.h1<v> direct", "a1.h0<v> direct", "a1.h1<k> direct", "a1.h0<k> direct",
        "a1.h1<q> direct", "a1.h0<q> direct",
        "a1.h1<v>", "a1.h0<v>", "a1.h1<k>", "a1.h0<k>", "a1.h1<q>", "a1.h0<q>",
    ]  # fmt: skip
    layer_0 = [name.replace("1", "0", 1) for name in layer_1]
    assert visited(ModelShape(2, 2, 2, True)) == ["logits", *layer_1, *layer_0]


def test_without_direct_edges_or_mlps_their_visits_are_left_out() -> None:
    inputs = ["a0.h1<v>", "a0.h0<v>", "a0.h1<k>", "a0.h0<k>", "a0.h1<q>", "a0.h0<q>"]
    assert visited(ModelShape(1, 2, 2, False), direct_edges=False) == ["logits", *inputs]


def test_grouped_queries_have_fewer_key_and_value_visits() -> None:
    names = visited(ModelShape(1, 3, 1, False), direct_edges=False)
    assert names == ["logits", "a0.h0<v>", "a0.h0<k>", "a0.h2<q>", "a0.h1<q>", "a0.h0<q>"]


LOGITS = Receiver("logits")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order(), "m1 a1.h1 a1.h0 m0 a0.h1 a0.h0 embed pos"),
        (Order(indices="ascending"), "m1 a1.h0 a1.h1 m0 a0.h0 a0.h1 embed pos"),
        # the list of names is reversed, heads within a name are not
        (Order(senders="farthest"), "pos embed a0.h1 a0.h0 m0 a1.h1 a1.h0 m1"),
        (Order("ascending", "farthest"), "pos embed a0.h0 a0.h1 m0 a1.h0 a1.h1 m1"),
    ],
)
def test_senders_of_one_receiver(order: Order, expected: str) -> None:
    shape = ModelShape(2, 2, 2, True, split_embed=True)
    assert senders(shape, LOGITS, order) == expected.split()


def test_an_mlp_reads_its_own_layers_heads_first() -> None:
    assert senders(ModelShape(2, 2, 2, True), Receiver("mlp", 1), Order()) == [
        "a1.h1",
        "a1.h0",
        "m0",
        "a0.h1",
        "a0.h0",
        "embed",
    ]
    assert senders(ModelShape(2, 2, 2, True), Receiver("head", 1, 0, "q"), Order()) == ["m0", "a0.h1", "a0.h0", "embed"]
    assert senders(ModelShape(2, 2, 2, False), Receiver("head", 0, 1, "k"), Order()) == ["embed"]


def test_a_parallel_layer_is_visited_in_the_same_order() -> None:
    serial, parallel = ModelShape(2, 2, 1, True), ModelShape(2, 2, 1, True, parallel=True)
    assert visited(parallel) == visited(serial)
    assert senders(parallel, Receiver("mlp", 1), Order()) == ["m0", "a0.h1", "a0.h0", "embed"]
    assert senders(parallel, LOGITS, Order()) == senders(serial, LOGITS, Order())


@pytest.mark.parametrize("direct_edges", [True, False])
def test_a_stage_is_one_letter_of_one_layer(direct_edges: bool) -> None:
    graph = build_graph(ModelShape(2, 4, 2, True), direct_edges=direct_edges)
    found = [(stage.kind, stage.layer, stage.receivers[0].letter, stage.direct) for stage in stages(graph)]
    layers = [
        [("mlp", layer, "", False)]
        + [("head", layer, letter, True) for letter in "vkq" if direct_edges]
        + [("head", layer, letter, False) for letter in "vkq"]
        for layer in (1, 0)
    ]
    assert found == [("logits", -1, "", False), *layers[0], *layers[1]]
    for stage in stages(graph):
        assert {(visit.receiver.kind, visit.receiver.layer) for visit in stage.visits} == {(stage.kind, stage.layer)}
        assert len({visit.receiver.letter for visit in stage.visits}) == 1
    assert [visit for stage in stages(graph) for visit in stage.visits] == list(visits(graph))
    numbers = stage_numbers(graph)
    assert {numbers[visit] for visit in visits(graph)} == set(range(len(found)))
    assert [numbers[visit] for visit in visits(graph)] == sorted(numbers.values())


@given(
    shape=st.builds(
        lambda layers, kv_heads, mlp, split, parallel: ModelShape(layers, 4, kv_heads, mlp, split, mlp and parallel),
        st.integers(1, 3),
        st.sampled_from([1, 2, 4]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    heads=st.sampled_from(["descending", "ascending"]),
    nearest=st.sampled_from(["nearest", "farthest"]),
    direct_edges=st.booleans(),
)
def test_every_edge_comes_exactly_once(shape: ModelShape, heads: str, nearest: str, direct_edges: bool) -> None:
    graph = build_graph(shape, direct_edges=direct_edges)
    edges = [edge for visit in visits(graph) for edge in visit_edges(graph, visit, Order(heads, nearest))]
    assert sorted(edges) == list(range(len(graph.edges)))
