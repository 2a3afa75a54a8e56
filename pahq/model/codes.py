"""Products in 8 bits: activations are rounded row by row, and codes can be multiplied as they are.

``fp8``: E4M3, a row's largest magnitude to 448; ``int8``: symmetric, to 127. A weight has one scale per output (or per
head), so both scales come out of the sum: (codes of a) @ (codes of w) times the row's scale times the output's.
PyTorch's own kernels take these sums: integers exactly, E4M3 in float32 on a CPU, and on a card in what its 8-bit units
add in, which on Hopper is known to be fewer bits than float32's. Sums in float64 are taken in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.rows import take

LARGEST = {"fp8": 448.0, "int8": 127.0}
_MULTIPLE = 16  # what a card's 8-bit products ask of both sides of a weight
_FP8_CARDS = (8, 9)
_FEWEST = 32  # rows, at which a card begins


@dataclass(frozen=True)
class Coded:
    """Weights of some heads in fp8 or int8: weight[head, in, out] is codes[head, out, in] * scale[head, out]."""

    codes: Shaped[Tensor, "head out in"]
    scale: Float[Tensor, "head out_or_1"]

    def rows(self, heads: list[int]) -> Coded:
        return Coded(take(self.codes, heads), take(self.scale, heads))

    def multiply(self, x: Float[Tensor, "head row inner"], products: str) -> Float[Tensor, "head row out"]:
        """``x @ weight`` in 8 bits; ``x`` may have 1 in place of the head axis."""
        return multiply(x, self, products)


def encode(x: Float[Tensor, "*row inner"], products: str) -> tuple[Shaped[Tensor, "*row inner"], Tensor]:
    """Codes of every row and its scale [*row, 1]: x is about codes * scale. Rows of zeros have scale 1."""
    largest = x.abs().amax(-1, keepdim=True)
    scale = largest / largest.new_full((), LARGEST[products])  # by a tensor: see pahq.precision.formats
    scale = torch.where(scale == 0, 1.0, scale)
    units = x / scale
    if products == "int8":
        return units.round().clamp(-LARGEST["int8"], LARGEST["int8"]).to(torch.int8), scale
    return units.clamp(-LARGEST["fp8"], LARGEST["fp8"]).to(torch.float8_e4m3fn), scale


def multiply(a: Float[Tensor, "head rows inner"], weight: Coded, products: str) -> Float[Tensor, "head rows out"]:
    """``a @ weight`` by the codes of both; ``a`` may have 1 in place of the head axis, which takes one product."""
    codes, scale = encode(a, products)
    heads, out = weight.codes.shape[:2]
    if a.shape[0] == 1:
        together = _sums(codes[0], weight.codes.flatten(0, 1), a.dtype)
        sums = together.view(-1, heads, out).movedim(1, 0)
    else:
        sums = torch.stack([_sums(codes[head], weight.codes[head], a.dtype) for head in range(heads)])
    return sums * scale * weight.scale[:, None].to(a.dtype)


def _sums(a: Tensor, w: Tensor, dtype: torch.dtype) -> Float[Tensor, "rows out"]:
    """Sums of products of codes; a card wants more rows than few, so that it gets zeros."""
    rows, a = len(a), a.contiguous()
    if a.dtype != torch.int8 and dtype == torch.float64:
        return a.to(dtype) @ w.to(dtype).t()
    if a.is_cuda and rows < _FEWEST:
        a = torch.cat((a.view(torch.int8), a.new_zeros((_FEWEST - rows, a.shape[1]), dtype=torch.int8))).view(a.dtype)
    if a.dtype == torch.int8:
        found = torch._int_mm(a, w.t())
    else:
        one = torch.ones((), device=a.device)
        found = torch._scaled_mm(a, w.t(), scale_a=one, scale_b=one, out_dtype=torch.float32)
    return found[:rows].to(dtype)


def check_card(device: torch.device, products: str, d_model: int, d_head: int) -> None:
    """Raise PahqError for codes or sides of a weight that a device cannot multiply."""
    if device.type not in ("cpu", "cuda"):
        raise PahqError(f"precision.kernel=codes runs on cpu and cuda, not on {device.type}; known: unpack")
    if device.type == "cuda" and products == "fp8" and torch.cuda.get_device_capability(device) < _FP8_CARDS:
        raise PahqError("this GPU has no products of fp8 codes (compute capability 8.9 or more); known: kernel=unpack")
    if device.type == "cuda" and (d_model % _MULTIPLE or d_head % _MULTIPLE):
        raise PahqError(
            f"precision.kernel=codes needs d_model and d_head in multiples of {_MULTIPLE} on a GPU, not {d_model} and "
            f"{d_head}; known: precision.kernel=unpack"
        )
