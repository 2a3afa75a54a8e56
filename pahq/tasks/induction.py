"""Induction (Olsson et al. 2022, arXiv 2209.11895): a sequence repeats, so its second pass can be foretold.

Clean: distinct random words, a period of 6 to 12 of them repeated up to 24 tokens. Periods differ between examples: one
period for all could be copied by position alone. Corrupted: another example of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch

from pahq.config import TaskConfig
from pahq.errors import PahqError
from pahq.model.weights import Model
from pahq.tasks.task import Prompts, Task, draw_distinct, encode
from pahq.tasks.words import CONTENT

METRIC = "nll"
LENGTH = 24
SHORTEST, LONGEST = 6, 12


@dataclass(frozen=True)
class InductionExample:
    """A prompt and its period; its corrupted prompt is another example's clean one."""

    clean: tuple[str, ...]
    period: int


def sentence(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words over and over, cut at 24."""
    return tuple(words[i % len(words)] for i in range(LENGTH))


def draw(rng: Random) -> InductionExample:
    """One sequence; its period is uniform over 6 to 12."""
    period = rng.randint(SHORTEST, LONGEST)
    return InductionExample(sentence(tuple(rng.sample(CONTENT, period))), period)


def predictable(period: int) -> range:
    """Positions whose next word follows from the words so far: those of words that occurred before."""
    return range(period, LENGTH - 1)


def derangement(count: int, rng: Random) -> list[int]:
    """A random permutation without fixed points: a single cycle (Sattolo 1986). PahqError for fewer than two."""
    if count < 2:
        raise PahqError("induction takes its corrupted prompts from the batch, so it needs at least 2 examples")
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = rng.randrange(i)
        order[i], order[j] = order[j], order[i]
    return order


def build(config: TaskConfig, model: Model, seed: int) -> Task:
    """``config.examples`` prompts (two at least) to search on and as many fresh ones."""
    rng = Random(f"induction/{seed}")
    examples = draw_distinct(draw, 2 * config.examples, rng, config.name)
    search, fresh = examples[: config.examples], examples[config.examples :]
    return Task(config.name, _prompts(search, model, rng), _prompts(fresh, model, rng), METRIC)


def _prompts(examples: list[InductionExample], model: Model, rng: Random) -> Prompts:
    clean = encode(model, [example.clean for example in examples], "induction")
    places = [(i, at) for i, example in enumerate(examples) for at in predictable(example.period)]
    items = torch.tensor(places)
    targets = {"answer": clean[items[:, 0], items[:, 1] + 1]}
    return Prompts(clean, clean[derangement(len(examples), rng)], items, targets)
