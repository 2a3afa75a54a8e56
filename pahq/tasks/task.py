"""What a task hands to a search: aligned clean and corrupted prompts, and what its metrics read.

Search prompts decide the circuit; fresh prompts, never searched on, judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.tasks.encoder import Encoder, Words


@dataclass(frozen=True)
class Prompts:
    """A batch of prompt pairs.

    ``items`` are the (example, position) rows that metrics read. ``targets`` by name, one row per item: ``answer`` and
    ``wrong`` (token ids), ``choices`` (wrong ids, [item, choice]), ``sign`` ([item, vocab]), ``columns`` (output
    columns of a regression). ``position_order`` permutes the rows of the position embedding in the corrupted run
    (Tracr).
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
    """Prompts to search on and fresh prompts; ``metric`` is the task's own metric beside KL.

    ``different``: how many different prompts (or at least so many) there are to draw from, where prompts are drawn.
    ``notes``: sentences that the user of the task is to be told.
    """

    name: str
    search: Prompts
    fresh: Prompts
    metric: str
    different: int | None = None
    notes: tuple[str, ...] = ()


def check_aligned(clean: Int[Tensor, "batch pos"], corrupted: Int[Tensor, "batch pos"]) -> None:
    """Raise PahqError unless both batches are tensors of the same, non-empty shape."""
    for tokens in (clean, corrupted):
        if not isinstance(tokens, Tensor):
            raise PahqError(
                f"prompts must be a tensor of token ids, not {type(tokens).__name__}; pahq.prompts takes any array"
            )
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


class Example(Protocol):
    """A prompt, as the generators of the language tasks draw it: words or tokens (most with its corrupted twin)."""

    @property
    def clean(self) -> tuple[Any, ...]: ...


E = TypeVar("E", bound=Example)


def draw_distinct(draw: Callable[[Random], E], count: int, rng: Random, task: str) -> list[E]:
    """``count`` examples with different clean prompts; PahqError where the generator has not that many."""
    drawn: dict[tuple[Any, ...], E] = {}
    for _ in range(200 * count):
        example = draw(rng)
        drawn.setdefault(example.clean, example)
        if len(drawn) == count:
            return list(drawn.values())
    raise PahqError(f"task {task!r} has fewer than {count} different prompts; ask for fewer examples")


def check_enough(config: TaskConfig, possible: int | None) -> None:
    """Raise PahqError where a task, which has ``possible`` different prompts, has too few for search and judgement."""
    if possible is not None and 2 * config.examples > possible:
        raise PahqError(
            f"task {config.name!r} has {possible} different prompts, and half of those drawn are fresh ones: at most "
            f"{possible // 2} examples can be asked for, not {config.examples}"
        )


def encode_pairs(
    encoder: Encoder, clean: Sequence[Words], corrupted: Sequence[Words], what: str
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Clean and corrupted token ids of a task's prompts in words, aligned token by token.

    Raises PahqError naming the prompt whose length differs or where more (or fewer) tokens change than words do: then a
    word that changes is not one token.
    """
    tokens = encoder.batch(clean, f"clean {what}"), encoder.batch(corrupted, f"corrupted {what}")
    if tokens[0].shape[1] != tokens[1].shape[1]:
        lengths = [len(rows[0]) for rows in tokens]
        shown = [encoder.shown(rows[0].tolist()) for rows in tokens]
        raise PahqError(
            f"clean {what} prompt 0 has {lengths[0]} tokens ({shown[0]}), its corrupted twin {lengths[1]} ({shown[1]})"
        )
    for i, (a, b, row, twin) in enumerate(zip(clean, corrupted, *(rows.tolist() for rows in tokens), strict=True)):
        words, changed = _differences(a, b), _differences(row, twin)
        if words != changed:
            raise PahqError(
                f"{what} prompt {i} differs from its corrupted twin in {words} words but in {changed} tokens "
                f"({encoder.shown(row)} and {encoder.shown(twin)})"
            )
    return tokens


def _differences(one: Sequence[object], other: Sequence[object]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))
