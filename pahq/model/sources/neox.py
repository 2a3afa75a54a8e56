"""The tensors of GPT-NeoX (Pythia) and Phi checkpoints by TransformerLens' names, cut by heads.

They are read from the files as they lie: it takes a few cuts and transposes, and no other library.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pahq.model.weights import ModelConfig

KINDS = ("gpt_neox", "phi")
_ENDS = {
    "gpt_neox": {
        "embed.W_E": "embed_in.weight",
        "ln_final.w": "final_layer_norm.weight",
        "ln_final.b": "final_layer_norm.bias",
        "unembed.W_U": "embed_out.weight",
    },
    "phi": {
        "embed.W_E": "embed_tokens.weight",
        "ln_final.w": "final_layernorm.weight",
        "ln_final.b": "final_layernorm.bias",
        "unembed.W_U": "lm_head.weight",
        "unembed.b_U": "lm_head.bias",
    },
}
_LAYER = {  # what is no matrix of heads; Phi's heads and MLP read through one norm
    "gpt_neox": {
        "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
        "in": "mlp.dense_h_to_4h",
        "out": "mlp.dense_4h_to_h",
        "output": "attention.dense",
    },
    "phi": {
        "ln1": "input_layernorm",
        "ln2": "input_layernorm",
        "in": "mlp.fc1",
        "out": "mlp.fc2",
        "output": "self_attn.dense",
    },
}


def neox_tensors(kind: str, config: ModelConfig, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by TransformerLens' names, from a checkpoint's by their short ones (``short_name``), checked before."""
    tensors = {name: found[source] for name, source in _ENDS[kind].items() if source in found}
    tensors["unembed.W_U"] = tensors.get("unembed.W_U", tensors["embed.W_E"]).T
    names = _LAYER[kind]
    for i in range(config.layers):
        at, block = f"layers.{i}.", f"blocks.{i}."
        for norm in ("ln1", "ln2"):
            tensors[f"{block}{norm}.w"] = found[f"{at}{names[norm]}.weight"]
            tensors[f"{block}{norm}.b"] = found[f"{at}{names[norm]}.bias"]
        for part in ("in", "out"):
            tensors[f"{block}mlp.W_{part}"] = found[f"{at}{names[part]}.weight"].T
            tensors[f"{block}mlp.b_{part}"] = found[f"{at}{names[part]}.bias"]
        tensors[f"{block}attn.W_O"] = found[f"{at}{names['output']}.weight"].T.reshape(config.heads, config.d_head, -1)
        if f"{at}{names['output']}.bias" in found:
            tensors[f"{block}attn.b_O"] = found[f"{at}{names['output']}.bias"]
        for letter, (weight, bias) in _projections(kind, config, found, at).items():
            tensors[f"{block}attn.W_{letter}"] = weight.transpose(1, 2)
            if bias is not None:
                tensors[f"{block}attn.b_{letter}"] = bias
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _projections(
    kind: str, config: ModelConfig, found: Mapping[str, Tensor], at: str
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Weight [head, d_head, d_model] and bias [head, d_head] of Q, K and V; GPT-NeoX has a head's three together."""
    if kind == "gpt_neox":
        name = at + "attention.query_key_value"
        weight, bias = found[name + ".weight"], found.get(name + ".bias")
        weights = weight.view(config.heads, 3, config.d_head, -1).unbind(1)
        biases = [None] * 3 if bias is None else bias.view(config.heads, 3, -1).unbind(1)
        return dict(zip("QKV", zip(weights, biases, strict=True), strict=True))
    parts: dict[str, tuple[Tensor, Tensor | None]] = {}
    for letter in "QKV":
        name, heads = f"{at}self_attn.{letter.lower()}_proj", config.count(letter.lower())
        weight, bias = found[name + ".weight"], found[name + ".bias"]
        parts[letter] = (weight.view(heads, config.d_head, -1), bias.view(heads, -1))
    return parts
