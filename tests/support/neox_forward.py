"""An independent float64 forward pass of GPT-NeoX (Pythia) and Phi, from a Hugging Face checkpoint.

It reads the checkpoint's own tensor names and config entries, so that it checks the loader's layout as well as the
forward pass. One example, head and position at a time (Black et al. 2022; Gunasekar et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from support.turning import turned


def logits(checkpoint: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Tensor) -> Tensor:
    """[batch, pos, vocab] logits in float64; ``config`` is the parsed config.json."""
    weights = {name: tensor.to(torch.float64) for name, tensor in checkpoint.items()}
    one = _neox if config["model_type"] == "gpt_neox" else _phi
    return torch.stack([one(_Network(weights, config), row.tolist()) for row in tokens])


def _neox(net: _Network, row: list[int]) -> Tensor:
    w, config = net.weights, net.config
    heads = config["num_attention_heads"]
    width = config["hidden_size"] // heads
    stream = [w["gpt_neox.embed_in.weight"][token] for token in row]
    for layer in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{layer}."
        fused = [net.linear(at + "attention.query_key_value", net.norm(at + "input_layernorm", x)) for x in stream]

        def part(letter: int, head: int, p: int, fused: list[Tensor] = fused) -> Tensor:
            start = (3 * head + letter) * width
            return fused[p][start : start + width]

        mixed = net.attention(part, heads, heads, len(row))
        middle = [x + net.linear(at + "attention.dense", z) for x, z in zip(stream, mixed, strict=True)]
        read = stream if config["use_parallel_residual"] else middle
        for p, x in enumerate(read):
            hidden = net.active(net.linear(at + "mlp.dense_h_to_4h", net.norm(at + "post_attention_layernorm", x)))
            middle[p] = middle[p] + net.linear(at + "mlp.dense_4h_to_h", hidden)
        stream = middle
    head = w.get("embed_out.weight", w["gpt_neox.embed_in.weight"])
    return torch.stack([head @ net.norm("gpt_neox.final_layer_norm", x) for x in stream])


def _phi(net: _Network, row: list[int]) -> Tensor:
    w, config = net.weights, net.config
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config["hidden_size"] // heads
    stream = [w["model.embed_tokens.weight"][token] for token in row]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        normed = [net.norm(at + "input_layernorm", x) for x in stream]

        def part(letter: int, head: int, p: int, at: str = at, normed: list[Tensor] = normed) -> Tensor:
            return net.linear(f"{at}self_attn.{'qkv'[letter]}_proj", normed[p])[head * width : (head + 1) * width]

        mixed = net.attention(part, heads, groups, len(row))
        for p, z in enumerate(mixed):
            beside = net.linear(at + "mlp.fc2", net.active(net.linear(at + "mlp.fc1", normed[p])))
            stream[p] = stream[p] + net.linear(at + "self_attn.dense", z) + beside
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return torch.stack([head @ net.norm("model.final_layernorm", x) + w["lm_head.bias"] for x in stream])


class _Network:
    """What both families have in common."""

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.weights, self.config = weights, config

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = self.weights[name + ".weight"] @ x
        return out + self.weights[name + ".bias"] if name + ".bias" in self.weights else out

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.sum() / len(x)
        scale = torch.sqrt((centred * centred).sum() / len(x) + self.config["layer_norm_eps"])
        return centred / scale * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def active(self, x: Tensor) -> Tensor:
        kind = self.config["hidden_act"]
        if kind == "relu":
            return x.clamp(min=0)
        if kind == "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        assert kind in ("gelu_new", "gelu_fast"), kind
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    def attention(self, part: Callable[[int, int, int], Tensor], heads: int, groups: int, length: int) -> list[Tensor]:
        """All heads' mixed values, one after the other, at every position."""
        out, rope = [], self.config["rope_parameters"]
        for p in range(length):
            z = []
            for head in range(heads):
                shared, seen = head * groups // heads, range(p + 1)
                query = turned(part(0, head, p), p, rope)
                keys = [turned(part(1, shared, other), other, rope) for other in seen]
                scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
                pattern = scores.exp() / scores.exp().sum()
                z.append(sum(pattern[other] * part(2, shared, other) for other in seen))
            out.append(torch.cat(z))
        return out
