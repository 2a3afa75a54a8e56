"""A norm taken apart: linear up to one factor per row, which is what lets products with its input be kept."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.weights import ModelConfig


def scale_of(config: ModelConfig, second_moment: Tensor) -> Tensor:
    """A norm's factor from the mean square of its (centred) input."""
    return torch.rsqrt(second_moment + config.eps)


def second_moment(config: ModelConfig, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """The mean square of a norm's (centred) input."""
    return x.var(-1, correction=0) if config.norm == "layer" else x.square().mean(-1)


def centred(config: ModelConfig, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The linear part of the norm: LayerNorm subtracts the mean, RMSNorm nothing."""
    return x - x.mean(-1, keepdim=True) if config.norm == "layer" else x
