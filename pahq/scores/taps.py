"""Where a forward pass is listened to: each receiver reads through a tap, and the backward pass scores its edges there.

One tap serves all heads of a layer's letter: it hands every head an input of its own, and what comes back, one gradient
a head, meets all senders' differences in one product. A layer's gradients are gone before those of the layer below it
are made, so nothing is held but what senders differ by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver

Score = Callable[[Tensor], None]


class Tap:
    """The taps of one run. ``differences``: what every sender's ablated output differs by from its clean one.

    ``senders``: whose edges are scored. Scores are added to ``found`` (by edge), times ``weight``. Receivers with at
    most ``deaf`` senders upstream are passed over.
    """

    def __init__(
        self,
        graph: Graph,
        differences: Float[Tensor, "sender batch*pos*d_model"],
        senders: range,
        found: Float[Tensor, " edge"],
        weight: float,
        deaf: int = 0,
    ) -> None:
        self._graph, self._differences, self._senders = graph, differences, senders
        self._found, self._weight, self._deaf = found, weight, deaf

    def read(self, stream: Tensor, receivers: Sequence[Receiver]) -> Float[Tensor, "receiver batch pos d_model"]:
        """A stream as the input of each of its ``receivers``: one MLP, the logits, or a letter's heads in order."""
        count, upstream = len(receivers), self._graph.upstream(receivers[0])
        edges = self._graph.incoming(receivers[0]).start
        scored = slice(self._senders.start, min(self._senders.stop, upstream))
        place = self._found[edges : edges + count * upstream].view(count, upstream)[:, scored]

        def score(gradient: Tensor) -> None:
            if place.numel() and upstream > self._deaf:
                place.add_(gradient.flatten(1) @ self._differences[scored].T, alpha=self._weight)

        out: Tensor = _Read.apply(stream, count, score)  # type: ignore[no-untyped-call]
        return out

    def project(
        self, values: Float[Tensor, "letter_head *rest"], difference: Tensor, receivers: Sequence[Receiver]
    ) -> Float[Tensor, "letter_head *rest"]:
        """A letter's projections, whose Direct edges are scored; ``difference``: ablated less clean ones."""
        first = self._graph.direct(receivers[0])
        assert first is not None
        place = self._found[first : first + len(receivers)]

        def score(gradient: Tensor) -> None:
            place.add_((gradient * difference).flatten(1).sum(1), alpha=self._weight)

        out: Tensor = _Project.apply(values, score)  # type: ignore[no-untyped-call]
        return out


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: Tensor, count: int, score: Score) -> Tensor:
        ctx.score = score
        return stream.expand(count, *stream.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.score(gradient)
        return gradient.sum(0), None, None


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, score: Score) -> Tensor:
        ctx.score = score
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.score(gradient)
        return gradient, None
