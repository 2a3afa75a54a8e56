"""The change of logits in many trials whose final residual stream was changed by heads alone.

Up to one factor per row, logits are linear in the residual stream. So what the current stream's product with the
unembedding differs by from the clean stream's is kept, and a changed head adds z . (W_O W_U): d_head wide instead of
d_model. With s the factor of a row's norm (s0: of the clean run), K what is kept and C the clean product,
d = s (K + z W_O W_U) + (s - s0) C. On a large vocabulary the unembedding is most of a search, and this takes most of it
away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.chosen import Chosen, pick
from pahq.engine.suffix.norms import centred, scale_of
from pahq.model.weights import Ends

HeadChange = tuple[Float[Tensor, "trial item d_head"], Float[Tensor, "d_head d_model"]]  # of z; its head's W_O


class HeadLogits:
    """Kept products of the clean and the current stream before the norm's factor, and composite weights W_O W_U."""

    def __init__(self, model: Ends, *, capacity_bytes: int) -> None:
        self._model = model
        size = model.config.d_head * model.W_U.shape[1] * model.W_U.element_size()
        self._capacity = capacity_bytes // size
        self._composites: dict[int, Float[Tensor, "d_head vocab"]] = {}
        self._clean: Float[Tensor, "item vocab"] | None = None
        self._scale: Float[Tensor, " item"]  # the clean run's factors
        self._current: Float[Tensor, "item vocab"] | None = None  # less the clean one

    def worthwhile(self, heads: Collection[int]) -> bool:
        """Whether so many changed heads cost less this way, and their composite weights are kept or still fit.

        What is kept stays: a composite costs more than going without it, so turning them over would never pay.
        """
        config, new = self._model.config, sum(head not in self._composites for head in heads)
        fits = len(self._composites) + new <= self._capacity
        return bool(heads) and fits and 3 * len(heads) * config.d_head <= config.d_model

    def stale(self) -> None:
        """The final residual stream changed in a way that the kept product does not know."""
        self._current = None

    def forget(self, sender: int) -> None:
        """Drop a head's composite weights: its W_O changed."""
        self._composites.pop(sender, None)

    def change(
        self,
        clean: Float[Tensor, "item d_model"],
        current: Float[Tensor, "item d_model"],
        resid: Float[Tensor, "trial item d_model"],
        heads: Mapping[int, HeadChange],
        mean: Float[Tensor, "trial item"],
    ) -> Callable[[slice], Float[Tensor, "item trial tile"]]:
        """d - ``mean`` of a tile, for new streams ``resid`` that differ from ``current`` by heads.

        ``clean`` is the full-precision run's stream and ``mean`` float64's; factors are taken in float64, since their
        difference multiplies whole logits.
        """
        if self._clean is None:
            self._clean, self._scale = self._times(clean), self._factor(clean)
        if self._current is None:
            self._current = self._times(current.double() - clean)
        kept, before, dtype = self._current, self._clean, self._current.dtype
        scale = self._factor(resid.double()).expand(mean.shape)
        left = torch.stack((scale, scale - self._scale, -mean), -1).transpose(0, 1).to(dtype)  # [item, trial, 3]
        factor = scale.T.to(dtype)[..., None]
        parts = [(self._composite(s, out), (z.transpose(0, 1) * factor).flatten(0, 1)) for s, (z, out) in heads.items()]

        def d(part: slice) -> Tensor:
            right = torch.stack((kept[:, part], before[:, part], torch.ones_like(kept[:, part])), 1)
            logits = torch.bmm(left, right)
            for weights, z in parts:
                logits.view(len(z), -1).addmm_(z, weights[:, part])
            return logits

        return d

    def keep(self, heads: Mapping[int, HeadChange], trial: Chosen) -> None:
        """One trial became the current state."""
        assert self._current is not None
        for sender, (z, output) in heads.items():
            self._current = self._current + pick(z, trial) @ self._composite(sender, output)

    def _factor(self, stream: Float[Tensor, "*trial item d_model"]) -> Float[Tensor, "*trial item"]:
        config = self._model.config
        if config.norm == "none":
            return torch.ones_like(stream[..., 0])
        return scale_of(config, stream).squeeze(-1)

    def _composite(self, sender: int, output: Tensor) -> Tensor:
        if sender not in self._composites:
            self._composites[sender] = self._times(output)
        return self._composites[sender]

    def _times(self, x: Tensor) -> Tensor:
        scaled = centred(self._model.config, x)
        if self._model.ln_final_w is not None:
            scaled = scaled * self._model.ln_final_w
        return scaled.to(self._model.W_U.dtype) @ self._model.W_U
