"""Weights held in the bits of their format: codes of 16, 8 or 4 bits beside their scales, and nothing else.

Whoever computes unpacks the heads it needs into a buffer of its own; what comes out is, bit for bit, what
``formats.round_trip`` says the format makes of the weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pahq.config.precision import BITS
from pahq.errors import PahqError
from pahq.model.rows import take
from pahq.precision.formats import HALF, Format, Quantised, dequantise, quantise


@dataclass(frozen=True)
class Packed:
    """A weight [*head, in, out] in ``form``; ``dtype`` is what it was and what it unpacks to.

    ``codes`` has ``in`` rows to a head, of 4-bit formats half as many: row 2i in the low half of a byte, row 2i + 1 in
    the high half, which stays 0 where ``in`` is odd. ``scale`` and ``low`` are as in ``formats.Quantised``.
    """

    form: Format
    shape: tuple[int, ...]
    dtype: torch.dtype
    codes: Shaped[Tensor, "*head rows out"]
    scale: Float[Tensor, "*head group out"] | None = None
    low: Float[Tensor, "*head group out"] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers stored, scales included."""
        return sum(t.numel() * t.element_size() for t in (self.codes, self.scale, self.low) if t is not None)


def pack(weight: Float[Tensor, "*head in out"], form: Format, stored: Quantised | None = None) -> Packed:
    """Store a weight in ``form``: as the numbers ``stored``, if given, else rounded to the nearest.

    PahqError as for ``round_trip``: NaN, infinity, beyond the format's range.

    float32 means the weight as it is, in its own dtype: a copy, so that it keeps no larger tensor alive.
    """
    shape, dtype = tuple(weight.shape), weight.dtype
    if form.name == "float32":
        return Packed(form, shape, dtype, weight.clone(memory_format=torch.contiguous_format))
    stored = stored or quantise(weight, form)
    return Packed(form, shape, dtype, _narrow(stored.codes, form.name), stored.scale, stored.low)


def pack_parts(parts: Iterable[tuple[int, Float[Tensor, "part *rest"]]], form: Format) -> Packed:
    """Store a weight that comes in parts along its leading axis, each with the length of the whole.

    Equal to packing it whole, without the memory for that, if no scale reaches over parts: heads, or rows of a weight
    whose format has no scales.
    """
    whole: Packed | None = None
    first = 0
    for length, part in parts:
        packed = pack(part, form)
        if whole is None:
            room = [
                None if t is None else t.new_empty((length, *t.shape[1:]))
                for t in (packed.codes, packed.scale, packed.low)
            ]
            assert room[0] is not None
            whole = Packed(form, (length, *packed.shape[1:]), packed.dtype, room[0], room[1], room[2])
        place = slice(first, first := first + part.shape[0])
        for target, source in ((whole.codes, packed.codes), (whole.scale, packed.scale), (whole.low, packed.low)):
            if target is not None and source is not None:
                target[place] = source
    assert whole is not None
    assert first == whole.shape[0]
    return whole


def unpack(
    packed: Packed, *, rows: Sequence[int] | slice | None = None, out: Float[Tensor, "*head in out"] | None = None
) -> Float[Tensor, "*head in out"]:
    """The weight of the heads ``rows`` (default: everything) in its own dtype, written into ``out`` if given.

    ``out`` must be of the result's shape; float32 buffers are filled without another one beside them. Raises PahqError
    for a buffer that does not fit.
    """
    codes, scale, low = (None if t is None else _pick(t, rows) for t in (packed.codes, packed.scale, packed.low))
    assert codes is not None
    shape = (*codes.shape[:-2], *packed.shape[-2:])
    if out is None:
        out = torch.empty(shape, dtype=packed.dtype, device=codes.device)
    elif tuple(out.shape) != shape or out.dtype != packed.dtype:
        raise PahqError(
            f"a buffer of {list(out.shape)} in {out.dtype} cannot take a weight of {list(shape)} in {packed.dtype}"
        )
    if packed.form.name in ("float32", *HALF):
        return out.copy_(codes)
    single = out if out.dtype == torch.float32 else torch.empty(shape, device=codes.device)
    dequantise(_widen(codes, single, packed.form.name), scale, low, packed.form)
    return out if single is out else out.copy_(single)


def _pick(tensor: Tensor, rows: Sequence[int] | slice | None) -> Tensor:
    """Heads of a tensor: a view for a run of neighbours, else a copy."""
    if rows is None:
        return tensor
    return tensor[rows] if isinstance(rows, slice) else take(tensor, rows)


def _narrow(codes: Float[Tensor, "*head in out"], name: str) -> Tensor:
    if name in HALF:
        return codes.to(HALF[name])
    if name == "fp8":
        return codes.to(torch.float8_e4m3fn)
    if name == "int8":
        return codes.to(torch.int8)
    assert BITS[name] == 4
    whole = codes.to(torch.int8).view(torch.uint8) & 15  # two's complement in 4 bits where there are signs
    if whole.shape[-2] % 2:
        whole = torch.nn.functional.pad(whole, (0, 0, 0, 1))
    return whole[..., 0::2, :] | (whole[..., 1::2, :] << 4)


def _widen(codes: Tensor, out: Float[Tensor, "*head in out"], name: str) -> Float[Tensor, "*head in out"]:
    """``codes`` as float32 numbers in ``out``."""
    if BITS[name] == 8:
        return out.copy_(codes)
    for part, half in enumerate((codes & 15, codes >> 4)):
        place = out[..., part::2, :]
        place.copy_(half[..., : place.shape[-2], :])
    if name == "int4s":  # 8..15 stand for -8..-1
        out.sub_(16 * (out >= 8))
    return out
