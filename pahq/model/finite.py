"""Where a network stops being finite: the first value that is NaN or infinite, by layer and by name.

A search on such a network would keep everything, since a loss that is no number is below no threshold. So it stops, and
this says where to look.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.block import Part, through
from pahq.model.forward import head_outputs, mix, mlp, project
from pahq.model.layerweights import LayerWeights
from pahq.model.weights import Network


class Watch:
    """Raises PahqError at the first value that is no finite number; ``where`` says on what the network runs."""

    def __init__(self, where: str) -> None:
        self._where = where

    def heads(self, layer: int, letter: str, values: Float[Tensor, "letter_head batch pos d"], what: str) -> None:
        """Inputs or projections (``what``) of a layer's heads, receiver by receiver."""
        for head, each in enumerate(values):
            self.one(f"layer {layer}", f"the {what} of a{layer}.h{head}<{letter}>", each)

    def outputs(self, layer: int, values: Float[Tensor, "head batch pos d_model"]) -> None:
        """What a layer's heads send."""
        for head, each in enumerate(values):
            self.one(f"layer {layer}", f"the output of a{layer}.h{head}", each)

    def mlp(
        self, layer: int, x: Float[Tensor, "batch pos d_model"], output: Float[Tensor, "batch pos d_model"]
    ) -> None:
        """What an MLP reads and sends."""
        self.one(f"layer {layer}", f"the input of m{layer}", x)
        self.one(f"layer {layer}", f"the output of m{layer}", output)

    def final(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        """What the logits read."""
        self.one("the end", "the input of the logits", stream)

    def one(self, place: str, name: str, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            kind = "infinite" if torch.isinf(values).any() else "no number (NaN)"
            dtype = str(values.dtype).removeprefix("torch.")
            raise PahqError(
                f"the network is not finite {self._where}: in {place} {name} is {kind} in {dtype}, the first such "
                "value; no search can tell effects of it (check the weights; engine.dtype=float64 reaches further)"
            )


def watch_run(model: Network, start: Sequence[Float[Tensor, "batch pos d_model"]], where: str) -> None:
    """Run a network from its embedding senders and raise PahqError at the first value that is no finite number."""
    config, watch = model.config, Watch(where)
    resid = torch.stack(list(start)).sum(0)
    watch.one("the embedding", "the residual stream", resid)

    def send(index: int, layer: LayerWeights, part: Part, read: Tensor) -> Tensor:
        if part.kind == "mlp":
            output = mlp(config, layer, read)
            watch.mlp(index, read, output)
            return output
        at = {}
        for letter in "qkv":
            watch.heads(index, letter, read[None].expand(config.count(letter), *read.shape), "input")
            at[letter] = project(config, layer, letter, read[None])
            watch.heads(index, letter, at[letter], "projection")
        z = mix(config, layer, at["q"], at["k"], at["v"])
        watch.outputs(index, head_outputs(layer, z))
        return z

    watch.final(through(config.parts, model.layers, resid, send))
