"""An independent float64 forward pass of Llama, Mistral, Qwen2 and Qwen3, from a Hugging Face checkpoint.

It reads the checkpoint's own tensor names and config entries, so that it checks the loader's layout as well
as the forward pass. One example, head and position at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from support.turning import turned


def logits(checkpoint: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Tensor) -> Tensor:
    """[batch, pos, vocab] logits in float64; ``config`` is the parsed config.json."""
    weights = {name: tensor.to(torch.float64) for name, tensor in checkpoint.items()}
    return torch.stack([_one(weights, config, row.tolist()) for row in tokens])


def _one(weights: Mapping[str, Tensor], config: Mapping[str, Any], row: list[int]) -> Tensor:
    eps = config["rms_norm_eps"]
    stream = [weights["model.embed_tokens.weight"][token] for token in row]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        stream = _attention(weights, config, block, stream)
        for p, x in enumerate(stream):
            normed = _rms(x, weights[block + "post_attention_layernorm.weight"], eps)
            gate = weights[block + "mlp.gate_proj.weight"] @ normed
            hidden = gate / (1 + torch.exp(-gate)) * (weights[block + "mlp.up_proj.weight"] @ normed)
            stream[p] = x + weights[block + "mlp.down_proj.weight"] @ hidden
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return torch.stack([head @ _rms(x, weights["model.norm.weight"], eps) for x in stream])


def _attention(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], block: str, stream: list[Tensor]
) -> list[Tensor]:
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    d_head = config.get("head_dim") or config["hidden_size"] // heads
    eps = config["rms_norm_eps"]
    normed = [_rms(x, weights[block + "input_layernorm.weight"], eps) for x in stream]

    def part(letter: str, head: int, position: int) -> Tensor:
        name = f"{block}self_attn.{letter}_proj"
        rows = slice(head * d_head, (head + 1) * d_head)
        out = weights[name + ".weight"][rows] @ normed[position]
        if name + ".bias" in weights:
            out = out + weights[name + ".bias"][rows]
        if letter == "v":
            return out
        scale = f"{block}self_attn.{letter}_norm.weight"
        return turned(_rms(out, weights[scale], eps) if scale in weights else out, position, config["rope_parameters"])

    places = range(len(stream))
    keys = [[part("k", head, p) for p in places] for head in range(groups)]
    values = [[part("v", head, p) for p in places] for head in range(groups)]
    out = []
    for p in places:
        z = []
        for head in range(heads):
            q, shared = part("q", head, p), head // (heads // groups)
            scores = torch.stack([torch.dot(q, keys[shared][other]) / math.sqrt(d_head) for other in range(p + 1)])
            pattern = scores.exp() / scores.exp().sum()
            z.append(sum(pattern[other] * values[shared][other] for other in range(p + 1)))
        update = weights[block + "self_attn.o_proj.weight"] @ torch.cat(z)
        bias = weights.get(block + "self_attn.o_proj.bias")
        out.append(stream[p] + (update if bias is None else update + bias))
    return out


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).sum() / len(x) + eps) * weight
