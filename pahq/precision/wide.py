"""A network under test in float64: the very numbers that a store gives in float32, widened as they are read.

What float32 does to a search is seen by searching the same network in float64. Rounding the weights anew in float64
would make another network: a scale could be off by its last bit, and a weight at a tie fall the other way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.codes import Coded
from pahq.model.fused import Fused
from pahq.model.layers import ByLetter
from pahq.model.layerweights import LayerWeights
from pahq.model.streamed import EndWeights, Streamed, in_memory
from pahq.model.weights import Embedding, Ends, ModelConfig, Network
from pahq.precision.schedule import Schedule, Serial
from pahq.precision.store import ATTENTION, NO_FOCUS, Focus, WeightStore, streamed

KEPT_BYTES = 256 << 20  # of widened weights; what does not fit is widened again when it is read


class WideStore:
    """See ``WeightStore``: ``store``'s weights in float64. At most ``kept_bytes`` of them are kept.

    ``ends``: its ends in float64, where somebody has them already.
    """

    def __init__(self, store: WeightStore, kept_bytes: int = KEPT_BYTES, ends: Ends | None = None) -> None:
        self._store = self.beneath = store
        self._room, self._made_ends = kept_bytes, ends is None
        self._kept: OrderedDict[tuple[int, str, Focus], Tensor] = OrderedDict()
        self.ends: Ends = wide_ends(store.ends) if ends is None else ends

    @property
    def config(self) -> ModelConfig:
        return self._store.config

    @property
    def nbytes(self) -> int:
        """Of what is kept here and of the store itself."""
        return self.beneath.nbytes + self.own_nbytes

    @property
    def own_nbytes(self) -> int:
        """Of what is kept here, and of ends that were made here."""
        ends = (self.ends.W_pos, self.ends.ln_final_w, self.ends.ln_final_b, self.ends.W_U, self.ends.b_U)
        return self._kept_bytes + (sum(x.nbytes for x in ends if x is not None) if self._made_ends else 0)

    @property
    def _kept_bytes(self) -> int:
        return sum(value.nbytes for value in self._kept.values())

    @property
    def uniform(self) -> bool:
        return self._store.uniform

    @property
    def products(self) -> str:
        return self._store.products

    @property
    def schedule(self) -> Schedule:
        return Serial()

    def prefetch(self, focus: Focus) -> None:
        """Nothing is brought in ahead."""

    def network(self) -> Network:
        return streamed(self)

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


class WideLayer(ByLetter):
    """See ``LayerWeights``. A tensor is widened when it is first read, biases and norms too."""

    def __init__(self, store: WideStore, index: int, focus: Focus) -> None:
        self._store, self._index, self._focus = store, index, focus

    def __repr__(self) -> str:
        return f"WideLayer({self._index}, {set(self._focus)})"

    @property
    def products(self) -> str:
        return self._store.products

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self._there("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._there("W_K")

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._there("W_V")

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self._there("W_O")

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        return self._there("b_Q")

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"]:
        return self._there("b_K")

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"]:
        return self._there("b_V")

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        return self._there("b_O")

    @property
    def b_sum(self) -> Float[Tensor, " d_model"] | None:
        return self._field("b_sum")

    @property
    def ln1_w(self) -> Float[Tensor, " d_model"] | None:
        return self._field("ln1_w")

    @property
    def ln1_b(self) -> Float[Tensor, " d_model"] | None:
        return self._field("ln1_b")

    @property
    def ln2_w(self) -> Float[Tensor, " d_model"] | None:
        return self._field("ln2_w")

    @property
    def ln2_b(self) -> Float[Tensor, " d_model"] | None:
        return self._field("ln2_b")

    @property
    def ln1_post(self) -> Float[Tensor, " d_model"] | None:
        return self._field("ln1_post")

    @property
    def ln2_post(self) -> Float[Tensor, " d_model"] | None:
        return self._field("ln2_post")

    @property
    def q_norm(self) -> Float[Tensor, "*head d_head"] | None:
        return self._field("q_norm")

    @property
    def k_norm(self) -> Float[Tensor, "*head d_head"] | None:
        return self._field("k_norm")

    @property
    def local(self) -> bool:
        return self._store.narrow(self._index, self._focus).local

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"] | None:
        return self._field("W_in")

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"] | None:
        return self._field("W_gate")

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"] | None:
        return self._field("W_out")

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"] | None:
        return self._field("b_in")

    @property
    def b_out(self) -> Float[Tensor, " d_model"] | None:
        return self._field("b_out")

    @property
    def W_pos(self) -> Float[Tensor, "context d_model"] | None:
        return self._field("W_pos")

    @property
    def exact(self) -> frozenset[int]:
        return self._store.narrow(self._index, self._focus).exact

    @property
    def by_codes(self) -> bool:
        return False

    def rows(self, letter: str, heads: Sequence[int]) -> Float[Tensor, "chosen in out"]:
        return self._store.rows(self._index, letter, heads, self._focus)

    def coded(self, letter: str, heads: Sequence[int] | None) -> Coded | Fused:
        raise PahqError("these layers hold weights, and no codes of them")

    def _field(self, name: str) -> Tensor | None:
        return self._store.field(self._index, name, self._focus)

    def _there(self, name: str) -> Tensor:
        value = self._field(name)
        assert value is not None  # no family lacks it
        return value


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
            return (in_memory(layer, Tensor.double) for layer in network.layers)

    layers: Iterable[LayerWeights] = Layers()
    return Streamed.through(wide_ends(network), layers)
