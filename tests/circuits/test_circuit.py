"""Circuits: cleaning changes no output, files survive a round trip, broken files are refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import small_models

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, Receiver, build_graph
from pahq.engine.problem import build_problem
from pahq.engine.reference import circuit_logits
from pahq.errors import PahqError

GRAPH = build_graph(ModelShape(2, 2, 2, True))


def names(*edges: str) -> Circuit:
    return Circuit.from_names(GRAPH, edges)


@given(
    family=st.sampled_from(sorted(small_models.FAMILIES)),
    ablation=st.sampled_from(["corrupted", "zero", "mean"]),
    direct_edges=st.booleans(),
    density=st.sampled_from([0.1, 0.3, 0.6, 0.9]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=120, deadline=None)
def test_cleaning_changes_no_output(family: str, ablation: str, direct_edges: bool, density: float, seed: int) -> None:
    model = small_models.random_model(family, seed)
    prompts = small_models.random_prompts(model, seed, batch=2, length=3, every_item=True)
    problem = build_problem(model, prompts, metric="kl", ablation=ablation, direct_edges=direct_edges)
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(len(problem.graph.edges), generator=generator) < density
    circuit = Circuit(problem.graph, tuple(present.tolist()))
    cleaned = circuit.cleaned(ablation=ablation)
    assert set(cleaned.edges) <= set(circuit.edges)
    assert cleaned.cleaned(ablation=ablation) == cleaned
    difference = circuit_logits(problem, present) - circuit_logits(problem, torch.tensor(cleaned.present))
    assert difference.abs().max() < 1e-10


@given(density=st.sampled_from([0.05, 0.2, 0.5]), seed=st.integers(0, 10_000))
def test_every_edge_left_lies_on_a_path_from_an_embedding_to_the_logits(density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(len(GRAPH.edges), generator=generator) < density
    kept = set(Circuit(GRAPH, tuple(present.tolist())).cleaned().edges)
    for name in kept:
        start, _, end = name.rpartition("->")
        assert (
            not start
            or start == "embed"
            or any(other.endswith("->" + start) for other in kept)
            or any(other.startswith(start + "<") for other in kept)
        )
        head = end.split("<")[0]
        assert head == "logits" or any(other.startswith(head + "->") for other in kept)
        if start and "<" in end:
            assert end in kept  # the projection follows its input


def test_cleaning_drops_what_lies_on_no_path() -> None:
    path = ("a1.h0->logits", "a1.h0<v>", "m0->a1.h0<v>", "embed->m0")
    dead = (
        "a1.h0<k>",  # a Direct edge whose input has no parent
        "a1.h0->m1",  # leads to an MLP that nothing reads
        "a0.h1->m0",  # from a head that reads nothing
        "embed->a1.h0<q>",  # an input whose Direct edge is absent
        "embed->a0.h0<q>",
        "a0.h0<q>",
    )
    assert set(names(*path, *dead).cleaned().edges) == set(path)


def test_under_zero_and_mean_ablation_a_node_without_input_still_speaks() -> None:
    """Its biases make an output, and its ablated output is another: zero, or the mean."""
    circuit = names("m0->logits", "a1.h0->logits", "a1.h0<q>", "embed->a0.h0<q>")
    assert circuit.cleaned().edges == ()
    for ablation in ("zero", "mean"):
        assert set(circuit.cleaned(ablation=ablation).edges) == {"m0->logits", "a1.h0->logits"}


def test_a_key_value_head_is_used_by_any_head_of_its_group() -> None:
    graph = build_graph(ModelShape(1, 4, 2, False))
    assert [str(graph.senders[i]) for i in graph.outputs(Receiver("head", 0, 1, "k"))] == ["a0.h2", "a0.h3"]
    circuit = Circuit.from_names(graph, ["a0.h3->logits", "a0.h1<k>", "embed->a0.h1<k>", "a0.h0<v>", "embed->a0.h0<v>"])
    assert set(circuit.cleaned().edges) == {"a0.h3->logits", "a0.h1<k>", "embed->a0.h1<k>"}


def test_a_parallel_mlp_is_on_no_path_from_the_heads_beside_it() -> None:
    graph = build_graph(ModelShape(1, 2, 2, True, parallel=True))
    path = ("embed->m0", "m0->logits")
    dead = ("embed->a0.h1<v>", "a0.h1<v>", "a0.h0->logits")  # h1 leads nowhere, h0 comes from nowhere
    circuit = Circuit.from_names(graph, path + dead)
    assert set(circuit.cleaned().edges) == set(path)
    reaching = graph.reaching_logits(circuit.present)
    assert [str(node) for node, reaches in zip(graph.senders, reaching, strict=True) if reaches] == [
        "embed",
        "a0.h0",
        "m0",
    ]


def test_full_and_empty_circuits() -> None:
    full = Circuit(GRAPH, (True,) * len(GRAPH.edges))
    assert full.cleaned() == full
    assert len(full) == len(GRAPH.edges)
    empty = Circuit(GRAPH, (False,) * len(GRAPH.edges))
    assert empty.cleaned() == empty
    assert len(empty) == 0
    assert empty.edges == ()


def test_up_to_four_edges_are_all_named_where_a_circuit_is_shown() -> None:
    named = ("m0->logits", "m1->logits", "a0.h0->logits", "a0.h1->logits", "a1.h0->logits")
    for count in range(6):
        first, _, second = repr(names(*named[:count])).partition("\n")
        assert first == f"Circuit of {count} of 58 edges"
        assert (second.count("->"), second.endswith(", ...")) == (min(count, 4), count == 5)


@pytest.mark.parametrize("direct_edges", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        ModelShape(2, 4, 2, True),
        ModelShape(1, 1, 1, False, split_embed=True),
        ModelShape(2, 2, 2, True, parallel=True),
    ],
)
def test_a_file_leads_back_to_the_circuit(tmp_path: Path, shape: ModelShape, direct_edges: bool) -> None:
    graph = build_graph(shape, direct_edges=direct_edges)
    circuit = Circuit(graph, tuple(i % 3 == 0 for i in range(len(graph.edges))))
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(circuit.to_json()))
    assert Circuit.read(path) == circuit
    values = json.loads(path.read_text())
    assert values["edges"] == list(circuit.edges)
    assert values["cleaned"] == list(circuit.cleaned().edges)
    assert circuit.to_json(ablation="zero")["cleaned"] == list(circuit.cleaned(ablation="zero").edges)


GOOD = {"graph": {"layers": 1, "heads": 1, "kv_heads": 1, "mlp": True, "split_embed": False}, "edges": ["m0->logits"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        json.dumps(GOOD)[:40],
        "[]",
        "5",
        "null",
        json.dumps(GOOD | {"edges": ["m0->nowhere"]}),
        json.dumps(GOOD | {"edges": [["m0"]]}),
        json.dumps(GOOD | {"edges": 7}),
        json.dumps(GOOD | {"graph": {"layers": 1}}),
        json.dumps(GOOD | {"graph": GOOD["graph"] | {"heads": 0}}),
        json.dumps(GOOD | {"graph": GOOD["graph"] | {"layers": "two"}}),
        json.dumps({"graph": GOOD["graph"]}),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(GOOD))
    assert Circuit.read(path).edges == ("m0->logits",)
    assert Circuit.read(path).graph.n_direct == 3  # what is not said is as it is in the original code
    path.write_text(text)
    with pytest.raises(PahqError, match=r"circuit\.json is not a readable circuit") as caught:
        Circuit.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_wrong_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="not a readable circuit"):
        Circuit.read(tmp_path / "none.json")
    with pytest.raises(PahqError, match="3 flags for a graph of"):
        Circuit(GRAPH, (True, False, True))
