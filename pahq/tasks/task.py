"""What a task hands to a search: aligned clean and corrupted prompts, and what its metrics read.

Search prompts decide the circuit; fresh prompts, never searched on, judge it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.weights import Model


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


class Example(Protocol):
    """A prompt in words, as the generators of the language tasks draw it (most with its corrupted twin)."""

    @property
    def clean(self) -> tuple[str, ...]: ...


E = TypeVar("E", bound=Example)


def draw_distinct(draw: Callable[[Random], E], count: int, rng: Random, task: str) -> list[E]:
    """``count`` examples with different clean prompts; PahqError where the generator has no so many."""
    drawn: dict[tuple[str, ...], E] = {}
    for _ in range(200 * count):
        example = draw(rng)
        drawn.setdefault(example.clean, example)
        if len(drawn) == count:
            return list(drawn.values())
    raise PahqError(f"task {task!r} has fewer than {count} different prompts; ask for fewer examples")


def encode(model: Model, prompts: Sequence[Sequence[str]], what: str) -> Int[Tensor, "batch pos"]:
    """Token ids of prompts in words.

    Raises PahqError if the model is not word-level, lacks a word (naming it and its prompt) or is too short for the
    prompts, and if a prompt's length differs from the first one's.
    """
    ids = vocabulary_ids(model, what)
    for i, prompt in enumerate(prompts):
        for word in prompt:
            if word not in ids:
                raise PahqError(
                    f"{what} prompt {i} ({' '.join(prompt)}) has the word {word!r}, which the vocabulary of model "
                    f"{model.config.name!r} lacks"
                )
    tokens = stack_rows([[ids[word] for word in prompt] for prompt in prompts], what)
    if tokens.shape[1] > model.config.context:
        raise PahqError(
            f"{what} prompts have {tokens.shape[1]} tokens; model {model.config.name!r} reads {model.config.context}"
        )
    return tokens


def vocabulary_ids(model: Model, what: str) -> dict[str, int]:
    """Token id by word; PahqError for a model without a word-level vocabulary."""
    if model.vocabulary is None:
        raise PahqError(f"{what} prompts are made of words; model {model.config.name!r} has no word-level vocabulary")
    return {word: i for i, word in enumerate(model.vocabulary)}
