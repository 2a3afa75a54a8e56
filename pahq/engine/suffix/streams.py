"""A run's residual streams by layer: all of them held, or formed where they are asked for.

They are sums of what senders computed, half of all that a run leaves. A search asks for them on its way down, and going
up when it forms inputs anew, so the one at the layer under test is kept and those above are added up from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.forward import after_attention
from pahq.model.run import Run
from pahq.precision.store import NO_FOCUS, WeightStore

Stream = Float[Tensor, "batch pos d_model"]


class Streams:
    """``held`` gives streams before the heads and before the MLP of every layer; None: they are formed.

    Of a run that the search overwrites, what is formed is right for receivers whose senders are all as they were: a
    receiver that still has its clean input has every edge, so that any sender's change would have reached it.
    """

    def __init__(
        self, store: WeightStore, run: Run, held: tuple[Sequence[Stream], Sequence[Stream]] | None = None
    ) -> None:
        self._store, self._run, self._held = store, run, held
        self._base = self._last = self._bottom()
        self._mid: tuple[int, Stream] | None = None

    def enter(self, layer: int) -> None:
        """From here on ``layer`` is the lowest that is asked for often."""
        if self._held is None:
            self._base = layer, self.pre(layer)

    def _bottom(self) -> tuple[int, Stream]:
        return 0, torch.stack(list(self._run.start)).sum(0)

    def pre(self, layer: int) -> Stream:
        """Before the layer's heads."""
        if self._held is not None:
            return self._held[0][layer]
        if layer < self._last[0]:
            self._last = self._base if layer >= self._base[0] else self._bottom()
        while self._last[0] < layer:
            at = self._last[0]
            mid = self.mid(at)
            self._last = at + 1, mid + self._run.mlp[at] if self._run.mlp else mid
        return self._last[1]

    def mid(self, layer: int) -> Stream:
        """Before the layer's MLP."""
        if self._held is not None:
            return self._held[1][layer]
        if self._mid is None or self._mid[0] != layer:
            pre = self.pre(layer)
            self._mid = None  # before the next one is made
            self._mid = layer, after_attention(self._store.layer(layer, NO_FOCUS), pre, self._run.z[layer])
        return self._mid[1]
