"""What a weight becomes when it is stored in few bits, after docs/formats.md: [head, in, out] in, float32 numbers out.

Scales and quotients are float32 arithmetic, as that page says; rounding to a floating-point format is done here by
hand, from its number of significant bits and its smallest normal exponent.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

MLP_WEIGHTS, ATTENTION_WEIGHTS = ("W_in", "W_gate", "W_out"), ("W_Q", "W_K", "W_V", "W_O")
HALVES = {"bf16": (8, -126), "fp16": (11, -14)}  # significant bits, exponent of the smallest normal number
E4M3 = (4, -6)
TINY = np.float32(2.0**-24)  # the smallest fp16
ZERO = np.float32(0)


def rounded(x: np.ndarray, bits: int, least: int) -> np.ndarray:
    """To the nearest number of ``bits`` significant bits, ties to even; below 2^``least`` in equal steps."""
    wide = np.asarray(x, dtype=np.float64)
    exponent = np.frexp(wide)[1] - 1  # of numbers in [2^e, 2^(e+1))
    step = np.ldexp(1.0, np.maximum(exponent, least) - bits + 1)
    return np.copysign(np.rint(wide / step) * step, wide).astype(np.float32)


def half(x: np.ndarray) -> np.ndarray:
    return rounded(x, *HALVES["fp16"])


def stored(weight: np.ndarray, name: str, scales: str) -> np.ndarray:
    """The weight after storage, as float32."""
    w = np.asarray(weight, dtype=np.float32)
    if name == "float32":
        return w
    if name in HALVES:
        return rounded(w, *HALVES[name])
    out = np.empty_like(w)
    for place in reaches(w.shape, scales):
        out[place] = one_scale(w[place], name, scales)
    return out


def reaches(shape: tuple[int, ...], scales: str) -> Iterator[tuple[object, ...]]:
    """The places that share a scale."""
    heads, length, width = shape
    size = {"group32": 32, "group64": 64}.get(scales, length)
    for head in range(heads):
        if scales in ("head", "none"):
            yield (head,)
            continue
        for first in range(0, length, size):
            for column in range(width):
                yield (head, slice(first, first + size), column)


def one_scale(w: np.ndarray, name: str, scales: str) -> np.ndarray:
    """Numbers that share one scale; all steps in float32."""
    largest = np.max(np.abs(w))
    if name == "fp8":
        scale = np.float32(1) if scales == "none" else largest / np.float32(448)
        scale = scale if scale > 0 else np.float32(1)
        return rounded(np.clip(w / scale, np.float32(-448), np.float32(448)), *E4M3) * scale
    if name == "int8":
        scale = largest / np.float32(127)
        scale = scale if scale > 0 else np.float32(1)
        return whole(w / scale, -127, 127) * scale
    if name == "int4":
        low = half(np.min(w))
        scale = positive(half((np.max(w) - low) / np.float32(15)))
        return whole((w - low) / scale, 0, 15) * scale + low
    if name == "int4s":
        scale = positive(half(largest / np.float32(7)))
        return whole(w / scale, -7, 7) * scale
    assert name == "nf4", name
    scale = positive(half(largest))
    return nearest_level(w / scale) * scale


def positive(scale: np.ndarray) -> np.ndarray:
    return scale if scale > 0 else TINY


def whole(x: np.ndarray, least: int, most: int) -> np.ndarray:
    """To whole numbers, ties to even; a whole zero has no sign."""
    return np.clip(np.rint(x), np.float32(least), np.float32(most)) + ZERO


def nearest_level(x: np.ndarray) -> np.ndarray:
    """The nearest of NF4's levels; a number on the midpoint of two, as float32 has it, takes the lower."""
    table = nf4_levels()
    midpoints = (table[1:] + table[:-1]) / np.float32(2)
    return table[np.sum(x[..., None] > midpoints, axis=-1)]


def nf4_levels() -> np.ndarray:
    """Quantiles of the normal distribution: 7 below zero, zero, 8 above; divided by the largest."""
    outermost = (1 - 1 / 30 + 1 - 1 / 32) / 2
    quantile = NormalDist().inv_cdf
    below = [-quantile(0.5 + (outermost - 0.5) * i / 7) for i in range(7, 0, -1)]
    above = [quantile(0.5 + (outermost - 0.5) * i / 8) for i in range(1, 9)]
    return (np.array(below + [0.0] + above) / above[-1]).astype(np.float32)


def low_weights(weights: dict[str, np.ndarray], heads: str, scales: str, mlp: str) -> dict[str, np.ndarray]:
    """A network's weights with attention in one format and MLPs in another; all else as it is. float64 again."""
    low = dict(weights)
    for name, value in weights.items():
        kind = name.rsplit(".", 1)[-1]
        if kind in ATTENTION_WEIGHTS:
            low[name] = stored(value, heads, scales).astype(np.float64)
        elif kind in MLP_WEIGHTS:
            low[name] = stored(value, mlp, "row").astype(np.float64)
    return low
