"""The fingerprint of rounded levels: the same of either store, another one where any head's level is another."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from support.small_models import random_model

from pahq.config.precision import PrecisionConfig
from pahq.precision.levels import levels_digest
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import PrecisionStore

INT4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_digest_is_of_all_attention_weights_in_their_order(family: str) -> None:
    model = random_model(family, dtype=torch.float32)
    plain = PrecisionStore.build(model, INT4)
    expected = sha256()
    for layer in plain.low.layers:
        for weight in (layer.W_Q, layer.W_K, layer.W_V, layer.W_O):
            expected.update(weight.float().numpy().tobytes())
    assert levels_digest(plain) == expected.hexdigest()
    assert levels_digest(PackedStore.build(model, INT4)) == expected.hexdigest()


def test_a_search_in_float64_has_the_same_levels() -> None:
    model = random_model("gpt2")
    single = PrecisionStore.build(model.to(dtype=torch.float32), INT4)
    assert levels_digest(PrecisionStore.build(model, INT4)) == levels_digest(single)


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O"])
def test_one_level_of_the_last_head_makes_another_digest(name: str) -> None:
    store = PrecisionStore.build(random_model("llama", dtype=torch.float32), INT4)
    changed = getattr(store.low.layers[1], name).clone()
    changed[-1, -1, -1] += 0.5
    layers = (store.low.layers[0], replace(store.low.layers[1], **{name: changed}))
    other = replace(store, low=replace(store.low, layers=layers))
    assert levels_digest(other) != levels_digest(store)
