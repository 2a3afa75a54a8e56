"""Rows that waves put together again and again, as many as memory allows: weights and earlier keys of some heads."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor


class Gathered:
    """Tensors by name. What is kept stays: waves ask for the same ones over and over, so turning them over would lose
    each before it is used again."""

    def __init__(self, capacity_bytes: int) -> None:
        self._left = capacity_bytes
        self._kept: dict[tuple[int, Hashable], tuple[Tensor, object]] = {}

    def __call__(self, name: Hashable, make: Callable[[], Tensor], of: object = None) -> Tensor:
        """The tensor of that name, which is the same whenever it is made of the same layer (``of``)."""
        key = id(of), name
        if key in self._kept:
            return self._kept[key][0]
        made = make()
        if made.nbytes <= self._left:
            self._kept[key] = made, of  # which lives as long, so that its id is its own
            self._left -= made.nbytes
        return made
