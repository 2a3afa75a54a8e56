"""Some heads of a tensor with a leading axis of heads, by slices.

Indexing by a list of numbers would send that list to the device each time, which a GPU's queue has to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def take(values: Tensor, heads: Sequence[int]) -> Tensor:
    """The rows of ``heads`` in their order: a view where they are neighbours, else a copy."""
    parts = [values[run] for _, run in _runs(tuple(heads))]
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else values[:0]


def put(target: Tensor, heads: Sequence[int], values: Tensor) -> None:
    """Write ``values`` into the rows of ``heads``."""
    for place, run in _runs(tuple(heads)):
        target[run] = values[place : place + run.stop - run.start]


@lru_cache(maxsize=1024)
def _runs(heads: tuple[int, ...]) -> tuple[tuple[int, slice], ...]:
    """Neighbours in ascending order together, with their place among ``heads``."""
    runs, first = [], 0
    for i in range(1, len(heads) + 1):
        if i == len(heads) or heads[i] != heads[i - 1] + 1:
            runs.append((first, slice(heads[first], heads[i - 1] + 1)))
            first = i
    return tuple(runs)
