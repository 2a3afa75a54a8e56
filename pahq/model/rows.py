"""Some heads of a tensor with a leading axis of heads, by slices.

Indexing by a list of numbers would send that list to the device each time, which a GPU's queue has to wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def take(values: Tensor, heads: Sequence[int]) -> Tensor:
    """The rows of ``heads`` in their order: a view where they are neighbours, else a copy."""
    parts = [values[run] for _, run in _runs(heads)]
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else values[:0]


def put(target: Tensor, heads: Sequence[int], values: Tensor) -> None:
    """Write ``values`` into the rows of ``heads``."""
    for place, run in _runs(heads):
        target[run] = values[place : place + run.stop - run.start]


def _runs(heads: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Neighbours in ascending order together, with their place among ``heads``."""
    first = 0
    for i in range(1, len(heads) + 1):
        if i == len(heads) or heads[i] != heads[i - 1] + 1:
            yield first, slice(heads[first], heads[i - 1] + 1)
            first = i
