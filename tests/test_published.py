"""The published circuits as shipped: exact edges, also against the truth files where those are present."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pahq.circuit import Circuit
from pahq.errors import PahqError
from pahq.graph import Graph, ModelShape, build_graph
from pahq.published import TABLES, parse_table, published_circuit, read_published

TRUTH = Path(__file__).resolve().parents[1].parent / "shared" / "truth"
SHAPES = {
    "tracr-reverse": ModelShape(layers=4, heads=1, kv_heads=1, mlp=True, split_embed=True),
    "tracr-proportion": ModelShape(layers=2, heads=1, kv_heads=1, mlp=True, split_embed=True),
}
DIGESTS = {  # sha256 of the sorted edge names, joined by line ends
    "tracr-reverse": "576dbbb20cd41ef80c3a7eadbfbfdc2d0ccda112435de246bbd1df641d590071",
    "tracr-proportion": "7e6c84043fef055843e46d0172b963a3438b44b42e85c4f345f781aa9cacd52b",
}


def edges_of(kind: str) -> frozenset[str]:
    edges = published_circuit(kind, build_graph(SHAPES[kind]))
    assert edges is not None
    return edges


@pytest.mark.parametrize(("kind", "addition", "direct"), [("tracr-reverse", 11, 4), ("tracr-proportion", 7, 3)])
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
            return name
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
    assert any("2301.05062" in source for source in published.citation)
    assert any("2304.14997" in source for source in published.citation)


def test_misspelt_edge_is_named() -> None:
    model = {"layers": 2, "heads": 1, "kv_heads": 1, "mlp": True, "split_embed": True}
    table = parse_table({"model": model, "citation": [], "receivers": {"m0": ["a1.h0"]}})
    with pytest.raises(PahqError, match=r"a1\.h0->m0"):
        table.edges(build_graph(ModelShape(**model)))


def test_table_without_receivers_is_refused() -> None:
    with pytest.raises(PahqError, match="receivers"):
        parse_table({"model": {"layers": 1, "heads": 1, "kv_heads": 1, "mlp": True}, "citation": []})
