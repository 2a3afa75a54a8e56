"""A network under test in float64: the very numbers that a store gives in float32, widened as they are read.

What float32 does to a search is seen by searching the same network in float64. Rounding the weights anew in float64
would make another network: a scale could be off by its last bit, and a weight at a tie fall the other way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.weights import Embedding, Ends, EndWeights, LayerWeights, ModelConfig, Network, Streamed
from pahq.precision.schedule import Schedule, Serial
from pahq.precision.store import ATTENTION, NO_FOCUS, Focus, WeightStore

KEPT_BYTES = 256 << 20  # of widened weights; what does not fit is widened again when it is read


class WideStore:
    """See ``WeightStore``: ``store``'s weights in float64. At most ``kept_bytes`` of them are kept."""

    def __init__(self, store: WeightStore, kept_bytes: int = KEPT_BYTES) -> None:
        self._store, self._room = store, kept_bytes
        self._kept: OrderedDict[tuple[int, str, Focus], Tensor] = OrderedDict()
        self.ends: Ends = wide_ends(store.ends)

    @property
    def config(self) -> ModelConfig:
        return self._store.config

    @property
    def nbytes(self) -> int:
        """Of what is kept here and of the store itself."""
        ends = (self.ends.W_pos, self.ends.ln_final_w, self.ends.ln_final_b, self.ends.W_U, self.ends.b_U)
        return self._store.nbytes + self._kept_bytes + sum(x.nbytes for x in ends if x is not None)

    @property
    def _kept_bytes(self) -> int:
        return sum(value.nbytes for value in self._kept.values())

    @property
    def uniform(self) -> bool:
        return self._store.uniform

    @property
    def schedule(self) -> Schedule:
        return Serial()

    def prefetch(self, focus: Focus) -> None:
        """Nothing is brought in ahead."""

    def network(self) -> Network:
        return Streamed.through(self.ends, _Layers(self))

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        return WideLayer(self, index, frozenset(at for at in focus if at[0] == index))

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]:
        return self._store.rows(index, letter, heads, focus).double()

    def narrow(self, index: int, focus: Focus) -> LayerWeights:
        """The layer as the store itself gives it."""
        return self._store.layer(index, focus)

    def field(self, index: int, name: str, focus: Focus) -> Tensor | None:
        """One tensor of a layer by its field's name; None if the model has none."""
        key = index, name, focus if name in ATTENTION else NO_FOCUS
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value: Tensor | None = getattr(self._store.layer(index, focus), name)
        if value is None:
            return None
        wide = self._kept[key] = value.double()
        while self._kept_bytes > self._room and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return wide


class WideLayer(LayerWeights):
    """A layer whose tensors are widened when they are first read."""

    _store: WideStore
    _index: int
    _focus: Focus

    def __init__(self, store: WideStore, index: int, focus: Focus) -> None:
        vars(self).update(_store=store, _index=index, _focus=focus)

    def __repr__(self) -> str:
        return f"WideLayer({self._index}, {set(self._focus)})"

    @property
    def exact(self) -> frozenset[int]:
        return self._store.narrow(self._index, self._focus).exact

    def output(self, head: int) -> Float[Tensor, "d_head d_model"]:
        return self.rows("o", (head,))[0]

    def rows(self, letter: str, heads: Sequence[int]) -> Float[Tensor, "chosen in out"]:
        return self._store.rows(self._index, letter, heads, self._focus)


def _field(name: str) -> Any:
    return property(lambda layer: layer._store.field(layer._index, name, layer._focus))


for _each in fields(LayerWeights):
    setattr(WideLayer, _each.name, _field(_each.name))


class _Layers:
    def __init__(self, store: WideStore) -> None:
        self._store = store

    def __iter__(self) -> Iterator[LayerWeights]:
        return (self._store.layer(i, NO_FOCUS) for i in range(self._store.config.layers))


@dataclass(frozen=True)
class _WideRows:
    """An embedding of which the rows that are asked for are widened."""

    rows: Embedding

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def __getitem__(self, tokens: Any) -> Tensor:
        return self.rows[tokens].double()


def wide_ends(ends: Ends) -> EndWeights:
    """Embedding, final norm and unembedding in float64."""
    others = (ends.W_pos, ends.ln_final_w, ends.ln_final_b, ends.W_U, ends.b_U)
    return EndWeights(ends.config, _WideRows(ends.W_E), *(None if x is None else x.double() for x in others))  # type: ignore[arg-type]


def wide_network(network: Network) -> Network:
    """A network in float64, each layer widened as it is walked through."""

    class Layers:
        def __iter__(self) -> Iterator[LayerWeights]:
            return map(_widened, network.layers)

    layers: Iterable[LayerWeights] = Layers()
    return Streamed.through(wide_ends(network), layers)


def _widened(layer: LayerWeights) -> LayerWeights:
    values = ((field.name, getattr(layer, field.name)) for field in fields(LayerWeights))
    wide: dict[str, Any] = {name: None if value is None else value.double() for name, value in values}
    return LayerWeights(**wide)
