"""Low-precision formats: the numbers that a weight is stored as, and what it becomes when it is read again.

Weights are [head, in, out] (``in`` is the contraction axis). Every head is rounded on its own, so no head's values ever
depend on another's. ``docs/formats.md`` has each definition with its error bound; FP8 E4M3 after Micikevicius et al.
2022 (arXiv 2209.05433), NF4 after Dettmers et al. 2023 (QLoRA, arXiv 2305.14314).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.config.precision import FORMATS, SCALES
from pahq.errors import PahqError, unknown

FP8_MAX = 448.0
INT8_MAX = 127.0
INT4_LEVELS = 15.0
INT4_MAX = 7.0
SMALLEST = 2.0**-24  # the smallest positive fp16: the scale of a group whose spread fp16 cannot tell from none
GROUPS = {"group32": 32, "group64": 64}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Format:
    """A format and how far one scale reaches: ``row`` (one output), ``head``, ``group32`` (along in), ``none``."""

    name: str
    scales: str = "row"

    def __post_init__(self) -> None:
        if self.name not in FORMATS:
            raise unknown("format", self.name, FORMATS)
        allowed = SCALES.get(self.name)
        if allowed and self.scales not in allowed:
            raise PahqError(f"format {self.name} has no scales {self.scales!r}; known: {', '.join(allowed)}")


@dataclass(frozen=True)
class Quantised:
    """A weight as numbers in the units of its scales; a group has one row of ``scale`` (1 wide for ``head``).

    ``codes`` are whole numbers for integer formats, places in the table of 16 levels for nf4, E4M3 values for fp8 and
    the rounded weight itself where there are no scales, each in float32. ``scale`` is float32 for 8 bits and fp16 for
    4; ``low`` (int4) is each group's smallest value in fp16.
    """

    codes: Float[Tensor, "*head in out"]
    scale: Float[Tensor, "*head group out"] | None = None
    low: Float[Tensor, "*head group out"] | None = None


def round_trip(weight: Float[Tensor, "*head in out"], form: Format) -> Float[Tensor, "*head in out"]:
    """The weight after storage in ``form``, in its own dtype again.

    Raises PahqError, except for float32, if a value is NaN or infinite or does not fit the format's range (bf16, fp16,
    and the fp16 constants of 4-bit groups).
    """
    if form.name == "float32":
        return weight
    stored = quantise(weight, form)
    return dequantise(stored.codes, stored.scale, stored.low, form).to(weight.dtype)


def quantise(weight: Float[Tensor, "*head in out"], form: Format) -> Quantised:
    """The numbers that ``form`` stores. Raises as ``round_trip`` does."""
    w = weight.float().contiguous()
    if not torch.isfinite(w).all():
        raise PahqError(f"a weight is NaN or infinite; format {form.name} stores finite numbers")
    if form.name in HALF:
        return Quantised(_fitting(w, HALF[form.name], "a weight").float())
    if form.name == "fp8" and form.scales == "none":
        return Quantised(levels(w, None, None, form.name))
    codes, scales, lows = [], [], []
    for block in blocks(w, form):
        scale, low = _constants(block, form)
        codes.append(levels(block, scale, low, form.name).flatten(-3, -2))
        scales.append(scale[..., 0, :])
        lows += [] if low is None else [low[..., 0, :]]
    return Quantised(torch.cat(codes, -2), torch.cat(scales, -2), torch.cat(lows, -2) if lows else None)


def dequantise(codes: Tensor, scale: Tensor | None, low: Tensor | None, form: Format) -> Float[Tensor, "*head in out"]:
    """From the units of the scales back to weights, in place: ``codes`` is float32 and is what is returned."""
    if form.name == "nf4":
        codes.copy_(_levels_on(codes.device)[codes.to(torch.uint8).int()])
    first = 0
    if scale is not None:
        for block in blocks(codes, form):
            groups = slice(first, first := first + block.shape[-3])
            block.mul_(scale[..., groups, None, :].float())
            if low is not None:
                block.add_(low[..., groups, None, :].float())
    return codes


def blocks(w: Float[Tensor, "*head in out"], form: Format) -> Iterator[Float[Tensor, "*head group member out"]]:
    """Views of a weight by group: all whole groups, then the shorter last one if ``in`` is no multiple."""
    length = w.shape[-2]
    size = min(GROUPS.get(form.scales, length), length)
    whole = length - length % size
    lead, out = w.shape[:-2], w.shape[-1]
    yield w[..., :whole, :].view(*lead, whole // size, size, out)
    if whole < length:
        yield w[..., None, whole:, :]


def _constants(block: Tensor, form: Format) -> tuple[Tensor, Tensor | None]:
    """Scale (and smallest value) of each group, [*head, group, 1, out or 1]."""
    axes = (-2, -1) if form.scales == "head" else (-2,)
    if form.name == "int4":
        low = _fitting(block.amin(axes, keepdim=True), torch.float16, "a group's smallest weight")
        spread = _divided(block.amax(axes, keepdim=True) - low.float(), INT4_LEVELS)
        return _positive(_fitting(spread, torch.float16, "a group's scale")), low
    largest = block.abs().amax(axes, keepdim=True)
    if form.name in ("int4s", "nf4"):
        unit = _divided(largest, INT4_MAX) if form.name == "int4s" else largest
        return _positive(_fitting(unit, torch.float16, "a group's scale")), None
    steps = FP8_MAX if form.name == "fp8" else INT8_MAX
    scale = _divided(largest, steps)
    if not torch.isfinite(scale * steps).all():  # the scale was rounded up
        raise PahqError(
            f"a weight of magnitude {float(largest.max()):.3g} does not fit {form.name}: it would read as inf"
        )
    return torch.where(scale == 0, 1.0, scale), None


def _divided(x: Tensor, by: float) -> Tensor:
    """``x / by``, to the last bit on every device: for a Python number a GPU multiplies by its rounded reciprocal, and
    weights would be off by a bit now and then."""
    return x / x.new_full((), by)


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale <= 0, SMALLEST, scale)


def levels(w: Tensor, scale: Tensor | None, low: Tensor | None, name: str) -> Tensor:
    """Values in units of the scale, rounded to the nearest level (ties to even)."""
    if low is not None:
        w = w - low.float()
    if scale is not None:
        w = w / scale.float()
    if name == "fp8":  # clamped, since a bare cast overflows to NaN
        return w.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float()
    if name == "nf4":
        table = _levels_on(w.device)
        return torch.bucketize(w, (table[1:] + table[:-1]) / 2).float()
    least, most = {"int8": (-INT8_MAX, INT8_MAX), "int4": (0.0, INT4_LEVELS), "int4s": (-INT4_MAX, INT4_MAX)}[name]
    return w.round().clamp(least, most) + 0.0  # whole numbers know no negative zero


@cache
def nf4_levels() -> Float[Tensor, "16"]:
    """The 16 levels of NormalFloat: quantiles of the normal distribution, scaled to [-1, 1], with an exact zero.

    Dettmers et al. 2023, section 3: evenly spaced probabilities from the outermost to 1/2, 8 of them on the negative
    and 9 on the positive side, the zero that both have counted once. The outermost probability lies halfway between
    1 - 1/30 and 1 - 1/32, so that the two sides' outermost levels are one and the same.
    """
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    positive = torch.special.ndtri(torch.linspace(0.5, outermost, 9, dtype=torch.float64))
    negative = -torch.special.ndtri(torch.linspace(0.5, outermost, 8, dtype=torch.float64))
    levels = torch.cat((negative.flip(0), positive[1:]))
    return (levels / levels.abs().max()).float() + 0.0  # its zero has no sign


@cache
def _levels_on(device: torch.device) -> Float[Tensor, "16"]:
    """Sent there once."""
    return nf4_levels().to(device)


def _fitting(values: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    half = values.to(dtype)
    if not torch.isfinite(half).all():
        name, most = ("fp16", "65504") if dtype == torch.float16 else ("bf16", "3.39e+38")
        raise PahqError(f"{what} of magnitude {float(values.abs().max()):.3g} does not fit {name} (largest: {most})")
    return half
