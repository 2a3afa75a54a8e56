"""What a task hands to a search: aligned clean and corrupted prompts, and what its metrics read.

Search prompts decide the circuit; fresh prompts, never searched on, judge it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.errors import PahqError


@dataclass(frozen=True)
class Prompts:
    """A batch of prompt pairs.

    ``items`` are the (example, position) rows that metrics read. ``targets`` by name, one row per item: ``answer`` and
    ``wrong`` (token ids), ``choices`` (wrong ids, [item, choice]), ``sign`` ([item, vocab]), ``columns`` (output columns
    of a regression). ``position_order`` permutes the rows of the position embedding in the corrupted run (Tracr).
    """

    clean: Int[Tensor, "batch pos"]
    corrupted: Int[Tensor, "batch pos"]
    items: Int[Tensor, "item 2"]
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    position_order: Int[Tensor, " pos"] | None = None

    def __post_init__(self) -> None:
        check_aligned(self.clean, self.corrupted)

    @property
    def last_only(self) -> bool:
        """Whether metrics read the last position of every example and nothing else."""
        return bool((self.items[:, 1] == self.clean.shape[1] - 1).all())


@dataclass(frozen=True)
class Task:
    """Prompts to search on and fresh prompts; ``metric`` is the task's own metric beside KL."""

    name: str
    search: Prompts
    fresh: Prompts
    metric: str


def check_aligned(clean: Int[Tensor, "batch pos"], corrupted: Int[Tensor, "batch pos"]) -> None:
    """Raise PahqError unless both batches have the same, non-empty shape."""
    if clean.dim() != 2 or not clean.numel():
        raise PahqError(f"prompts must be a non-empty [batch, pos] array of token ids, got shape {list(clean.shape)}")
    if clean.shape != corrupted.shape:
        raise PahqError(f"clean prompts have shape {list(clean.shape)}, corrupted ones {list(corrupted.shape)}")


def last_items(batch: int, length: int) -> Int[Tensor, "item 2"]:
    """The last position of every example."""
    return torch.stack((torch.arange(batch), torch.full((batch,), length - 1)), dim=1)


def stack_rows(rows: Sequence[Sequence[int]], what: str) -> Int[Tensor, "batch pos"]:
    """Token rows as one tensor; PahqError naming the first prompt whose length differs from the first one's."""
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise PahqError(f"{what} prompt {i} has {len(row)} tokens where prompt 0 has {len(rows[0])}")
    return torch.tensor([list(row) for row in rows], dtype=torch.long)
