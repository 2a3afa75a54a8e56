"""Greater-than (Hanna et al. 2023, arXiv 2305.00586): a period ends in a later year than it began in.

Clean: ``The NOUN lasted from the year 17 YY to 17`` -> any two digits above YY. Corrupted: YY is 01, after which every
end from 02 on is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.config import TaskConfig
from pahq.model.weights import Model
from pahq.tasks.task import Prompts, Task, draw_distinct, encode, last_items
from pahq.tasks.words import NOUNS, NUMBERS

METRIC = "prob_diff"
FIRST_YEAR, LAST_YEAR = 2, 98
CENTURY = 17


@dataclass(frozen=True)
class GreaterThanExample:
    """A prompt pair; ``year`` is the two-digit year in which the clean prompt begins."""

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    year: int


def sentence(noun: str, year: int, *, century: int = CENTURY) -> tuple[str, ...]:
    """The 10 words of one prompt."""
    digits = NUMBERS[century]
    return ("The", noun, "lasted", "from", "the", "year", digits, NUMBERS[year], "to", digits)


def draw(rng: Random) -> GreaterThanExample:
    """One prompt pair, its year uniform over 02 to 98."""
    noun, year = rng.choice(NOUNS), rng.randint(FIRST_YEAR, LAST_YEAR)
    return GreaterThanExample(sentence(noun, year), sentence(noun, 1), year)


def build(config: TaskConfig, model: Model, seed: int) -> Task:
    """``config.examples`` prompts to search on and as many fresh ones; PahqError if the model lacks a word."""
    examples = draw_distinct(draw, 2 * config.examples, Random(f"greaterthan/{seed}"), config.name)
    search, fresh = examples[: config.examples], examples[config.examples :]
    return Task(config.name, _prompts(search, model), _prompts(fresh, model), METRIC)


def signs(years: list[int], model: Model) -> Float[Tensor, "item d_vocab_out"]:
    """+1 on the two-digit tokens above each year, -1 on the others from 00 to 99, 0 on all other tokens."""
    # Single-word prompts, since the 100 tokens need not fit into the model's context.
    digits = encode(model, [(number,) for number in NUMBERS], "greaterthan answer")[:, 0]
    later = torch.arange(len(NUMBERS)) > torch.tensor(years)[:, None]
    sign = torch.zeros(len(years), model.config.d_vocab_out)
    sign[:, digits] = later.float() * 2 - 1
    return sign


def _prompts(examples: list[GreaterThanExample], model: Model) -> Prompts:
    clean = encode(model, [example.clean for example in examples], "clean greaterthan")
    corrupted = encode(model, [example.corrupted for example in examples], "corrupted greaterthan")
    targets = {"sign": signs([example.year for example in examples], model)}
    return Prompts(clean, corrupted, last_items(*clean.shape), targets)
