"""How a layer is put together: the one place that says what its parts read and what they add to the stream.

A layer has two parts, its heads and its MLP, computed in this order. Each part reads the residual stream with none or
some of the layer's other parts added, and what it sends is added to the stream:

    serial (GPT-2, Llama):         parallel (GPT-NeoX, GPT-J):
        mid = pre + heads(pre)         mid = pre + heads(pre)
        post = mid + mlp(mid)          post = mid + mlp(pre)

The two differ only in what the MLP reads. ``WIRINGS`` says it with one number for each part: how many of the layer's
parts have been added to the stream that the part reads. The plain forward, the calibration of formats and every engine
loop over these parts. ``ModelConfig.shape`` derives from them whether the graph has edges from a layer's heads to its
MLP. Norms do not belong here: a parallel block with one norm for both parts stores it twice, as ``ln1`` and ``ln2``.
Where a norm stands behind the heads (Gemma), their z has its factor in it (``pahq.model.forward.shares``), so that what
they send stays linear in z.

To wire a new kind of block, write a line in ``WIRINGS`` and its name in ``ModelConfig.block``. The line

    "parallel": (Part("heads", reads=0), Part("mlp", reads=0)),

means: the heads are computed first, from the stream before the layer, and the MLP reads that same stream. Add a random
model of it to ``tests/support/small_models.py``, and the tests of all engines run on it. A block whose parts come in
another order, or that has a third part, also needs a change of ``build_graph`` (``pahq.circuits.graph``), which lists a
layer's heads before its MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from pahq.model.layerweights import LayerWeights

Kind = Literal["heads", "mlp"]
Stream = TypeVar("Stream")
Send = Callable[[int, "LayerWeights", "Part", Tensor], Tensor]  # layer's number and weights, part, what the part reads


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a layer; the stream that it reads has the layer's first ``reads`` parts added."""

    kind: Kind
    reads: int


WIRINGS: dict[str, tuple[Part, ...]] = {
    "serial": (Part("heads", reads=0), Part("mlp", reads=1)),
    "parallel": (Part("heads", reads=0), Part("mlp", reads=0)),
}


def parts_of(block: str, *, mlp: bool) -> tuple[Part, ...]:
    """The parts of a layer in the order of computation; without MLPs the heads alone."""
    return tuple(part for part in WIRINGS[block] if mlp or part.kind != "mlp")


def part_of(parts: Sequence[Part], kind: str) -> Part:
    return next(part for part in parts if part.kind == kind)


def mlp_reads_heads(parts: Sequence[Part]) -> bool:
    """Whether a layer's MLP reads what its heads have added to the stream."""
    kinds = [part.kind for part in parts]
    return "mlp" in kinds and part_of(parts, "mlp").reads > kinds.index("heads")


def behind(parts: Sequence[Part], kind: str, layer: int, layers: int) -> Iterator[tuple[int, Kind]]:
    """Layer and kind of every part that reads what ``kind`` of ``layer`` adds, in the order of computation."""
    kinds: list[str] = [part.kind for part in parts]
    place = kinds.index(kind)
    yield from ((layer, part.kind) for part in parts if part.reads > place)
    yield from ((above, part.kind) for above in range(layer + 1, layers) for part in parts)


def after_attention(
    layer: LayerWeights, resid: Float[Tensor, "batch pos d_model"], z: Float[Tensor, "head batch pos d_head"]
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream ``resid`` with what a layer's heads send, and their common bias b_O, added."""
    return resid + layer.behind(together(layer, z)) + layer.b_O


def together(layer: LayerWeights, z: Float[Tensor, "head batch pos d_head"]) -> Float[Tensor, "batch pos d_model"]:
    """The sum of a layer's heads, in one product: their outputs are nowhere. No norm behind them is in it."""
    return z.permute(1, 2, 0, 3).flatten(2) @ layer.sending().flatten(0, 1)


def add(part: Part, layer: LayerWeights, stream: Tensor, output: Tensor) -> Float[Tensor, "batch pos d_model"]:
    """The stream with what a part sends added; ``output`` is the heads' z (before W_O) or the MLP's output."""
    return after_attention(layer, stream, output) if part.kind == "heads" else stream + output


def cross(parts: Sequence[Part], levels: dict[int, Stream], advance: Callable[[Part, Stream, Stream], Stream]) -> None:
    """Carry a stream through one layer: ``levels[0]`` is the stream before it, and afterwards the one behind it.

    ``advance`` gives the stream with a part added, from the part, the stream that it reads and the stream so far.
    Streams are large, so ``levels`` should hold the only reference to them: one that no later part reads is deleted.
    """
    for place, part in enumerate(parts):
        levels[place + 1] = advance(part, levels[part.reads], levels[place])
        wanted = {place + 1, *(later.reads for later in parts[place + 1 :])}
        for level in levels.keys() - wanted:
            del levels[level]
    levels[0] = levels.pop(len(parts))


def through(
    parts: Sequence[Part],
    layers: Iterable[LayerWeights],
    stream: Tensor,
    send: Send,
) -> Float[Tensor, "batch pos d_model"]:
    """Carry a stream through all layers; ``send`` gives what a part sends (see ``add``), from the stream it reads."""
    levels = {0: stream}
    del stream
    for index, layer in enumerate(layers):
        cross(parts, levels, partial(_send_and_add, send, index, layer))
    return levels[0]


def _send_and_add(
    send: Send, index: int, layer: LayerWeights, part: Part, read: Tensor, stream: Tensor
) -> Float[Tensor, "batch pos d_model"]:
    return add(part, layer, stream, send(index, layer, part, read))
