"""What one forward pass leaves behind for a search, and what may be put in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Everything one forward pass computed that a search asks for.

    ``start`` holds the embedding senders, ``z[layer]`` the heads before W_O (d_head wide: a twelfth of their outputs on
    GPT-2), ``mlp[layer]`` the MLPs' outputs (empty without MLPs), ``final`` the residual stream at the end. All other
    streams are sums of these (``forward.streams``).
    """

    start: Sequence[Float[Tensor, "batch pos d_model"]]
    z: Sequence[Float[Tensor, "head batch pos d_head"]]
    mlp: Sequence[Float[Tensor, "batch pos d_model"]]
    final: Float[Tensor, "batch pos d_model"]

    def map(self, change: Callable[[Tensor], Tensor]) -> Run:
        """Every tensor changed: to some positions of it, say."""
        start, z, mlp = (_changed(values, change) for values in (self.start, self.z, self.mlp))
        return Run(start, z, mlp, change(self.final))

    def since(self, first: int) -> Run:
        """Views of the positions from ``first`` on."""
        return self.map(lambda x: x[..., first:, :])

    def narrow(self, dtype: torch.dtype) -> Run:
        """The same run with its senders held in ``dtype``; read, they are as wide as before."""
        parts = (self.start, self.z, self.mlp)
        start, z, mlp = (Narrow([x.to(dtype) for x in values], self.final.dtype) for values in parts)
        return Run(start, z, mlp, self.final)

    @property
    def nbytes(self) -> int:
        """Bytes of everything held."""
        held = (values.held if isinstance(values, Narrow) else values for values in (self.start, self.z, self.mlp))
        return self.final.nbytes + sum(x.nbytes for values in held for x in values)


class Narrow(Sequence[Tensor]):
    """Tensors held in one dtype and read in another."""

    def __init__(self, held: Sequence[Tensor], wide: torch.dtype) -> None:
        self.held, self.wide = held, wide

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: Any) -> Any:
        return self.held[index].to(self.wide)


def _changed(values: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Sequence[Tensor]:
    if isinstance(values, Narrow):
        return Narrow([change(x) for x in values.held], values.wide)
    return tuple(change(x) for x in values)


@dataclass(frozen=True)
class Fixed:
    """Values that senders take in place of what they compute (zero and mean ablation), laid out as in ``Run``."""

    start: tuple[Float[Tensor, "batch pos d_model"], ...]
    z: tuple[Float[Tensor, "head batch pos d_head"], ...]
    mlp: tuple[Float[Tensor, "batch pos d_model"], ...]
