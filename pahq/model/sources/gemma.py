"""The tensors of Gemma and OLMo 2 checkpoints by TransformerLens' names, cut by heads.

They are read from the files as they lie. Gemma stores the weights of its norms less one.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pahq.model.sources.checkpoint import NORMS
from pahq.model.sources.families import NORMED_BEHIND
from pahq.model.weights import ModelConfig

KINDS = NORMED_BEHIND


def gemma_tensors(kind: str, config: ModelConfig, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by TransformerLens' names, from a checkpoint's by their short ones (``short_name``), checked before."""
    tensors = {"embed.W_E": found["embed_tokens.weight"], "ln_final.w": _norm(kind, found["norm.weight"])}
    tensors["unembed.W_U"] = found.get("lm_head.weight", tensors["embed.W_E"]).T
    for i in range(config.layers):
        at, block = f"layers.{i}.", f"blocks.{i}."
        for ours, theirs in NORMS[kind].items():
            tensors[f"{block}{ours}.w"] = _norm(kind, found[f"{at}{theirs}.weight"])
        for letter in "QKV":
            weight = found[f"{at}self_attn.{letter.lower()}_proj.weight"]
            heads = weight.view(config.count(letter.lower()), config.d_head, -1)
            tensors[f"{block}attn.W_{letter}"] = heads.transpose(1, 2)
            if config.sum_bias:
                bias = found[f"{at}self_attn.{letter.lower()}_proj.bias"]
                tensors[f"{block}attn.b_{letter}"] = bias.view(-1, config.d_head)
        output = found[f"{at}self_attn.o_proj.weight"].T
        tensors[f"{block}attn.W_O"] = output.reshape(config.heads, config.d_head, -1)
        if config.sum_bias:
            tensors[f"{block}attn.b_sum"] = found[f"{at}self_attn.o_proj.bias"]
        for letter in "qk" if config.qk_norm else "":
            weight = _norm(kind, found[f"{at}self_attn.{letter}_norm.weight"])
            tensors[f"{block}attn.{letter}_norm.w"] = (
                weight.view(config.count(letter), -1) if config.qk_joint else weight
            )
        for ours, theirs in (("in", "up"), ("gate", "gate"), ("out", "down")):
            tensors[f"{block}mlp.W_{ours}"] = found[f"{at}mlp.{theirs}_proj.weight"].T
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _norm(kind: str, weight: Tensor) -> Tensor:
    return weight if kind == "olmo2" else weight + 1
