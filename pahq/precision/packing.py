"""From a model's layer, in memory or in its file, to what a packed store holds of it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from pahq.model.codes import Coded
from pahq.model.fused import Fused
from pahq.model.layers import SmallWeights
from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model
from pahq.precision.calibrated import Grams, calibrate
from pahq.precision.formats import GROUPS, Format
from pahq.precision.packed import Packed, pack, pack_parts
from pahq.precision.store import ATTENTION


def pack_attention(
    model: Model | ModelFile, index: int, form: Format, inputs: Grams | None
) -> dict[str, Packed | None]:
    """W_Q .. W_O of a layer: rounded to the nearest, or with ``inputs`` calibrated on them."""
    if inputs is None:
        return {name: pack_matrix(model, index, name, form) for name in ATTENTION}
    fields = {name: _field(model, index, name) for name in ATTENTION}
    weights = {name: weight for name, weight in fields.items() if weight is not None}
    stored = calibrate(weights, form, inputs)
    return {name: pack(weight, form, stored[name]) for name, weight in weights.items()}


def pack_matrix(model: Model | ModelFile, index: int, name: str, form: Format) -> Packed | None:
    """A matrix of a layer, packed; from a file one head (or some rows) at a time. Formats go by heads, so it is one."""
    if isinstance(model, ModelFile) and model.has(index, name):
        return pack_parts(model.parts(index, name), form)
    weight = _field(model, index, name)
    return None if weight is None else pack(weight, form)


def by_output(layer: dict[str, Packed]) -> dict[str, Packed]:
    """The same weights, with the codes of q, k and v lying in memory output by output, as 8-bit products read them."""

    def turned(codes: Tensor) -> Tensor:
        return codes.mT.contiguous().mT

    return layer | {name: replace(layer[name], codes=turned(layer[name].codes)) for name in ATTENTION[:3]}


def codes_of(layer: dict[str, Packed], letter: str, kernel: str) -> Coded | Fused:
    """What a kernel multiplies: a letter's codes and scales."""
    weight = layer[f"W_{letter.upper()}"]
    assert weight.scale is not None
    if kernel == "codes":
        return Coded(weight.codes.mT, weight.scale[..., 0, :])
    reach = GROUPS.get(weight.form.scales, weight.shape[-2])
    return Fused(weight.form.name, reach, weight.codes, weight.scale, weight.low)


def small_weights(model: Model | ModelFile, index: int) -> SmallWeights:
    """What of a layer stays as it is: copies, since a view of a checkpoint would keep all of it.

    The table of positions, where layers have one, is the model's own.
    """
    names = (field.name for field in fields(SmallWeights) if field.name not in ("W_pos", "local"))
    values = ((name, _field(model, index, name)) for name in names)
    copies: dict[str, Any] = {name: None if value is None else value.clone() for name, value in values}
    positions = model.ends.W_pos if isinstance(model, ModelFile) else model.W_pos
    placed = positions if model.config.positions == "shortformer" else None
    return SmallWeights(**copies, W_pos=placed, local=index in model.config.local_layers)


def _field(model: Model | ModelFile, index: int, name: str) -> Tensor | None:
    if isinstance(model, ModelFile):
        return model.field(index, name)
    weight: Tensor | None = getattr(model.layers[index], name)
    return weight
