"""Induction (Olsson et al. 2022, arXiv 2209.11895): a sequence repeats, so its second pass can be foretold.

Word-level models: distinct random words, a period of 6 to 12 of them repeated up to 24 tokens. Periods differ between
examples: one period for all could be copied by position alone. Models with a tokenizer: ``positions`` distinct random
word tokens in which some stretches of 8 come again, at random distances. Corrupted: another example of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import perm
from random import Random

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.model.weights import Reader
from pahq.tasks.encoder import TextEncoder, encoder_of
from pahq.tasks.task import Prompts, Task, check_enough, draw_distinct
from pahq.tasks.words import CONTENT

METRIC = "nll"
LENGTH = 24
SHORTEST, LONGEST = 6, 12
STRETCH = 8  # tokens that come again in one piece
PER_STRETCH = 50  # positions for each such piece


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


@dataclass(frozen=True)
class TokenExample:
    """A prompt in token ids."""

    clean: tuple[int, ...]


def draw_tokens(rng: Random, pool: Sequence[int], length: int, bos: Sequence[int] = ()) -> TokenExample:
    """``bos`` and distinct random tokens, ``length`` in all; one stretch of 8 comes again for every 50 positions.

    Stretches neither overlap nor share their source.
    """
    count = length - len(bos)
    blocks = count // STRETCH - 1
    first = rng.randrange(STRETCH)
    tokens = rng.sample(pool, count)
    chosen = rng.sample(range(blocks), 2 * max(1, count // PER_STRETCH))
    for one, other in zip(chosen[::2], chosen[1::2], strict=True):
        source, copy = (first + STRETCH * block for block in sorted((one, other)))
        tokens[copy : copy + STRETCH] = tokens[source : source + STRETCH]
    return TokenExample((*bos, *tokens))


def foretold(tokens: Sequence[int]) -> list[int]:
    """Positions whose token occurred before, then followed by the token that follows here too."""
    last: dict[int, int] = {}
    found = []
    for at in range(len(tokens) - 1):
        before = last.get(tokens[at])
        if before is not None and tokens[before + 1] == tokens[at + 1]:
            found.append(at)
        last[tokens[at]] = at
    return found


def derangement(count: int, rng: Random) -> list[int]:
    """A random permutation without fixed points: a single cycle (Sattolo 1986). PahqError for fewer than two."""
    if count < 2:
        raise PahqError("induction takes its corrupted prompts from the batch, so it needs at least 2 examples")
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = rng.randrange(i)
        order[i], order[j] = order[j], order[i]
    return order


def build(config: TaskConfig, model: Reader, seed: int) -> Task:
    """``config.examples`` prompts (two at least) to search on and as many fresh ones."""
    rng, encoder = Random(f"induction/{seed}"), encoder_of(model, "induction", bos=config.bos)
    count = config.examples
    if isinstance(encoder, TextEncoder):
        generator = _token_generator(config, encoder)
        possible = perm(len(generator.keywords["pool"]), STRETCH)  # far more: the first tokens alone
        check_enough(config, possible)
        drawn = draw_distinct(generator, 2 * count, rng, config.name)
        rows = torch.tensor([example.clean for example in drawn])
        places = [foretold(example.clean) for example in drawn]
    else:
        if config.positions is not None:
            raise PahqError(f"task {config.name!r} on a word-level model has {LENGTH} positions; leave positions out")
        possible = sum(perm(len(CONTENT), period) for period in range(SHORTEST, LONGEST + 1))
        check_enough(config, possible)
        examples = draw_distinct(draw, 2 * count, rng, config.name)
        rows = encoder.batch([example.clean for example in examples], "induction")
        shift = rows.shape[1] - LENGTH  # bos
        places = [[shift + at for at in predictable(example.period)] for example in examples]
    search = _prompts(rows[:count], places[:count], rng)
    return Task(config.name, search, _prompts(rows[count:], places[count:], rng), METRIC, possible)


def _token_generator(config: TaskConfig, encoder: TextEncoder) -> partial[TokenExample]:
    name = encoder.model.config.name
    pool, bos = encoder.words(), encoder.ids("", "induction")
    length = config.positions
    if length is None:
        raise PahqError(f"task {config.name!r} on a model with a tokenizer needs positions, the length of its prompts")
    if not 4 * STRETCH <= length - len(bos) <= len(pool):
        raise PahqError(
            f"induction prompts of {length} positions: {4 * STRETCH} to {len(pool)} are possible with model {name!r}"
        )
    encoder.model.config.check_length(length, "induction prompts")
    return partial(draw_tokens, pool=pool, length=length, bos=bos)


def _prompts(clean: Int[Tensor, "batch pos"], places: Sequence[Sequence[int]], rng: Random) -> Prompts:
    items = torch.tensor([(i, at) for i, row in enumerate(places) for at in row])
    targets = {"answer": clean[items[:, 0], items[:, 1] + 1]}
    return Prompts(clean, clean[derangement(len(clean), rng)], items, targets)
