"""At which positions a node still matters, and tensors that hold those alone."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pahq.model.rows import put

NOWHERE, LAST, EVERYWHERE = 0, 1, 2


def at_need(x: Float[Tensor, "*batch pos d"], need: int) -> Float[Tensor, "*batch some d"]:
    """The positions that ``need`` asks for (a tensor that holds the last one alone stays as it is)."""
    return x if need == EVERYWHERE or x.shape[-2] == 1 else x[..., -1:, :]


def overwrite(place: Tensor, value: Tensor) -> None:
    """Overwrite the positions that ``value`` holds: all, or the last one."""
    if place.shape[-2] == value.shape[-2]:
        place.copy_(value)
    else:
        place[..., -1:, :].copy_(value)


def put_at_need(place: Float[Tensor, "head batch pos d_head"], heads: Sequence[int], values: Tensor) -> None:
    """Overwrite some heads at the positions that ``values`` holds: all, or the last one."""
    put(place if place.shape[-2] == values.shape[-2] else place[..., -1:, :], heads, values)
