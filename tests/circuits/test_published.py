"""The published circuits as shipped: exact edges, also against the truth files where those are present."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from support.places import SHARED

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.published import TABLES, parse_table, published_circuit, read_published
from pahq.errors import PahqError

TRUTH = SHARED / "truth"
GPT2 = ModelShape(layers=12, heads=12, kv_heads=12, mlp=True)
SHAPES = {
    "ioi": GPT2,
    "greaterthan": GPT2,
    "docstring": ModelShape(layers=4, heads=8, kv_heads=8, mlp=False),
    "tracr-reverse": ModelShape(layers=4, heads=1, kv_heads=1, mlp=True, split_embed=True),
    "tracr-proportion": ModelShape(layers=2, heads=1, kv_heads=1, mlp=True, split_embed=True),
}
DIGESTS = {  # sha256 of the sorted edge names, joined by line ends
    "ioi": "51d98f43a751c50d006ffa18f5d0f54dcd99940eacee46b540ae6fb106d5aa51",
    "greaterthan": "83aff122882dfae590b74ea2e9c8f534cf4c74f842d3fcb867d37eacd173bfbf",
    "docstring": "248356c4f31fa3d768f1abc964fd58ab1b01ac02893b568e73ecf8a4bd98d453",
    "tracr-reverse": "576dbbb20cd41ef80c3a7eadbfbfdc2d0ccda112435de246bbd1df641d590071",
    "tracr-proportion": "7e6c84043fef055843e46d0172b963a3438b44b42e85c4f345f781aa9cacd52b",
}


def edges_of(kind: str) -> frozenset[str]:
    edges = published_circuit(kind, build_graph(SHAPES[kind]))
    assert edges is not None
    return edges


COUNTS = {  # Addition and Direct edges
    "ioi": (963, 78),
    "greaterthan": (235, 27),
    "docstring": (24, 13),
    "tracr-reverse": (11, 4),
    "tracr-proportion": (7, 3),
}
SOURCES = {  # what a table must cite, beside ACDC
    "ioi": "2211.00593",
    "greaterthan": "2305.00586",
    "docstring": "Heimersheim and Janiak 2023",
    "tracr-reverse": "2301.05062",
    "tracr-proportion": "2301.05062",
}


@pytest.mark.parametrize(("kind", "addition", "direct"), [(kind, *counts) for kind, counts in COUNTS.items()])
def test_counts(kind: str, addition: int, direct: int) -> None:
    edges = edges_of(kind)
    assert sum("->" in edge for edge in edges) == addition
    assert sum("->" not in edge for edge in edges) == direct


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_edges_are_the_recorded_ones(kind: str) -> None:
    assert hashlib.sha256("\n".join(sorted(edges_of(kind))).encode()).hexdigest() == DIGESTS[kind]


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_equals_the_exported_truth(kind: str) -> None:
    path = TRUTH / f"{kind}.json"
    if not path.exists():
        pytest.skip("the exported truth is not beside this project")
    assert edges_of(kind) == {translated(edge) for edge in json.loads(path.read_text())["edges"]}


def translated(edge: dict[str, str]) -> str:
    """An edge of the truth files in this project's names: a3.0.q -> a3.h0<q>."""

    def node(name: str) -> str:
        parts = name.split(".")
        if len(parts) == 1:
            return {"resid_pre": "embed"}.get(name, name)
        return f"{parts[0]}.h{parts[1]}" + (f"<{parts[2][0]}>" if len(parts) == 3 else "")

    receiver = node(edge["receiver"])
    return receiver if edge["type"] == "DIRECT_COMPUTATION" else f"{node(edge['sender'])}->{receiver}"


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_edge_lies_on_a_path(kind: str) -> None:
    graph = build_graph(SHAPES[kind])
    circuit = Circuit.from_names(graph, edges_of(kind))
    assert circuit.cleaned() == circuit


def test_another_model_of_the_kind_has_none() -> None:
    assert published_circuit("tracr-reverse", build_graph(SHAPES["tracr-proportion"])) is None
    joined = ModelShape(layers=4, heads=1, kv_heads=1, mlp=True)
    assert published_circuit("tracr-reverse", build_graph(joined)) is None


@pytest.mark.parametrize("kind", ["ioi", "greaterthan", "docstring"])
def test_the_small_model_of_this_project_has_none(kind: str) -> None:
    nano = ModelShape(layers=4, heads=8, kv_heads=8, mlp=True)
    assert published_circuit(kind, build_graph(nano)) is None


