"""Networks whose layers come one by one, and a layer of any kind brought into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pahq.model.layers import PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.model.weights import Embedding, Ends, ModelConfig


@dataclass(frozen=True)
class EndWeights:
    """The ends of a model and nothing between them."""

    config: ModelConfig
    W_E: Embedding
    W_pos: Float[Tensor, "context d_model"] | None
    ln_final_w: Float[Tensor, " d_model"] | None
    ln_final_b: Float[Tensor, " d_model"] | None
    W_U: Float[Tensor, "d_model d_vocab_out"]
    b_U: Float[Tensor, " d_vocab_out"]

    @classmethod
    def of(cls, model: Ends) -> EndWeights:
        return cls(*(getattr(model, field.name) for field in fields(cls)))


@dataclass(frozen=True)
class Streamed(EndWeights):
    """A network whose layers are made when they are asked for, and dropped when the caller drops them."""

    layers: Iterable[LayerWeights] = ()

    @classmethod
    def through(cls, ends: Ends, layers: Iterable[LayerWeights]) -> Streamed:
        return cls(**vars(EndWeights.of(ends)), layers=layers)


def in_memory(layer: LayerWeights, change: Callable[[Tensor], Tensor]) -> PlainLayer:
    """All tensors of a layer of any kind, each of them changed."""
    read = ((field.name, getattr(layer, field.name)) for field in fields(PlainLayer))
    values: dict[str, Any] = {name: change(value) if isinstance(value, Tensor) else value for name, value in read}
    return PlainLayer(**values)
