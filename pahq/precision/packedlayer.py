"""A layer of the packed store: biases and norms in memory, matrices unpacked as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from pahq.model.codes import Coded
from pahq.model.fused import Fused
from pahq.model.layers import ByLetter, SmallWeights
from pahq.precision.store import Focus


class Matrices(Protocol):
    """Where a packed layer has its matrices from."""

    @property
    def by_codes(self) -> bool: ...

    def matrix(self, index: int, name: str, focus: Focus) -> Tensor | None: ...

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]: ...

    def coded(self, index: int, letter: str, heads: Sequence[int] | None) -> Coded | Fused: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedLayer(SmallWeights, ByLetter):
    """See ``LayerWeights``. Reading a matrix unpacks it, with the groups in ``focus`` in full precision.

    Two are equal if they are the same layer of one store, in one focus: no tensors are compared.
    """

    store: Matrices
    index: int
    focus: Focus
    products: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedLayer) and other.store is self.store and other._place == self._place

    def __hash__(self) -> int:
        return hash((id(self.store), self._place))

    @property
    def _place(self) -> tuple[int, Focus, str]:
        return self.index, self.focus, self.products

    def __repr__(self) -> str:
        return f"PackedLayer({self.index}, {set(self.focus)})"

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self._of_heads("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._of_heads("W_K")

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._of_heads("W_V")

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self._of_heads("W_O")

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"] | None:
        return self._matrix("W_in")

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"] | None:
        return self._matrix("W_gate")

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"] | None:
        return self._matrix("W_out")

    @property
    def exact(self) -> frozenset[int]:
        return frozenset(group for layer, group in self.focus if layer == self.index)

    @property
    def by_codes(self) -> bool:
        return self.store.by_codes

    def rows(self, letter: str, heads: Sequence[int]) -> Float[Tensor, "chosen in out"]:
        return self.store.rows(self.index, letter, heads, self.focus)

    def coded(self, letter: str, heads: Sequence[int] | None) -> Coded | Fused:
        return self.store.coded(self.index, letter, heads)

    def _matrix(self, name: str) -> Tensor | None:
        return self.store.matrix(self.index, name, self.focus)

    def _of_heads(self, name: str) -> Tensor:
        weight = self._matrix(name)
        assert weight is not None  # every model has attention
        return weight
