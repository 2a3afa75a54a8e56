"""Rotary positions (Su et al. 2021, RoFormer): how fast each pair of a query's or key's numbers turns, and the turning.

Pairs lie half a rotation apart (Llama's layout): of ``rotary_dim`` numbers, number i turns with number
i + rotary_dim / 2. Numbers behind the first ``rotary_dim`` of a head do not turn.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

if TYPE_CHECKING:
    from pahq.model.weights import ModelConfig


class RotaryScaling(BaseModel):
    """How a model's rotary positions were stretched to a longer context; the names are those of transformers.

    ``linear``: every pair turns slower by ``factor``. ``dynamic``: as if unscaled up to the model's context, which no
    prompt exceeds. ``llama3`` (Llama 3.1): pairs that turn more often than ``high_freq_factor`` times within the
    ``original`` context stay, those below ``low_freq_factor`` turns are slowed down, between them it is in parts.
    ``yarn`` (Peng et al. 2023, arXiv 2309.00071): the same idea by the number of the pair (``beta_fast``,
    ``beta_slow``; ``truncate``: to whole numbers), and rotated numbers grow by ``attention_factor``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: PositiveFloat
    original: PositiveInt | None = None
    low_freq_factor: PositiveFloat | None = None
    high_freq_factor: PositiveFloat | None = None
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    truncate: bool = True
    attention_factor: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> RotaryScaling:
        if self.kind in ("llama3", "yarn") and self.original is None:
            raise ValueError(f"rope scaling {self.kind} needs the original context")
        low, high = self.low_freq_factor, self.high_freq_factor
        if self.kind == "llama3" and (low is None or high is None or low >= high):
            raise ValueError(f"rope scaling llama3 needs low_freq_factor below high_freq_factor, not {low} and {high}")
        return self


def frequencies(base: float, dim: int, scaling: RotaryScaling | None) -> Float[Tensor, " half"]:
    """By how many radians each pair of ``dim`` numbers turns from one position to the next, in float64."""
    speed = base ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    if scaling is None or scaling.kind == "dynamic":
        return speed
    if scaling.kind == "linear":
        return speed / scaling.factor
    slow = _llama3(speed, scaling) if scaling.kind == "llama3" else _yarn(base, dim, scaling)
    return slow * speed / scaling.factor + (1 - slow) * speed


def _llama3(speed: Float[Tensor, " half"], scaling: RotaryScaling) -> Float[Tensor, " half"]:
    """How much of each pair is slowed down, 0 to 1, by how often it turns within the original context."""
    assert scaling.original is not None
    assert scaling.low_freq_factor is not None
    assert scaling.high_freq_factor is not None
    turns = scaling.original * speed / (2 * math.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return 1 - kept.clamp(0, 1)


def _yarn(base: float, dim: int, scaling: RotaryScaling) -> Float[Tensor, " half"]:
    """How much of each pair is slowed down, 0 to 1, by its number."""
    assert scaling.original is not None
    first, last = (
        dim * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    if first == last:
        last += 0.001
    return ((torch.arange(dim // 2, dtype=torch.float64) - first) / (last - first)).clamp(0, 1)


def rotate(
    config: ModelConfig, x: Float[Tensor, "*batch pos d_head"], first: int, *, local: bool = False
) -> Float[Tensor, "*batch pos d_head"]:
    """Turn queries or keys by their positions; ``first`` is the position of ``x[..., 0, :]``.

    ``local``: by the model's local base, without scaling.

    Angles are computed in float64, so the dtype of x alone sets the precision.
    """
    dim = config.rotary_dim or config.d_head
    base, scaling = (config.local_base, None) if local else (config.rotary_base, config.rotary_scaling)
    cos, sin = _angles(base, dim, scaling, first, x.shape[-2], x.dtype, x.device)
    left, right = x[..., : dim // 2], x[..., dim // 2 : dim]
    still = () if dim == x.shape[-1] else (x[..., dim:],)
    return torch.cat((left * cos - right * sin, right * cos + left * sin, *still), dim=-1)


@lru_cache(maxsize=256)
def _angles(
    base: float,
    dim: int,
    scaling: RotaryScaling | None,
    first: int,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Float[Tensor, "pos half"], Float[Tensor, "pos half"]]:
    """Cosine and sine of the angles by which ``rotate`` turns. Kept, as they are the same in every call."""
    with torch.inference_mode(False):
        position = torch.arange(first, first + length, dtype=torch.float64)
        angle = position[:, None] * frequencies(base, dim, scaling)
        grown = 1.0 if scaling is None else scaling.attention_factor
        return (grown * angle.cos()).to(device, dtype), (grown * angle.sin()).to(device, dtype)
