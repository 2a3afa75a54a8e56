"""How far off a format's weights are: of all heads, of all MLPs, and of the worse of the two."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_models import random_model

from pahq.config.precision import PrecisionConfig
from pahq.model.weights import Model
from pahq.precision.error import PART, format_error
from pahq.precision.formats import Format, round_trip
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import ATTENTION, MLP, PrecisionStore


def error_of(model: Model, names: tuple[str, ...], form: Format) -> float:
    """Of all weights of those names in one long row."""
    kept = [getattr(layer, name) for layer in model.layers for name in names]
    weights = [weight for weight in kept if weight is not None]
    exact = torch.cat([weight.flatten() for weight in weights])
    rounded = torch.cat([round_trip(weight, form).flatten() for weight in weights])
    return float((rounded - exact).norm() / exact.norm())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_worse_kind_of_weights_counts(family: str) -> None:
    model = random_model(family, d_model=PART + 6, d_mlp=PART // 2)  # more rows, and fewer, than are looked at together
    full = PrecisionStore.of(model)
    cases = [
        ("int8", "float32", ATTENTION),
        ("float32", "bf16", MLP),
        ("int8", "bf16", ATTENTION),
        ("fp16", "bf16", MLP),
    ]
    for form, mlp, names in cases:
        low = PrecisionStore.build(model, PrecisionConfig(name="p", format=form, mlp=mlp))
        expected = error_of(model, names, Format(form) if names is ATTENTION else Format(mlp))
        assert 0 < format_error(full, low) == pytest.approx(expected, rel=1e-9)
    assert format_error(full, full) == 0.0


def test_a_model_without_mlps_has_the_error_of_its_heads() -> None:
    model = random_model("attention-only")
    low = PrecisionStore.build(model, PrecisionConfig(name="p", format="int8", mlp="bf16"))
    assert format_error(PrecisionStore.of(model), low) == pytest.approx(error_of(model, ATTENTION, Format("int8")))


def test_operands_that_are_rounded_as_well_make_it_the_root_of_two_times_larger() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    weights, products = (
        PrecisionStore.build(model, PrecisionConfig(name="p", format="bf16", scales="none", mlp="bf16", compute=how))
        for how in ("float32", "bf16")
    )
    full = PrecisionStore.of(model)
    assert format_error(full, products) == pytest.approx(math.sqrt(2) * format_error(full, weights))


def test_a_packed_networks_error_is_a_plain_ones() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    precision = PrecisionConfig(name="p", format="int4", scales="group32", mlp="bf16")
    packed = PackedStore.build(model, precision)
    plain = format_error(PrecisionStore.of(model), PrecisionStore.build(model, precision))
    assert format_error(packed.beside(), packed) == plain
