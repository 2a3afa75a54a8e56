"""Attention of heads that are projected already, and what ties the heads of a layer to each other behind it."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pahq.model.block import together
from pahq.model.layerweights import LayerWeights
from pahq.model.weights import ModelConfig


def attend(
    config: ModelConfig,
    q: Float[Tensor, "head batch query d_head"],
    k: Float[Tensor, "kv_head batch pos d_head"],
    v: Float[Tensor, "kv_head batch pos d_head"],
) -> Float[Tensor, "head batch query d_head"]:
    """Softmax attention; with fewer queries than positions the queries are the last ones.

    Grouped-query attention repeats each key-value head over its group of query heads.
    """
    if config.kv_heads != config.heads:
        group = config.heads // config.kv_heads
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    return attention(config, q, k, v)


def attend_at_once(
    config: ModelConfig,
    q: Float[Tensor, "head batch query d_head"],
    k: Float[Tensor, "kv_head batch pos d_head"],
    v: Float[Tensor, "kv_head batch pos d_head"],
) -> Float[Tensor, "head batch query d_head"]:
    """``attend`` by torch's own attention, which copies no inputs that lie position by position; without caps."""
    if config.score_cap is not None or config.sum_bias:
        return attend(config, q, k, v)
    queries, positions = q.shape[-2], k.shape[-2]
    future = added_future(queries, positions, q.dtype, q.device, config.causal and queries > 1)
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    z = F.scaled_dot_product_attention(
        q, k, v, future, scale=config.attention_scale, enable_gqa=config.kv_heads != config.heads
    )
    return z.transpose(0, 1)


def attention(
    config: ModelConfig,
    q: Float[Tensor, "*batch query d_head"],
    k: Float[Tensor, "*batch pos d_head"],
    v: Float[Tensor, "*batch pos d_head"],
) -> Float[Tensor, "*batch query d_head"]:
    """Softmax attention of one query head with its own k and v, over any (broadcasting) leading axes.

    Where a bias is added to the sum of a layer's heads before a norm, z has a 1 behind its d_head numbers: the factor
    of the head's part of that bias (``ByLetter.sending``).
    """
    scores = torch.matmul(q, k.transpose(-1, -2))
    scores = scores / config.d_head**0.5 if config.attention_scale is None else scores * config.attention_scale
    scores = capped(scores, config.score_cap)
    queries, positions = scores.shape[-2:]
    if config.causal and queries > 1:
        scores = scores.masked_fill(_future(queries, positions, q.device), float("-inf"))
    z = torch.matmul(scores.softmax(-1), v)
    return F.pad(z, (0, 1), value=1.0) if config.sum_bias else z


def capped(x: Tensor, cap: float | None) -> Tensor:
    """A soft cap: cap * tanh(x / cap), or nothing."""
    return x if cap is None else torch.tanh(x / cap) * cap


def shares(
    config: ModelConfig, layer: LayerWeights, z: Float[Tensor, "head batch pos d_head"]
) -> Float[Tensor, "head batch pos d_head"]:
    """The z of all heads of a layer times the factor of the norm behind them, where there is one.

    A head's output is then its share of the normed sum, and stays linear in z. The factor is common to all heads of the
    layer: when one of them changes, all their outputs do.
    """
    return z * factor(config, together(layer, z)) if config.post_norms else z


def factor(config: ModelConfig, total: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
    """What a norm behind a layer's heads multiplies their sum with, beside its weights."""
    return torch.rsqrt(total.square().mean(-1, keepdim=True) + config.eps)


@lru_cache(maxsize=256)
def _future(queries: int, positions: int, device: torch.device) -> Bool[Tensor, "query pos"]:
    """Which positions lie behind each query; the queries are the last ones. Kept, as it is the same in every call."""
    with torch.inference_mode(False):
        every = torch.ones(queries, positions, dtype=torch.bool, device=device)
        return every.triu(positions - queries + 1)


@lru_cache(maxsize=256)
def added_future(
    queries: int, positions: int, dtype: torch.dtype, device: torch.device, causal: bool
) -> Float[Tensor, "query pos"]:
    """Minus infinity where a position lies behind a query (the last ones), else 0. Kept, since it stays the same."""
    with torch.inference_mode(False):
        if not causal:
            return torch.zeros(1, 1, dtype=dtype, device=device)
        zeros = torch.zeros(queries, positions, dtype=dtype, device=device)
        return zeros.masked_fill_(_future(queries, positions, device), float("-inf"))
