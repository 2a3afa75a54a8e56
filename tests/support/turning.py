"""Rotary positions of a Hugging Face config.json, pair by pair in plain Python, from the definitions.

Su et al. 2021 (RoFormer); Peng et al. 2023 (YaRN, section 3); Llama 3.1's reference code. It shares nothing with the
package.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def turned(x: Tensor, position: int, rope: Mapping[str, Any]) -> Tensor:
    """A head's query or key at a position; ``rope`` is ``rope_parameters`` of a config.json as transformers 5 writes
    it."""
    dim = turning(rope, len(x))
    half, out = dim // 2, x.clone()
    for i in range(half):
        pair = torch.complex(x[i], x[i + half]) * cmath.rect(growth(rope), position * speed(rope, i, dim))
        out[i], out[i + half] = pair.real, pair.imag
    return out


def turning(rope: Mapping[str, Any], width: int) -> int:
    """How many of a head's first numbers turn."""
    return int(width * rope.get("partial_rotary_factor", 1.0))


def rope_of(config: Any, layer: int | None = None) -> dict[str, Any]:
    """The same entries from a configuration of the package, for a layer of it (None: for those that are not local)."""
    if layer in config.local_layers:
        return {"rope_type": "default", "rope_theta": config.local_base}
    rope = {"rope_type": "default", "rope_theta": config.rotary_base}
    if config.rotary_dim is not None:
        rope["partial_rotary_factor"] = config.rotary_dim / config.d_head
    if config.rotary_scaling is not None:
        given = config.rotary_scaling.model_dump()
        rope |= given | {"rope_type": given["kind"], "original_max_position_embeddings": given["original"]}
    return rope


def speed(rope: Mapping[str, Any], i: int, dim: int) -> float:
    """Radians by which pair ``i`` turns from one position to the next."""
    base, factor = rope["rope_theta"], rope.get("factor", 1.0)
    fast = base ** (-2 * i / dim)
    slow = fast / factor
    kind = rope["rope_type"]
    if kind in ("default", "dynamic"):
        return fast
    if kind == "linear":
        return slow
    context = rope["original_max_position_embeddings"]
    if kind == "llama3":
        wavelength, few, many = 2 * math.pi / fast, rope["low_freq_factor"], rope["high_freq_factor"]
        if wavelength < context / many:
            return fast
        if wavelength > context / few:
            return slow
        share = (context / wavelength - few) / (many - few)
        return (1 - share) * slow + share * fast
    assert kind == "yarn", kind

    def pair_that_turns(times: float) -> float:
        return dim * math.log(context / (2 * math.pi * times)) / (2 * math.log(base))

    first, last = pair_that_turns(rope.get("beta_fast") or 32), pair_that_turns(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    share = min(max((i - first) / ((last - first) or 0.001), 0), 1)
    return share * slow + (1 - share) * fast


def growth(rope: Mapping[str, Any]) -> float:
    """What yarn multiplies rotated numbers with."""
    if rope["rope_type"] != "yarn":
        return 1.0
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    whole, part = rope.get("mscale"), rope.get("mscale_all_dim")
    if whole and part:
        return (0.1 * whole * math.log(rope["factor"]) + 1) / (0.1 * part * math.log(rope["factor"]) + 1)
    return 0.1 * math.log(rope["factor"]) + 1
