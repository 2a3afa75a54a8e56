"""Bits of weight that a search used, counted by hand."""

from __future__ import annotations

import pytest
from support.small_models import random_model

from pahq.config.precision import PrecisionConfig
from pahq.precision.bits import bits_share

INT4 = PrecisionConfig(name="int4", format="int4", scales="row", mlp="bf16")


@pytest.mark.parametrize("family", ["gpt2", "llama", "attention-only"])
def test_bits_by_hand(family: str) -> None:
    """Of a focus one key-value head counts, with all the query heads that read it; a gated MLP has three matrices."""
    model = random_model(family, layers=3)
    config = model.config
    shares = {
        "all low": bits_share(model, INT4, low=10, focused=0, full=0, tests=10),
        "all full": bits_share(model, INT4, low=0, focused=0, full=10, tests=10),
        "both": bits_share(model, INT4, low=10, focused=0, full=5, tests=10),
        "focus": bits_share(model, INT4, low=10, focused=10, full=0, tests=10),
        "half of them": bits_share(model, INT4, low=5, focused=0, full=0, tests=10),
    }
    matrix = config.d_model * config.d_head
    heads = config.layers * (2 * config.heads + 2 * config.kv_heads) * matrix
    group = (2 * (config.heads // config.kv_heads) + 2) * matrix
    mlp = config.layers * (3 if config.gated else 2) * config.d_model * config.d_mlp
    low = (4 * heads + 16 * mlp) / (32 * (heads + mlp))
    assert shares["all low"] == pytest.approx(low)
    assert shares["all full"] == 1
    assert shares["both"] == pytest.approx(low + 0.5)
    assert shares["focus"] == pytest.approx(low + 28 * group / (32 * (heads + mlp)))
    assert shares["half of them"] == pytest.approx(low / 2)
