"""Low-precision formats as quantise-dequantise: what a weight becomes once it has been stored in few bits.

Weights are [head, in, out] (``in`` is the contraction axis). Every head is rounded on its own, so no head's values ever
depend on another's. FP8 E4M3 after Micikevicius et al. 2022 (arXiv 2209.05433); definitions in each function below.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.config import FORMATS, SCALES
from pahq.errors import PahqError, unknown

FP8_MAX = 448.0
INT8_MAX = 127.0
INT4_LEVELS = 15.0
GROUP = 32
BITS = {"float32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "int4": 4}


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


def round_trip(weight: Float[Tensor, "*head in out"], form: Format) -> Float[Tensor, "*head in out"]:
    """The weight after storage in ``form``, in its own dtype again.

    Raises PahqError if a value does not fit the format's range (fp16, and the fp16 scales of int4).
    """
    if form.name == "float32":
        return weight
    w = weight.float()
    if form.name == "bf16":
        stored = w.bfloat16().float()
    elif form.name == "fp16":
        stored = _fp16(w, "a weight").float()
    elif form.name == "fp8":
        stored = _fp8(w, form.scales)
    elif form.name == "int8":
        stored = _int8(w, form.scales)
    else:
        stored = _int4(w, form.scales)
    return stored.to(weight.dtype)


def _largest(w: Tensor, scales: str) -> Tensor:
    return w.abs().amax((-2, -1) if scales == "head" else -2, keepdim=True)


def _fp8(w: Tensor, scales: str) -> Tensor:
    """Scale the largest magnitude to 448, clamp (a bare cast would overflow to NaN), round to E4M3, scale back."""
    scale = torch.ones_like(w[..., :1, :1]) if scales == "none" else _largest(w, scales) / FP8_MAX
    scale = torch.where(scale == 0, 1.0, scale)
    return (w / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float() * scale


def _int8(w: Tensor, scales: str) -> Tensor:
    """Symmetric: the largest magnitude becomes 127."""
    scale = _largest(w, scales) / INT8_MAX
    scale = torch.where(scale == 0, 1.0, scale)
    return (w / scale).round().clamp(-INT8_MAX, INT8_MAX) * scale


def _int4(w: Tensor, scales: str) -> Tensor:
    """Asymmetric: 16 levels from a group's smallest to its largest value; scale and smallest value in fp16."""
    if scales != "group32":
        return _int4_group(w, (-2, -1) if scales == "head" else (-2,))
    whole = w.shape[-2] - w.shape[-2] % GROUP
    parts = []
    if whole:
        grouped = w[..., :whole, :].reshape(*w.shape[:-2], whole // GROUP, GROUP, w.shape[-1])
        parts.append(_int4_group(grouped, (-2,)).flatten(-3, -2))
    if whole < w.shape[-2]:  # the contraction axis need not be a multiple of the group: the last group is shorter
        parts.append(_int4_group(w[..., whole:, :], (-2,)))
    return torch.cat(parts, dim=-2)


def _int4_group(w: Tensor, axes: tuple[int, ...]) -> Tensor:
    low = _fp16(w.amin(axes, keepdim=True), "a group's smallest weight").float()
    scale = _fp16((w.amax(axes, keepdim=True) - low) / INT4_LEVELS, "a group's scale").float()
    scale = torch.where(scale <= 0, 2.0**-24, scale)  # a constant group, or a spread that fp16 cannot tell from none
    return ((w - low) / scale).round().clamp(0, INT4_LEVELS) * scale + low


def _fp16(values: Tensor, what: str) -> Tensor:
    half = values.half()
    if not torch.isfinite(half).all():
        raise PahqError(f"{what} of magnitude {float(values.abs().max()):.3g} does not fit fp16 (largest: 65504)")
    return half
