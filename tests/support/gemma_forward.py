"""An independent float64 forward pass of Gemma 2, Gemma 3 (text) and OLMo 2, from a Hugging Face checkpoint.

It reads the checkpoint's own tensor names and config entries, so that it checks the loader's layout as well as the
forward pass. One example, head and position at a time (Gemma Team 2024, 2025; OLMo Team 2025).
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
    weights = {name.removeprefix("model."): tensor.double() for name, tensor in checkpoint.items()}
    return torch.stack([_Network(weights, config).logits(row.tolist()) for row in tokens])


class _Network:
    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        self.w, self.config, self.gemma = weights, config, config["model_type"] != "olmo2"

    def logits(self, row: list[int]) -> Tensor:
        config = self.config
        grown = math.sqrt(config["hidden_size"]) if self.gemma else 1
        stream = [self.w["embed_tokens.weight"][token] * grown for token in row]
        before = ("input_layernorm", "pre_feedforward_layernorm") if self.gemma else (None, None)
        for layer in range(config["num_hidden_layers"]):
            at = f"layers.{layer}."
            mixed = self.attention(layer, [self.norm(at, before[0], x) for x in stream])
            stream = [x + self.norm(at, "post_attention_layernorm", y) for x, y in zip(stream, mixed, strict=True)]
            fed = [self.mlp(at, self.norm(at, before[1], x)) for x in stream]
            stream = [x + self.norm(at, "post_feedforward_layernorm", y) for x, y in zip(stream, fed, strict=True)]
        head = self.w.get("lm_head.weight", self.w["embed_tokens.weight"])
        out = torch.stack([head @ self.norm("", "norm", x) for x in stream])
        return self.bent(out, config.get("final_logit_softcapping"))

    def norm(self, at: str, name: str | None, x: Tensor) -> Tensor:
        if name is None:
            return x
        weight = self.w[f"{at}{name}.weight"]
        return x / torch.sqrt((x * x).sum() / len(x) + self.config["rms_norm_eps"]) * (weight + self.gemma)

    def bent(self, x: Tensor, cap: float | None) -> Tensor:
        return x if cap is None else cap * torch.tanh(x / cap)

    def mlp(self, at: str, x: Tensor) -> Tensor:
        gate = self.w[at + "mlp.gate_proj.weight"] @ x
        if self.gemma:
            active = gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) / 2
        else:
            active = gate / (1 + torch.exp(-gate))
        return self.w[at + "mlp.down_proj.weight"] @ (active * (self.w[at + "mlp.up_proj.weight"] @ x))

    def attention(self, layer: int, read: list[Tensor]) -> list[Tensor]:
        """What all heads send together, by position."""
        config, at, kind = self.config, f"layers.{layer}.self_attn.", self.config["model_type"]
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        width = config["head_dim"] if self.gemma else config["hidden_size"] // heads
        rope = config["rope_parameters"]
        if kind == "gemma3_text":
            rope = rope[config["layer_types"][layer]]

        def parts(letter: str, p: int) -> list[Tensor]:
            y = self.w[f"{at}{letter}_proj.weight"] @ read[p] + self.w.get(f"{at}{letter}_proj.bias", 0)
            if kind == "olmo2" and letter != "v":
                y = self.norm(at, letter + "_norm", y)
            pieces = list(y.split(width))
            if kind == "gemma3_text" and letter != "v":
                pieces = [self.norm(at, letter + "_norm", piece) for piece in pieces]
            return pieces if letter == "v" else [turned(piece, p, rope) for piece in pieces]

        q, k, v = ([parts(letter, p) for p in range(len(read))] for letter in "qkv")
        scale = (config["query_pre_attn_scalar"] if self.gemma else width) ** -0.5
        cap = config["attn_logit_softcapping"] if kind == "gemma2" else None
        out = []
        for p in range(len(read)):
            z = []
            for head in range(heads):
                shared = head * groups // heads
                scores = torch.stack([self.bent(q[p][head] @ k[other][shared] * scale, cap) for other in range(p + 1)])
                pattern = scores.exp() / scores.exp().sum()
                z.append(sum(pattern[other] * v[other][shared] for other in range(p + 1)))
            out.append(self.w[at + "o_proj.weight"] @ torch.cat(z) + self.w.get(at + "o_proj.bias", 0))
        return out
