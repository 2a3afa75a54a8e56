"""Mixed precision: which heads an edge puts in focus, and that the rest stays as it is, bit by bit."""

from __future__ import annotations

import pytest
import torch
from support.as_read import as_read
from support.small_models import random_model

from pahq.circuits.graph import ModelShape, build_graph
from pahq.config.precision import PrecisionConfig
from pahq.precision.formats import Format, round_trip
from pahq.precision.store import NO_FOCUS, PrecisionStore, focus_of

INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
QUERY, KEY_VALUE = ("W_Q", "W_O"), ("W_K", "W_V")


@pytest.mark.parametrize("family", ["gpt2", "attention-only", "llama", "qwen"])
def test_only_the_focus_group_is_in_full_precision(family: str) -> None:
    """With grouped queries that is a key-value head and all query heads that read it."""
    model = random_model(family, dtype=torch.float32)
    store, config = PrecisionStore.build(model, INT8), model.config
    size = config.heads // config.kv_heads
    for layer in range(config.layers):
        full, low = model.layers[layer], store.low.layers[layer]
        for group in range(config.kv_heads):
            weights = store.layer(layer, frozenset({(layer, group)}))
            for names, count, members in (
                (QUERY, config.heads, range(group * size, (group + 1) * size)),
                (KEY_VALUE, config.kv_heads, range(group, group + 1)),
            ):
                for name in names:
                    for head in range(count):
                        mine, exact, coarse = (getattr(w, name)[head] for w in (weights, full, low))
                        assert not torch.equal(exact, coarse)  # else the test would say nothing
                        assert torch.equal(mine, exact if head in members else coarse), (name, head)
            assert weights.W_in is low.W_in
            assert weights.b_Q is full.b_Q


def test_two_focus_heads_leave_each_other_untouched() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    store = PrecisionStore.build(model, INT8)
    before = {name: value.clone() for name, value in store.low.tensors().items()}
    first, second = store.layer(1, frozenset({(1, 0)})), store.layer(1, frozenset({(1, 2)}))
    for name in QUERY + KEY_VALUE:
        low, full = getattr(store.low.layers[1], name), getattr(model.layers[1], name)
        assert torch.equal(getattr(first, name)[1:], low[1:])
        assert torch.equal(getattr(second, name)[:2], low[:2])
        both = getattr(store.layer(1, frozenset({(1, 0), (1, 2)})), name)
        assert torch.equal(both, torch.stack((full[0], low[1], full[2])))
        assert torch.equal(getattr(store.layer(1, NO_FOCUS), name), low)
    assert all(torch.equal(value, before[name]) for name, value in store.low.tensors().items())


def test_a_layer_without_focus_is_the_low_one() -> None:
    store = PrecisionStore.build(random_model("gpt2", dtype=torch.float32), INT8)
    assert store.layer(0, frozenset({(1, 2)})) is store.low.layers[0]
    assert store.layer(1, NO_FOCUS) is store.low.layers[1]


def test_what_is_rounded_and_what_is_not() -> None:
    model = random_model("qwen", dtype=torch.float32)
    low = PrecisionStore.build(model, INT8).low
    rounded = {
        "W_Q": "int8",
        "W_K": "int8",
        "W_V": "int8",
        "W_O": "int8",
        "W_in": "bf16",
        "W_gate": "bf16",
        "W_out": "bf16",
    }
    for name, value in low.tensors().items():
        original, last = model.tensors()[name], name.split(".")[-1]
        if last in rounded and name.startswith("blocks."):
            assert torch.equal(value, round_trip(original, Format(rounded[last])))
            assert not torch.equal(value, original)
        else:
            assert torch.equal(value, original), name


def test_float32_everywhere_is_the_model_itself() -> None:
    model = random_model("llama")
    store = PrecisionStore.build(model, PrecisionConfig(name="float32", format="float32"))
    assert all(torch.equal(value, store.low.tensors()[name]) for name, value in model.tensors().items())


@pytest.mark.parametrize(
    ("edge", "receiver", "sender"),
    [
        ("a0.h2->a1.h3<q>", (1, 1), (0, 1)),
        ("a0.h1->a1.h1<k>", (1, 1), (0, 0)),
        ("a0.h0->a1.h0<v>", (1, 0), (0, 0)),
        ("m0->a1.h2<q>", (1, 1), None),
        ("embed->a1.h1<q>", (1, 0), None),
        ("a0.h3->m1", None, (0, 1)),
        ("a1.h2->logits", None, (1, 1)),
        ("m0->logits", None, None),
        ("a1.h3<q>", (1, 1), (1, 1)),  # a Direct edge lies within its head, whichever end is asked for
        ("a1.h0<k>", (1, 0), (1, 0)),
    ],
)
def test_focus_rules(edge: str, receiver: tuple[int, int] | None, sender: tuple[int, int] | None) -> None:
    """Two query heads to a key-value head: focus counts key-value heads."""
    graph = build_graph(ModelShape(2, 4, 2, True))
    tested = graph.edges[graph.index_of(edge)]
    ends = {"receiver": {receiver}, "sender": {sender}, "both": {receiver, sender}, "none": set()}
    for rule, expected in ends.items():
        assert focus_of(graph, tested, as_read(rule)) == expected - {None}, rule


def test_without_grouped_queries_the_focus_is_the_head() -> None:
    graph = build_graph(ModelShape(2, 4, 4, False))
    for head in range(4):
        for letter in "qkv":
            edge = graph.edges[graph.index_of(f"a1.h{head}<{letter}>")]
            assert focus_of(graph, edge, "receiver") == {(1, head)}
