"""Foreign formats: there and back again, for every kind of graph, and what they refuse."""

from __future__ import annotations

import json
import random

import networkx
import pytest

from pahq.circuits.circuit import Circuit
from pahq.circuits.foreign import from_eap_ig, rows, to_eap_ig, to_networkx
from pahq.circuits.graph import ModelShape, build_graph
from pahq.errors import PahqError

SHAPES = {
    "gpt2": ModelShape(3, 4, 4, mlp=True),
    "grouped": ModelShape(2, 4, 2, mlp=True),
    "parallel": ModelShape(2, 2, 2, mlp=True, parallel=True),
    "coupled": ModelShape(2, 2, 2, mlp=True, coupled=True),
}


def drawn(shape: ModelShape, *, direct: bool = False) -> tuple[Circuit, list[float]]:
    graph, draw = build_graph(shape, direct_edges=direct), random.Random(1)
    circuit = Circuit(graph, tuple(draw.random() < 0.4 for _ in graph.edges))
    return circuit, [draw.gauss(0, 1) for _ in graph.edges]


@pytest.mark.parametrize("name", SHAPES)
def test_eap_ig_s_graph_comes_back(name: str) -> None:
    circuit, values = drawn(SHAPES[name])
    data = json.loads(json.dumps(to_eap_ig(circuit, values, 64)))
    back = from_eap_ig(data, kv_heads=SHAPES[name].kv_heads, coupled=SHAPES[name].coupled)
    assert back.circuit == circuit
    assert back.values == pytest.approx(values)
    layers, heads = SHAPES[name].layers, SHAPES[name].heads
    assert len(data["nodes"]) == 2 + layers * (heads + 1)  # input, logits, heads, MLPs
    assert data["nodes"]["input"] == {"in_graph": True}
    assert data["cfg"] == {"n_layers": layers, "n_heads": heads, "parallel_attn_mlp": name == "parallel", "d_model": 64}


def test_every_query_head_has_its_share_of_a_grouped_edge() -> None:
    circuit, values = drawn(SHAPES["grouped"])
    edges = to_eap_ig(circuit, values, 64)["edges"]
    index = circuit.graph.index_of("embed->a1.h1<k>")
    for head in (2, 3):
        assert edges[f"input->a1.h{head}<k>"] == {"score": values[index] / 2, "in_graph": circuit.present[index]}
    assert len(edges) == len(build_graph(ModelShape(2, 4, 4, mlp=True), direct_edges=False).edges)


def test_without_its_direct_edge_an_input_has_no_edge_there() -> None:
    circuit, values = drawn(SHAPES["gpt2"], direct=True)
    edges = to_eap_ig(circuit, values, 64)["edges"]
    graph = circuit.graph
    for index, edge in enumerate(graph.edges[: graph.n_addition]):
        name = str(edge).replace("embed", "input")
        expected = circuit.present[index] and graph.online(edge.receiver, circuit.present)
        assert edges[name]["in_graph"] == expected
    offline = [receiver for receiver in graph.head_inputs if not graph.online(receiver, circuit.present)]
    assert offline


def test_networkx_reads_the_circuit() -> None:
    circuit, values = drawn(SHAPES["gpt2"], direct=True)
    graph = networkx.node_link_graph(to_networkx(circuit, values), edges="edges")
    assert graph.number_of_edges() == len(circuit)
    assert graph.is_directed()
    at = next(
        index
        for index in circuit.indices
        if str(circuit.graph.edges[index]).endswith("<q>") and circuit.graph.edges[index].sender is not None
    )
    edge = circuit.graph.edges[at]
    assert graph.edges[str(edge.sender), f"a{edge.receiver.layer}.h{edge.receiver.head}", "q"]["score"] == values[at]


def test_a_table_has_every_edge() -> None:
    circuit, values = drawn(SHAPES["grouped"], direct=True)
    table = list(rows(circuit, values))
    assert [row["edge"] for row in table] == [str(edge) for edge in circuit.graph.edges]
    assert sum(row["in_circuit"] for row in table) == len(circuit)
    assert {row["letter"] for row in table} == {"q", "k", "v", None}


def test_graphs_that_eap_ig_has_not_are_refused() -> None:
    split, values = drawn(ModelShape(2, 2, 2, mlp=True, split_embed=True))
    with pytest.raises(PahqError, match="has one embedding"):
        to_eap_ig(split, values, 8)
    bare, values = drawn(ModelShape(2, 2, 2, mlp=False))
    with pytest.raises(PahqError, match="an MLP in every layer"):
        to_eap_ig(bare, values, 8)


def faulty(**changes: object) -> object:
    circuit, values = drawn(SHAPES["gpt2"])
    return to_eap_ig(circuit, values, 64) | changes


def added(name: str, score: float | None) -> object:
    """A graph with that edge besides, or (None) without it."""
    circuit, values = drawn(SHAPES["gpt2"])
    data = to_eap_ig(circuit, values, 64)
    if score is None:
        del data["edges"][name]
    else:
        data["edges"][name] = {"score": score, "in_graph": True}
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "no graph of EAP-IG"),
        (faulty(cfg={"n_layers": float("inf"), "n_heads": 4, "parallel_attn_mlp": False}), "whole numbers"),
        (
            faulty(cfg={"n_layers": 3000, "n_heads": 64, "parallel_attn_mlp": False}),
            "no graph of EAP-IG of 3000 layers",
        ),
        (faulty(edges={"input->logits": {"score": 1, "in_graph": "false"}}), "in_graph is true or false"),
        ({}, "no graph of EAP-IG: cfg, nodes and edges"),
        (faulty(cfg={"n_layers": "three"}), "no graph of EAP-IG"),
        (faulty(edges={"input->a0.h0<q>": 3}), "no graph of EAP-IG"),
        (added("input->a0.h9<q>", 1.0), "has an edge 'input->a0.h9<q>'"),
        (added("input->logits", None), "the graph lacks the edge 'input->logits'"),
        (added("input->logits", float("nan")), "which is no finite number"),
    ],
)
def test_what_is_no_such_graph_is_one_sentence(data: object, says: str) -> None:
    with pytest.raises(PahqError) as raised:
        from_eap_ig(data)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
