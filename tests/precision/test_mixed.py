"""A layer of heads in two precisions: each head's product with its own weights, the two kinds as the schedule says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.small_models import random_model
from torch import Tensor

from pahq.config.precision import PrecisionConfig
from pahq.model.forward import normalise
from pahq.model.products import product
from pahq.precision.mixed import heads_by_focus, outputs_mixed, project_mixed
from pahq.precision.packedstore import PackedStore
from pahq.precision.schedule import Serial
from pahq.precision.store import NO_FOCUS, Focus, PrecisionStore

FOCI: tuple[Focus, ...] = (
    NO_FOCUS,
    frozenset({(1, 0)}),
    frozenset({(1, 2), (0, 0)}),
    frozenset((1, head) for head in range(3)),
)
FORMATS = {
    "int8": PrecisionConfig(name="p", format="int8", mlp="bf16"),
    "bf16 products": PrecisionConfig(name="p", format="bf16", scales="none", mlp="bf16", compute="bf16"),
}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("focus", FOCI)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("read", [1, 3])
def test_each_head_is_multiplied_with_its_own_weights(focus: Focus, form: str, read: int) -> None:
    """Also where all heads read one stream; products of heads in focus are in full precision too."""
    model, layer = random_model("gpt2"), 1
    config, precision = model.config, FORMATS[form]
    plain = PrecisionStore.build(model, precision)
    full, low = plain.full.layers[layer], plain.low.layers[layer]
    x, z = drawn(read, 2, 4, config.d_model), drawn(3, 2, 4, config.d_head)
    inputs = normalise(config, x, full.ln1_w, full.ln1_b).expand(3, -1, -1, -1)
    for store in (plain, PackedStore.build(model, precision)):
        weights = store.layer(layer, focus)
        for letter in "qkv":
            found = project_mixed(store, weights, letter, x)
            for head in range(3):
                exact = (layer, head) in focus
                weight = (full if exact else low).weight(letter)[head]
                expected = product(inputs[head], weight, "float32" if exact else precision.compute)
                assert torch.allclose(found[head], expected + full.bias(letter)[head, None], atol=1e-12, rtol=0)
        found = outputs_mixed(store, weights, z)
        for head in range(3):
            weight = (full if (layer, head) in focus else low).W_O[head]
            assert torch.allclose(found[head], z[head] @ weight, atol=1e-12, rtol=0)


def test_heads_are_told_apart_by_their_focus_and_with_grouped_queries_by_their_group() -> None:
    store = PrecisionStore.build(random_model("llama"), FORMATS["int8"])
    weights = store.layer(1, frozenset({(1, 1), (0, 0)}))
    assert heads_by_focus(store, weights, "q") == ([2, 3], [0, 1])
    assert heads_by_focus(store, weights, "k") == ([1], [0])
    assert heads_by_focus(store, weights, "o") == ([2, 3], [0, 1])
    assert heads_by_focus(store, store.layer(1, NO_FOCUS), "v") == ([], [0, 1])


def test_where_heads_are_exact_anyway_a_focus_tells_none_apart() -> None:
    store = PackedStore.build(random_model("gpt2"), PrecisionConfig(name="p", format="float32", mlp="bf16"))
    assert heads_by_focus(store, store.layer(1, frozenset({(1, 1)})), "q") == ([], [0, 1, 2])


@pytest.mark.parametrize("focus", FOCI)
def test_a_schedule_is_asked_where_there_are_heads_of_both_kinds(focus: Focus, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given the heads in focus first, and both pieces of work are for it to run."""
    ran: list[tuple[int, int]] = []

    def both(self: Serial, high: Callable[[], Tensor], low: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        exact, coarse = high(), low()
        ran.append((len(exact), len(coarse)))
        return exact, coarse

    monkeypatch.setattr(Serial, "both", both)
    model = random_model("gpt2")
    store = PrecisionStore.build(model, FORMATS["int8"])
    weights = store.layer(1, focus)
    project_mixed(store, weights, "q", drawn(1, 2, 4, model.config.d_model))
    outputs_mixed(store, weights, drawn(3, 2, 4, model.config.d_head))
    count = sum(layer == 1 for layer, _ in focus)
    assert ran == ([(count, 3 - count)] * 2 if 0 < count < 3 else [])


@pytest.mark.parametrize("read", [1, 4])
def test_of_four_heads_that_read_one_stream_one_or_three_are_in_focus(read: int) -> None:
    model = random_model("gpt2", heads=4, kv_heads=4)
    store = PrecisionStore.build(model, FORMATS["int8"])
    full, low = store.full.layers[1], store.low.layers[1]
    x = drawn(read, 2, 4, model.config.d_model)
    inputs = normalise(model.config, x, full.ln1_w, full.ln1_b)
    for focus in ({0}, {0, 2, 3}):
        found = project_mixed(store, store.layer(1, frozenset((1, head) for head in focus)), "q", x)
        for head in range(4):
            expected = inputs[head % read] @ (full if head in focus else low).W_Q[head] + full.b_Q[head]
            assert torch.allclose(found[head], expected, atol=1e-12, rtol=0)
