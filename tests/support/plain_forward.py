"""An independent forward pass over TransformerLens-named tensors, one example, head and position at a time.

Written from the definitions (Vaswani et al. 2017; Elhage et al. 2021), sharing nothing with the package. For
models with learned positions: LayerNorm or no norm, with or without MLPs, serial or parallel, causal or bidirectional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def logits(
    tensors: Mapping[str, Tensor],
    tokens: Tensor,
    *,
    causal: bool,
    activation: str,
    eps: float,
    shortformer: bool = False,
    parallel: bool = False,
) -> Tensor:
    """[batch, pos, vocab] logits in float64; ``shortformer``: positions enter at q and k alone (Press et al. 2020).

    ``parallel``: an MLP reads what the heads beside it read (Wang and Komatsuzaki 2021, GPT-J).
    """
    weights = {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
    return torch.stack([_one(weights, row.tolist(), causal, activation, eps, shortformer, parallel) for row in tokens])


def _one(
    weights: Mapping[str, Tensor],
    row: list[int],
    causal: bool,
    activation: str,
    eps: float,
    shortformer: bool,
    parallel: bool,
) -> Tensor:
    stream = [weights["embed.W_E"][token] for token in row]
    places = [weights["pos_embed.W_pos"][p] for p in range(len(row))]
    if not shortformer:
        stream = [x + place for x, place in zip(stream, places, strict=True)]
    nowhere = [torch.zeros_like(place) for place in places]
    layer = 0
    while f"blocks.{layer}.attn.W_Q" in weights:
        block = f"blocks.{layer}."
        before = stream
        stream = _attention(weights, block, stream, places if shortformer else nowhere, causal, eps)
        if block + "mlp.W_in" in weights:
            read = before if parallel else stream
            stream = [x + _mlp(weights, block, y, activation, eps) for x, y in zip(stream, read, strict=True)]
        layer += 1
    unembedding = weights["unembed.W_U"] if "unembed.W_U" in weights else weights["embed.W_E"].T
    final = [_norm(weights, "ln_final", x, eps) for x in stream]
    return torch.stack([x @ unembedding + weights["unembed.b_U"] for x in final])


def _attention(
    weights: Mapping[str, Tensor], block: str, stream: list[Tensor], places: list[Tensor], causal: bool, eps: float
) -> list[Tensor]:
    out = [x + weights[block + "attn.b_O"] for x in stream]
    values = [_norm(weights, block + "ln1", x, eps) for x in stream]
    placed = [x + place for x, place in zip(values, places, strict=True)]
    heads, _, d_head = weights[block + "attn.W_Q"].shape
    for head in range(heads):
        q, k, v = (
            [x @ weights[f"{block}attn.W_{letter}"][head] + weights[f"{block}attn.b_{letter}"][head] for x in read]
            for letter, read in (("Q", placed), ("K", placed), ("V", values))
        )
        for p in range(len(stream)):
            seen = range(p + 1) if causal else range(len(stream))
            scores = torch.stack([torch.dot(q[p], k[other]) / math.sqrt(d_head) for other in seen])
            pattern = scores.exp() / scores.exp().sum()
            z = sum(pattern[i] * v[other] for i, other in enumerate(seen))
            out[p] = out[p] + z @ weights[block + "attn.W_O"][head]
    return out


def _mlp(weights: Mapping[str, Tensor], block: str, x: Tensor, activation: str, eps: float) -> Tensor:
    hidden = _norm(weights, block + "ln2", x, eps) @ weights[block + "mlp.W_in"] + weights[block + "mlp.b_in"]
    if activation == "relu":
        hidden = hidden.clamp(min=0)
    elif activation == "gelu_new":
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    else:
        raise ValueError(activation)
    return hidden @ weights[block + "mlp.W_out"] + weights[block + "mlp.b_out"]


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    if f"{name}.w" not in weights:
        return x
    centred = x - x.sum() / len(x)
    return centred / torch.sqrt((centred * centred).sum() / len(x) + eps) * weights[f"{name}.w"] + weights[f"{name}.b"]
