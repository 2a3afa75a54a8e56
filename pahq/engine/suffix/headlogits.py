"""The logsumexp of many trials whose final residual stream was changed by heads alone.

Up to one factor per row, logits are linear in the residual stream, so the product of the current stream with the
unembedding is kept, and a changed head adds z . (W_O W_U): d_head wide instead of d_model. On a large vocabulary the
unembedding is most of a search, and this takes most of it away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.norms import centred, scale_of
from pahq.model.weights import Ends

HeadChange = tuple[Float[Tensor, "trial item d_head"], Float[Tensor, "d_head d_model"]]  # of z; its head's W_O


class HeadLogits:
    """Kept logits of the current state before the norm's factor, and composite weights W_O W_U by head."""

    def __init__(self, model: Ends, *, capacity_bytes: int) -> None:
        self._model = model
        size = model.config.d_head * model.W_U.shape[1] * model.W_U.element_size()
        self._capacity = capacity_bytes // size
        self._composites: dict[int, Float[Tensor, "d_head vocab"]] = {}
        self._current: Float[Tensor, "item vocab"] | None = None
        shift = model.b_U if model.ln_final_b is None else model.b_U + model.ln_final_b @ model.W_U
        self._shift = shift if bool((shift != 0).any()) else None

    def worthwhile(self, heads: Collection[int]) -> bool:
        """Whether so many changed heads cost less this way, and their composite weights are kept or still fit.

        What is kept stays: a composite costs more than going without it, so turning them over would never pay.
        """
        config, new = self._model.config, sum(head not in self._composites for head in heads)
        fits = len(self._composites) + new <= self._capacity
        return bool(heads) and fits and 3 * len(heads) * config.d_head <= config.d_model

    def stale(self) -> None:
        """The final residual stream changed in a way that the kept logits do not know."""
        self._current = None

    def forget(self, sender: int) -> None:
        """Drop a head's composite weights: its W_O changed."""
        self._composites.pop(sender, None)

    def logsumexp(
        self,
        current: Float[Tensor, "item d_model"],
        resid: Float[Tensor, "trial item d_model"],
        heads: Mapping[int, HeadChange],
        tile_size: int,
    ) -> Float[Tensor, "trial item"]:
        """Over the vocabulary, in float64, for new residual streams ``resid`` that differ from ``current`` by heads."""
        config = self._model.config
        kept = self._kept(current)
        scale = torch.ones_like(resid[..., 0])
        if config.norm != "none":
            scale = scale_of(config, centred(config, resid).square().mean(-1))
        parts = [(self._composite(s, output), (z * scale[..., None]).flatten(0, 1)) for s, (z, output) in heads.items()]
        vocabulary, rows = kept.shape[1], scale.numel()
        tile = min(vocabulary, max(256, tile_size // rows))
        highest = scale.new_full((rows, 1), float("-inf"))
        total = scale.new_zeros(rows, dtype=torch.float64)
        for start in range(0, vocabulary, tile):
            part = slice(start, start + tile)
            logits = (kept[:, part] * scale[..., None]).flatten(0, 1)
            for weights, z in parts:
                logits.addmm_(z, weights[:, part])
            if self._shift is not None:
                logits += self._shift[part]
            before, highest = highest, torch.maximum(highest, logits.amax(-1, keepdim=True))
            total *= (before - highest)[:, 0].double().exp()
            total += logits.sub_(highest).exp_().sum(-1)
        return (total.log() + highest[:, 0]).view(scale.shape)

    def keep(self, heads: Mapping[int, HeadChange], trial: int) -> None:
        """One trial became the current state."""
        assert self._current is not None
        for sender, (z, output) in heads.items():
            self._current = self._current + z[trial if z.shape[0] > 1 else 0] @ self._composite(sender, output)

    def _kept(self, current: Tensor) -> Float[Tensor, "item vocab"]:
        if self._current is None:
            self._current = self._times(current)
        return self._current

    def _composite(self, sender: int, output: Tensor) -> Tensor:
        if sender not in self._composites:
            self._composites[sender] = self._times(output)
        return self._composites[sender]

    def _times(self, x: Tensor) -> Tensor:
        scaled = centred(self._model.config, x)
        if self._model.ln_final_w is not None:
            scaled = scaled * self._model.ln_final_w
        return scaled @ self._model.W_U
