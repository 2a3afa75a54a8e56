"""MLP inputs that only heads changed: from a head's z straight to the hidden layer.

The norm is linear up to one factor per row, so the hidden layer's product with the current input can be kept, and a
changed head adds z . (W_O W_in): d_head wide instead of d_model. Half of an MLP's work falls away. Where an MLP changed
too, or many heads did, the plain way is cheaper; ``worthwhile`` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.norms import centred, scale_of
from pahq.model.activations import ACTIVATIONS
from pahq.model.forward import activated, mlp, mlp_sends, read_through
from pahq.model.layerweights import LayerWeights
from pahq.model.products import mlp_products
from pahq.model.weights import ModelConfig


class Composites:
    """Kept products of MLP inputs with their weights, and composite weights of (head, MLP) pairs.

    Both share ``capacity_bytes``. What is kept stays: waves ask for the same ones in the same order, so that turning
    them over would lose each before it is used again.
    """

    def __init__(self, config: ModelConfig, *, capacity_bytes: int) -> None:
        self._config, self._capacity = config, capacity_bytes
        self._kept: dict[tuple[int | None, int], Tensor] = {}  # (sender, layer), or (None, layer)
        self._bytes = 0
        self._shifts: dict[int, Tensor] = {}  # by layer: what the norm's bias adds to the hidden layer

    def worthwhile(self, layer: int, senders: Sequence[int], x: Float[Tensor, "*batch pos d_model"]) -> bool:
        """Whether so many changed heads cost less by composites than products of ``x``, and all that takes is kept or
        still fits."""
        config = self._config
        if not config.pre_norms:
            return False
        if 2 * len(senders) * config.d_head > config.d_model:
            return False
        hidden = config.d_mlp * (2 if config.gated else 1) * x.element_size()
        new = sum((sender, layer) not in self._kept for sender in senders) * config.d_head * hidden
        if (None, layer) not in self._kept:
            new += x.numel() // config.d_model * hidden
        return self._bytes + new <= self._capacity

    def forget(self, sender: int) -> None:
        """Drop a head's composite weights: its W_O changed."""
        for key in [key for key in self._kept if key[0] == sender]:
            self._drop(key)

    def stale(self, layer: int | None = None) -> None:
        """The MLP's input (every MLP's, without ``layer``) changed in a way that the kept product does not know."""
        for key in [key for key in self._kept if key[0] is None and layer in (None, key[1])]:
            self._drop(key)

    def keep(self, layer: int, product: Tensor) -> None:
        self._keep((None, layer), product)

    def product(
        self,
        layer: int,
        weights: LayerWeights,
        x: Callable[[], Float[Tensor, "batch pos d_model"]],
        heads: dict[int, tuple[Float[Tensor, "trial batch pos d_head"], Float[Tensor, "d_head d_model"]]],
    ) -> Float[Tensor, "trial batch pos d_hidden"]:
        """Centred new input times W_in (and W_gate): the kept one for the current input ``x`` plus each head's part."""
        first = next(iter(heads.values()))[0]
        total = self._kept.get((None, layer))
        if total is None or total.shape[:-1] != first.shape[1:-1]:
            total = self._keep((None, layer), self._times(weights, x()))
        for sender, (change, output) in heads.items():
            key = (sender, layer)
            composite = self._kept.get(key)
            if composite is None:
                composite = self._keep(key, self._times(weights, output))
            if total.dim() < change.dim():  # of the state; then of every trial
                total = (change.flatten(0, -2) @ composite).view(*change.shape[:-1], -1).add_(total)
            else:
                total.view(-1, total.shape[-1]).addmm_(change.flatten(0, -2), composite)
        return total

    def _keep(self, key: tuple[int | None, int], value: Tensor) -> Tensor:
        self._drop(key)
        self._kept[key] = value
        self._bytes += value.nbytes
        return value

    def _drop(self, key: tuple[int | None, int]) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._bytes -= gone.nbytes

    def _times(self, weights: LayerWeights, x: Tensor) -> Tensor:
        assert weights.W_in is not None
        scaled = centred(self._config, x)
        if weights.ln2_w is not None:
            scaled = scaled * weights.ln2_w
        parts = [weights.W_in] if weights.W_gate is None else [weights.W_in, weights.W_gate]
        return torch.cat([scaled @ part for part in parts], dim=-1)

    def output(
        self,
        layer: int,
        weights: LayerWeights,
        product: Float[Tensor, "trial batch pos d_hidden"],
        x: Float[Tensor, "trial batch pos d_model"],
    ) -> Float[Tensor, "trial batch pos d_model"]:
        """The MLP's output for the new input ``x``, given its product with the weights."""
        assert weights.W_in is not None
        assert weights.W_out is not None
        assert weights.b_in is not None
        if self._config.norm != "none":
            product = torch.addcmul(self._shift(layer, weights), product, scale_of(self._config, x))
        else:
            product = product + self._shift(layer, weights)
        width, activation = weights.W_in.shape[1], ACTIVATIONS[self._config.activation]
        hidden = product[..., :width]
        hidden = activation(hidden) if weights.W_gate is None else hidden * activation(product[..., width:])
        assert weights.b_out is not None
        return mlp_sends(self._config, weights, _affine(hidden, weights.W_out, weights.b_out))

    def _shift(self, layer: int, weights: LayerWeights) -> Float[Tensor, " d_hidden"]:
        """What biases add to the hidden layer: the norm's through W_in and W_gate, and W_in's own."""
        if layer not in self._shifts:
            assert weights.W_in is not None
            assert weights.b_in is not None
            parts = [weights.W_in] if weights.W_gate is None else [weights.W_in, weights.W_gate]
            shift = weights.b_in.new_zeros(sum(part.shape[1] for part in parts))
            if weights.ln2_b is not None:
                shift = torch.cat([weights.ln2_b @ part for part in parts])
            shift[: weights.b_in.shape[0]] += weights.b_in
            self._shifts[layer] = shift
        return self._shifts[layer]


def mlp_output(
    config: ModelConfig, weights: LayerWeights, x: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """``pahq.model.forward.mlp`` with biases taken in with the products, where these are plain ones."""
    if weights.W_gate is not None or mlp_products(weights.products) != "float32":
        return mlp(config, weights, x)
    assert weights.W_in is not None
    assert weights.b_in is not None
    assert weights.W_out is not None
    assert weights.b_out is not None
    before = _affine(read_through(config, x, weights.ln2_w, weights.ln2_b), weights.W_in, weights.b_in)
    return mlp_sends(config, weights, _affine(activated(config, (before,)), weights.W_out, weights.b_out))


def _affine(x: Float[Tensor, "*batch inner"], W: Float[Tensor, "inner out"], b: Float[Tensor, " out"]) -> Tensor:
    return torch.addmm(b, x.flatten(0, -2), W).view(*x.shape[:-1], -1)
