"""Weights on which a format can go wrong: zeros of both signs, denormals, huge and equal numbers, exact ties."""

from __future__ import annotations

import numpy as np

from support.numpy_oracle.formats import nf4_levels

LARGEST = {
    "bf16": 3.3e38,
    "fp16": 65504.0,
    "fp8": 3.3e38,
    "int8": 3.3e38,
    "int4": 65504.0,
    "int4s": 4e5,
    "nf4": 65504.0,
}
KINDS = ("plain", "tailed", "tiny", "huge", "ties", "equal", "shifted", "patchy")


def weights(name: str, kind: str, rng: np.random.Generator) -> np.ndarray:
    """[head, in, out] float32 numbers that the format can hold; ``in`` is often no multiple of a group."""
    shape = (rng.integers(1, 4), rng.choice([1, 7, 31, 32, 33, 64, 70, 130]), rng.integers(1, 4))
    w = rng.standard_normal(shape)
    if kind == "tailed":
        w = w**3 * 10.0 ** rng.integers(-6, 3)
    elif kind == "tiny":
        w = w * 10.0 ** rng.integers(-45, -5)
    elif kind == "huge":
        w = np.clip(w, -1, 1) * LARGEST[name]
    elif kind == "ties":
        w = ties(name, shape, rng)
    elif kind == "equal":
        w = np.full(shape, w.flat[0])
    elif kind == "shifted":
        w = w * 10.0 ** rng.integers(-4, 1) + rng.standard_normal(shape[2])
    elif kind == "patchy":
        w = np.where(rng.random(shape) < 0.5, np.copysign(0.0, w), w)
        w[:, :, 0] = 0.0  # whole rows and, if short enough, whole heads of zeros
        w[:, : shape[1] // 2] = 0.0
    return w.astype(np.float32)


def ties(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers halfway between two levels of the format, whose scale is a power of two."""
    half_steps = rng.integers(0, 2**8, shape) * 2 + 1  # odd: one bit more than a format of 9 bits has
    signs = rng.choice([-1.0, 1.0], shape)
    if name in ("bf16", "fp16"):
        bits = {"bf16": 8, "fp16": 11}[name]
        w = signs * (rng.integers(2 ** (bits - 1), 2**bits, shape) + 0.5) * 2.0 ** rng.integers(-30, 4)
    elif name == "fp8":  # with the largest 448 the scale is 1
        w = signs * np.ldexp(rng.integers(8, 16, shape) + 0.5, rng.integers(-12, 5, shape))
    elif name == "nf4":
        table = nf4_levels()
        w = rng.choice((table[1:] + table[:-1]) / 2, shape)
    else:
        most = {"int8": 127, "int4": 15, "int4s": 7}[name]
        w = (half_steps % (2 * most)) / 2 * (1 if name == "int4" else signs)
    ends = {"fp8": 448.0, "nf4": 1.0, "int8": 127.0, "int4": 15.0, "int4s": 7.0}
    if name in ends:
        w[:, :: min(32, shape[1])] = ends[name]
        if name == "int4" and shape[1] > 1:
            w[:, 1 :: min(32, shape[1])] = 0.0
    return w * 1.0
