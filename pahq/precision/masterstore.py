"""A full-precision network whose weights stay away from the search: in the model's file, or pinned host memory.

A search in which only changes are in low precision (``method.arithmetic=changes``) needs full precision once a round,
when removals enter its state. A layer's matrices are brought in when that pass reads them, and few of them are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.buffers import Buffers
from pahq.model.codes import Coded
from pahq.model.fused import Fused
from pahq.model.layers import SmallWeights
from pahq.model.layerweights import LayerWeights
from pahq.model.rows import take
from pahq.model.weights import Ends, ModelConfig, Network
from pahq.precision.packedlayer import PackedLayer
from pahq.precision.schedule import Schedule, Serial
from pahq.precision.slots import Master
from pahq.precision.store import Focus, streamed


class MasterStore:
    """See ``WeightStore``: the ``master``'s own weights, whatever the focus.

    ``shapes``: of a layer's matrices, by field. ``cached_layers``: how many layers' matrices of each kind are kept.
    """

    uniform, products, by_codes = True, "float32", False

    def __init__(
        self,
        ends: Ends,
        small: Sequence[SmallWeights],
        master: Master,
        shapes: dict[str, tuple[int, ...]],
        *,
        cached_layers: int = 2,
    ) -> None:
        self.ends, self._small, self._master, self._cached = ends, tuple(small), master, cached_layers
        self._shapes, self._dtype, self._device = shapes, ends.W_E.dtype, ends.W_E.device
        self._buffers = {name: Buffers(shape, self._dtype, self._device) for name, shape in shapes.items()}
        self._kept: dict[str, OrderedDict[int, Tensor]] = {name: OrderedDict() for name in shapes}
        self.read_bytes = 0  # from the master, so far

    @property
    def config(self) -> ModelConfig:
        return self.ends.config

    @property
    def schedule(self) -> Schedule:
        return Serial()

    @property
    def nbytes(self) -> int:
        """Room for the matrices that are kept. Ends, biases and norms are the packed store's, which holds them too."""
        if self._device.type == "cpu":
            return sum(buffers.nbytes for buffers in self._buffers.values())
        numbers = sum(torch.Size(shape).numel() for shape in self._shapes.values())
        return min(self._cached, len(self._small)) * numbers * self._dtype.itemsize

    def network(self) -> Network:
        return streamed(self)

    def prefetch(self, focus: Focus) -> None:
        """Nothing is brought in ahead."""

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        return PackedLayer(
            **vars(self._small[index]), store=self, index=index, focus=frozenset(), products=self.products
        )

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]:
        name = f"W_{letter.upper()}"
        if index in self._kept[name]:
            return take(self._kept[name][index], heads)
        out = torch.empty((len(heads), *self._shapes[name][1:]), dtype=self._dtype, device=self._device)
        for place, head in enumerate(heads):
            self._master.read_heads(index, name, out[place : place + 1], head)
        self.read_bytes += out.nbytes
        return out

    def matrix(self, index: int, name: str, focus: Focus) -> Tensor | None:
        """One matrix of a layer by its field's name; None if the model has none. Read-only: it may be kept."""
        if name not in self._shapes:
            return None
        kept = self._kept[name]
        if index not in kept:
            while len(kept) >= self._cached:
                kept.popitem(last=False)
            out = self._buffers[name].lend()
            self._master.read_heads(index, name, out, 0)
            self.read_bytes += out.nbytes
            kept[index] = out
        kept.move_to_end(index)
        return kept[index]

    def coded(self, index: int, letter: str, heads: Sequence[int] | None) -> Coded | Fused:
        raise PahqError("these layers hold weights, and no codes of them")
