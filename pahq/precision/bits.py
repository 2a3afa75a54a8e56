"""How many bits of weight a search used: the share of full precision's, averaged over its tests."""

from __future__ import annotations

from pahq.config.precision import BITS, PrecisionConfig
from pahq.model.weights import Model
from pahq.precision.store import ATTENTION, MLP


def bits_share(model: Model, precision: PrecisionConfig, *, low: int, focused: int, full: int, tests: int) -> float:
    """Bits of attention and MLP weights in a test's network, mean over ``tests``, of 32 each; scales are not counted.

    ``low`` tests ran the network of ``precision``, and ``focused`` counts the groups of heads that were in full
    precision in them; ``full`` tests ran the full-precision network, be it alone or also; passes that only carry a
    state on count as tests of it.
    """
    heads: int = sum(getattr(layer, name).numel() for layer in model.layers for name in ATTENTION)
    weights = [getattr(layer, name) for layer in model.layers for name in MLP]
    mlp: int = sum(weight.numel() for weight in weights if weight is not None)
    group = heads / (len(model.layers) * model.config.kv_heads)
    bits = BITS[precision.format]
    used = low * (bits * heads + BITS[precision.mlp] * mlp) + focused * (32 - bits) * group
    return (used / (heads + mlp) / 32 + full) / tests
