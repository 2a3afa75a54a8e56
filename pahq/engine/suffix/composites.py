"""MLP inputs that only heads changed: from a head's z straight to the hidden layer.

The norm is linear up to one factor per row, so the hidden layer's product with the current input can be kept, and a
changed head adds z . (W_O W_in): d_head wide instead of d_model. Half of an MLP's work falls away. Where an MLP changed
too, or many heads did, the plain way is cheaper; ``hidden`` says which by returning None.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.clean import centred, scale_of
from pahq.model.forward import ACTIVATIONS
from pahq.model.weights import LayerWeights, ModelConfig

CAPACITY = 96  # composite weights kept, the least recently used dropped first; .8 MB each on GPT-2 small


class Composites:
    """Kept products of MLP inputs with their weights, and composite weights of (head, MLP) pairs."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._weights: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self._current: dict[int, Float[Tensor, "batch pos d_hidden"]] = {}  # by layer

    def worthwhile(self, heads: int) -> bool:
        """Whether so many changed heads cost less by composites than one product d_model wide."""
        return 2 * heads * self._config.d_head <= self._config.d_model

    def forget(self, sender: int | None = None) -> None:
        """Drop a head's composite weights (its W_O changed), or everything."""
        for key in [key for key in self._weights if sender is None or key[0] == sender]:
            del self._weights[key]

    def stale(self, layer: int) -> None:
        """The MLP's input changed in a way that the kept product does not know."""
        self._current.pop(layer, None)

    def keep(self, layer: int, product: Tensor) -> None:
        self._current[layer] = product

    def product(
        self,
        layer: int,
        weights: LayerWeights,
        x: Float[Tensor, "batch pos d_model"],
        heads: dict[int, tuple[Float[Tensor, "trial batch pos d_head"], Float[Tensor, "d_head d_model"]]],
    ) -> Float[Tensor, "trial batch pos d_hidden"]:
        """Centred new input times W_in (and W_gate): the kept one for the current input ``x`` plus each head's part."""
        kept = self._current.get(layer)
        if kept is None or kept.shape[:-1] != x.shape[:-1]:
            kept = self._current[layer] = self._times(weights, x)
        total = kept
        for sender, (change, output) in heads.items():
            key = (sender, layer)
            if key not in self._weights:
                self._weights[key] = self._times(weights, output)
                if len(self._weights) > CAPACITY:
                    self._weights.popitem(last=False)
            self._weights.move_to_end(key)
            total = total + change @ self._weights[key]
        return total

    def _times(self, weights: LayerWeights, x: Tensor) -> Tensor:
        assert weights.W_in is not None
        scaled = centred(self._config, x)
        if weights.ln2_w is not None:
            scaled = scaled * weights.ln2_w
        parts = [weights.W_in] if weights.W_gate is None else [weights.W_in, weights.W_gate]
        return torch.cat([scaled @ part for part in parts], dim=-1)

    def output(
        self,
        weights: LayerWeights,
        product: Float[Tensor, "trial batch pos d_hidden"],
        x: Float[Tensor, "trial batch pos d_model"],
    ) -> Float[Tensor, "trial batch pos d_model"]:
        """The MLP's output for the new input ``x``, given its product with the weights."""
        assert weights.W_in is not None
        assert weights.W_out is not None
        assert weights.b_in is not None
        if self._config.norm != "none":
            second = centred(self._config, x).square().mean(-1, keepdim=True)
            product = product * scale_of(self._config, second)
        width, activation = weights.W_in.shape[1], ACTIVATIONS[self._config.activation]
        hidden = product[..., :width] + self._shift(weights, weights.W_in) + weights.b_in
        if weights.W_gate is None:
            hidden = activation(hidden)
        else:
            hidden = hidden * activation(product[..., width:] + self._shift(weights, weights.W_gate))
        assert weights.b_out is not None
        out: Tensor = hidden @ weights.W_out + weights.b_out
        return out

    @staticmethod
    def _shift(weights: LayerWeights, matrix: Tensor) -> Tensor | float:
        return 0.0 if weights.ln2_b is None else weights.ln2_b @ matrix
