"""A run's residual streams by layer: all of them held, or formed where they are asked for.

They are sums of what senders computed, half of all that a run leaves. A search asks for them on its way down, and going
up when it forms inputs anew, so the one at the layer under test is kept and those above are added up from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.block import add, part_of
from pahq.model.run import Run
from pahq.precision.store import NO_FOCUS, WeightStore

Stream = Float[Tensor, "batch pos d_model"]


class Streams:
    """``held`` gives the streams that heads read and those that MLPs read, by layer; None: they are formed.

    Of a run that the search overwrites, what is formed is right for receivers whose senders are all as they were: a
    receiver that still has its clean input has every edge, so that any sender's change would have reached it.
    """

    def __init__(
        self, store: WeightStore, run: Run, held: tuple[Sequence[Stream], Sequence[Stream]] | None = None
    ) -> None:
        self._store, self._run, self._held = store, run, held
        self._parts = store.config.parts
        self._base = self._last = self._bottom()
        self._inside: tuple[int, int, Stream] | None = None  # layer, how many of its parts are added, stream

    def enter(self, layer: int) -> None:
        """From here on ``layer`` is the lowest that is asked for often."""
        if self._held is None:
            self._base = layer, self._before(layer)

    def read(self, kind: str, layer: int) -> Stream:
        """What the layer's part of a kind (heads, mlp) reads."""
        if self._held is not None:
            return self._held[kind == "mlp"][layer]
        return self._with(layer, part_of(self._parts, kind).reads)

    def _bottom(self) -> tuple[int, Stream]:
        return 0, torch.stack(list(self._run.start)).sum(0)

    def _before(self, layer: int) -> Stream:
        if layer < self._last[0]:
            self._last = self._base if layer >= self._base[0] else self._bottom()
        while self._last[0] < layer:
            at = self._last[0]
            self._last = at + 1, self._with(at, len(self._parts))
        return self._last[1]

    def _with(self, layer: int, count: int) -> Stream:
        """The stream with the layer's first ``count`` parts added; inside a layer the last one asked for is kept."""
        if count == 0:
            return self._before(layer)
        if self._inside is not None and self._inside[:2] == (layer, count):
            return self._inside[2]
        part, below = self._parts[count - 1], self._with(layer, count - 1)
        if count < len(self._parts):
            self._inside = None  # before the next one is made
        stream = add(part, self._store.layer(layer, NO_FOCUS), below, self._run.sent(part.kind)[layer])
        if count < len(self._parts):
            self._inside = layer, count, stream
        return stream
