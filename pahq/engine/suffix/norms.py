"""A norm taken apart: linear up to one factor per row, which is what lets products with its input be kept."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.weights import ModelConfig


def scale_of(config: ModelConfig, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
    """A norm's factor, from its input."""
    if config.norm == "layer":  # in one operation, with what LayerNorm makes of the input beside it
        return torch.native_layer_norm(x, x.shape[-1:], None, None, config.eps)[2]
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + config.eps)


def centred(config: ModelConfig, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The linear part of the norm: LayerNorm subtracts the mean, RMSNorm nothing."""
    return x - x.mean(-1, keepdim=True) if config.norm == "layer" else x