@pytest.mark.parametrize("kind", ["ioi", "greaterthan", "docstring"])
def test_no_rule_is_idle(kind: str) -> None:
    """Without any one of its rules a table would state another circuit; no class stands in vain either."""
    published = read_published(kind)
    assert published is not None
    graph = build_graph(published.shape)
    whole = published.edges(graph)
    for left_out in published.rules:
        fewer = replace(published, rules=tuple(rule for rule in published.rules if rule is not left_out))
        assert fewer.edges(graph) < whole, left_out
    named = {name for rule in published.rules for name in rule.senders + rule.receivers}
    assert set(published.classes) <= named


def small_table(**entries: object) -> dict[str, object]:
    model = {"layers": 2, "heads": 2, "kv_heads": 2, "mlp": True}
    return {"model": model, "citation": [], "classes": {"early": ["a0.h0", "a0.h1"], "MLPs": ["m0", "m1"]}} | entries


def test_rules_connect_classes_downstream() -> None:
    rules = [
        {"from": ["early", "MLPs"], "to": ["a1.h1"], "into": "qv"},
        {"from": ["embed"], "to": ["early"], "into": "k"},
        {"from": ["MLPs"], "to": ["MLPs", "logits"]},
    ]
    table = parse_table(small_table(rules=rules, receivers={"m0": ["a0.h1"]}))
    expected = {f"{sender}->a1.h1<{letter}>" for sender in ("a0.h0", "a0.h1", "m0") for letter in "qv"}
    expected |= {"a1.h1<q>", "a1.h1<v>", "embed->a0.h0<k>", "embed->a0.h1<k>", "a0.h0<k>", "a0.h1<k>"}
    expected |= {"m0->m1", "m0->logits", "m1->logits", "a0.h1->m0"}
    assert table.edges(build_graph(table.shape)) == expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"from": ["earyl"], "to": ["logits"]}, "unknown class or node .* 'earyl'; known: MLPs, early"),
        ({"from": ["embed"], "to": ["a2.h0"], "into": "q"}, "unknown class or node .* 'a2.h0'"),
        ({"from": ["embed"], "to": ["early"]}, "wrong 'into' for a0.h0"),
        ({"from": ["embed"], "to": ["m0"], "into": "q"}, "wrong 'into' for m0<q>"),
        ({"from": ["m1"], "to": ["early"], "into": "q"}, "m1 -> early <q> .* connects nothing"),
        ({"from": ["embed"], "to": ["early"], "into": "qx"}, "not 'qx'"),
        ({"from": ["embed"], "to": ["early"], "inot": "q"}, "unknown key .* 'inot'; known: from, into, to"),
        ({"from": ["embed"]}, "needs model, citation and receivers"),
    ],
)
def test_a_wrong_rule_is_one_sentence(rule: dict[str, object], message: str) -> None:
    def expand() -> None:
        table = parse_table(small_table(rules=[rule]))
        table.edges(build_graph(table.shape))

    with pytest.raises(PahqError, match=message):
        expand()


def test_a_kind_without_published_circuit() -> None:
    assert published_circuit("induction", build_graph(SHAPES["tracr-reverse"])) is None


def test_graph_without_direct_edges_gets_addition_edges_alone() -> None:
    graph: Graph = build_graph(SHAPES["tracr-reverse"], direct_edges=False)
    edges = published_circuit("tracr-reverse", graph)
    assert edges == {edge for edge in edges_of("tracr-reverse") if "->" in edge}


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_cited(kind: str) -> None:
    published = read_published(kind)
    assert published is not None
    assert any(SOURCES[kind] in source for source in published.citation)
    assert any("2304.14997" in source for source in published.citation)


def test_misspelt_edge_is_named() -> None:
    model = {"layers": 2, "heads": 1, "kv_heads": 1, "mlp": True, "split_embed": True}
    table = parse_table({"model": model, "citation": [], "receivers": {"m0": ["a1.h0"]}})
    with pytest.raises(PahqError, match=r"a1\.h0->m0"):
        table.edges(build_graph(ModelShape(**model)))


def test_table_without_receivers_is_refused() -> None:
    with pytest.raises(PahqError, match="receivers"):
        parse_table({"model": {"layers": 1, "heads": 1, "kv_heads": 1, "mlp": True}, "citation": []})
