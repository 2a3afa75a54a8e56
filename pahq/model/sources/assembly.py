"""Which tensors a model of a configuration has, and the check that a set of tensors is such a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.layers import PLACES, PlainLayer
from pahq.model.weights import Model, ModelConfig

PART = 1 << 20  # numbers that are looked at in one go


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this configuration has."""
    heads, kv, d, e, m = config.heads, config.kv_heads, config.d_model, config.d_head, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (config.d_vocab, d)}
    if config.positions != "rotary":
        shapes["pos_embed.W_pos"] = (config.context, d)

    def add_norm(name: str) -> None:
        if config.norm != "none":
            shapes[f"{name}.w"] = (d,)
        if config.norm == "layer":
            shapes[f"{name}.b"] = (d,)

    for i in range(config.layers):
        block = f"blocks.{i}."
        if config.pre_norms:
            add_norm(block + "ln1")
        if config.post_norms:
            add_norm(block + "ln1_post")
        for letter, count in (("Q", heads), ("K", kv), ("V", kv)):
            shapes[f"{block}attn.W_{letter}"] = (count, d, e)
            shapes[f"{block}attn.b_{letter}"] = (count, e)
        shapes[block + "attn.W_O"] = (heads, e, d)
        shapes[block + "attn.b_O"] = (d,)
        if config.qk_norm:
            shapes[block + "attn.q_norm.w"] = (heads, e) if config.qk_joint else (e,)
            shapes[block + "attn.k_norm.w"] = (kv, e) if config.qk_joint else (e,)
        if m:
            if config.pre_norms:
                add_norm(block + "ln2")
            if config.post_norms:
                add_norm(block + "ln2_post")
            shapes[block + "mlp.W_in"], shapes[block + "mlp.W_out"] = (d, m), (m, d)
            shapes[block + "mlp.b_in"], shapes[block + "mlp.b_out"] = (m,), (d,)
            if config.gated:
                shapes[block + "mlp.W_gate"] = (d, m)
    add_norm("ln_final")
    if not config.tied_embedding:
        shapes["unembed.W_U"] = (d, config.d_vocab_out)
    shapes["unembed.b_U"] = (config.d_vocab_out,)
    if config.sum_bias:
        shapes |= {f"blocks.{i}.attn.b_sum": (d,) for i in range(config.layers)}
    return shapes


_OPTIONAL = ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "mlp.b_in", "mlp.b_out", "unembed.b_U")


def check_shapes(config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """Raise PahqError naming a tensor that is missing (biases may be), unexpected or of a wrong shape."""
    shapes = tensor_shapes(config)
    surplus = sorted(set(found) - set(shapes))
    if surplus:
        raise PahqError(f"model {config.name!r} has no tensor {surplus[0]!r} ({len(surplus)} unexpected in all)")
    for name, shape in shapes.items():
        if name not in found:
            if not name.endswith(_OPTIONAL):
                raise PahqError(f"model {config.name!r} lacks the tensor {name!r} of shape {list(shape)}")
        elif tuple(found[name]) != shape:
            raise PahqError(f"tensor {name!r} has shape {list(found[name])}; {list(shape)} was expected")


def model_from_tensors(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    vocabulary: tuple[str, ...] | None = None,
    tokenizer: str | None = None,
    digest: str = "",
) -> Model:
    """Assemble a model; biases that are missing are zero.

    Raises PahqError, naming the tensor, when one is missing, unexpected, of a wrong shape or not finite.
    """
    check_shapes(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    example = next(iter(tensors.values()))
    checked: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(config).items():
        tensor = tensors.get(name)
        if tensor is None:
            tensor = example.new_zeros(shape)
        if not all_finite(tensor):
            raise PahqError(f"tensor {name!r} holds NaN or infinite values")
        checked[name] = tensor
    positions = checked.get("pos_embed.W_pos")
    layers = []
    for i in range(config.layers):
        named: dict[str, Any] = {attr: checked.get(f"blocks.{i}.{place}") for attr, place in PLACES.items()}
        placed = positions if config.positions == "shortformer" else None
        layers.append(PlainLayer(**named, W_pos=placed, local=i in config.local_layers))
    embedding = checked["embed.W_E"]
    return Model(
        config=config,
        W_E=embedding,
        W_pos=positions,
        layers=tuple(layers),
        ln_final_w=checked.get("ln_final.w"),
        ln_final_b=checked.get("ln_final.b"),
        W_U=embedding.T if config.tied_embedding else checked["unembed.W_U"],
        b_U=checked["unembed.b_U"],
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        digest=digest,
    )


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; part by part, since looking takes as much memory as the tensor has."""
    if tensor.device.type != "cpu":
        return bool(torch.isfinite(tensor).all())
    return all(bool(torch.isfinite(part).all()) for part in torch.split(tensor.reshape(-1), PART))
