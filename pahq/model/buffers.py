"""Memory of one shape, lent out again and again: a search unpacks thousands of weights into the same few places.

A place is free once the last tensor over it is gone, views included, so no one can read what a later weight overwrote.
On a CPU a place is pages of its own, which go back to the system with it: freed blocks of megabytes otherwise stay in
the C library's heap, and in the process's peak.
"""

from __future__ import annotations

import math
import mmap
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class _Place:
    memory: Tensor
    loan: weakref.ref[np.ndarray[Any, Any]]


class Buffers:
    """Lends float32 or float64 tensors of one shape."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        self._places: list[_Place] = []

    def lend(self) -> Tensor:
        """A tensor of unspecified values; its place comes back when it and all views of it are gone."""
        if self._device.type != "cpu":
            return torch.empty(self._shape, dtype=self._dtype, device=self._device)  # torch keeps freed blocks itself
        free = [place for place in self._places if place.loan() is None]
        memory = free[0].memory if free else pages(self._shape, self._dtype)
        # torch holds the very array that it is given, so the array lives as long as any tensor over it
        array = memory.numpy()[:]
        busy = [place for place in self._places if place.loan() is not None]
        self._places = [*busy, _Place(memory, weakref.ref(array))]  # places that nobody needed at once are given up
        return torch.from_numpy(array)

    @property
    def nbytes(self) -> int:
        """Bytes held, lent out or not (CPU)."""
        return sum(place.memory.nbytes for place in self._places)


def pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A CPU tensor of zeros in memory that returns to the system when the last tensor over it is gone."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)
