"""Greater-than (Hanna et al. 2023, arXiv 2305.00586): a period ends in a later year than it began in.

Clean: ``The NOUN lasted from the year 17YY to 17`` -> any two digits above YY. Corrupted: YY is 01, after which every
end from 02 on is right. Where every digit is a token of its own (kind greaterthan-digits): ``... from the year 17DU to
the year 17`` -> a digit above D; D itself counts neither way, since the last digit may yet decide. Corrupted: D is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.model.weights import Reader
from pahq.tasks.encoder import Encoder, encoder_of
from pahq.tasks.english import lexicon_of
from pahq.tasks.task import Prompts, Task, check_enough, draw_distinct, encode_pairs, last_items
from pahq.tasks.words import NANO, NUMBERS, Lexicon

METRIC = "prob_diff"
FIRST_YEAR, LAST_YEAR = 2, 98
CENTURY = 17
YEARS = tuple(range(FIRST_YEAR, LAST_YEAR + 1))
DIGITS = tuple("0123456789")
DECADES = range(1, 9)
DIGIT_KIND = "greaterthan-digits"


@dataclass(frozen=True)
class GreaterThanExample:
    """A prompt pair; ``year`` is the two-digit year in which the clean prompt begins (or its first digit alone)."""

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    year: int


def sentence(noun: str, year: int, *, century: int = CENTURY) -> tuple[str, ...]:
    """The 10 words of one prompt."""
    digits = NUMBERS[century]
    return ("The", noun, "lasted", "from", "the", "year", digits, NUMBERS[year], "to", digits)


def digit_sentence(noun: str, year: int, *, century: int = CENTURY) -> tuple[str, ...]:
    """One prompt with its numbers in single digits."""
    digits = tuple(str(century))
    return ("The", noun, "lasted", "from", "the", "year", *digits, *NUMBERS[year], "to", "the", "year", *digits)


def draw(rng: Random, lexicon: Lexicon = NANO, years: Sequence[int] = YEARS) -> GreaterThanExample:
    """One prompt pair, its year uniform over ``years``."""
    noun, year = rng.choice(lexicon.nouns), rng.choice(years)
    return GreaterThanExample(sentence(noun, year), sentence(noun, 1), year)


def draw_digits(rng: Random, lexicon: Lexicon) -> GreaterThanExample:
    """One prompt pair, its decade uniform over 1 to 8 and its last digit over 0 to 9."""
    noun, decade, last = rng.choice(lexicon.nouns), rng.randint(DECADES[0], DECADES[-1]), rng.randint(0, 9)
    return GreaterThanExample(digit_sentence(noun, 10 * decade + last), digit_sentence(noun, last), decade)


def build(config: TaskConfig, model: Reader, seed: int) -> Task:
    """``config.examples`` prompts to search on and as many fresh ones; PahqError if the model lacks a word."""
    encoder = encoder_of(model, "greaterthan", bos=config.bos)
    lexicon, years = lexicon_of(encoder), years_of(encoder)
    drawn = partial(draw, lexicon=lexicon, years=years)
    answers = [encoder.token(number, "greaterthan year", inside=True) for number in NUMBERS]
    return _task(config, encoder, drawn, answers, seed, len(lexicon.nouns) * len(years))


def build_digits(config: TaskConfig, model: Reader, seed: int) -> Task:
    """The same with a token for every digit; PahqError for a model whose numbers have longer tokens."""
    encoder = encoder_of(model, "greaterthan-digits", bos=config.bos)
    century = encoder.ids(str(CENTURY), "greaterthan-digits")
    answers = [encoder.token(digit, "greaterthan digit", inside=True) for digit in DIGITS]
    if century[-2:] != [answers[int(digit)] for digit in str(CENTURY)]:
        raise PahqError(
            f"task {config.name!r} needs a token for every digit; model {model.config.name!r} reads {CENTURY} as "
            f"{encoder.shown(century)}: take kind greaterthan"
        )
    lexicon = lexicon_of(encoder)
    possible = len(lexicon.nouns) * len(DECADES) * len(DIGITS)
    return _task(config, encoder, partial(draw_digits, lexicon=lexicon), answers, seed, possible)


def _task(
    config: TaskConfig,
    encoder: Encoder,
    drawn: partial[GreaterThanExample],
    answers: Sequence[int],
    seed: int,
    possible: int,
) -> Task:
    check_enough(config, possible)
    examples = draw_distinct(drawn, 2 * config.examples, Random(f"greaterthan/{seed}"), config.name)
    search, fresh = examples[: config.examples], examples[config.examples :]
    prompts = partial(_prompts, encoder=encoder, answers=answers, digits=config.kind == DIGIT_KIND)
    return Task(config.name, prompts(search), prompts(fresh), METRIC, possible)


def years_of(encoder: Encoder) -> tuple[int, ...]:
    """The years whose number, 17YY, is the tokens 17 and YY: a number that the tokenizer joins has no place for YY."""
    if not encoder.reads_text:
        return YEARS
    century = encoder.ids(f" {CENTURY}", "greaterthan century")
    whole = {year: encoder.ids(f" {CENTURY}{NUMBERS[year]}", "greaterthan year") for year in (1, *YEARS)}
    split = [year for year, ids in whole.items() if ids[:-1] == century and encoder.shown(ids[-1:]) == NUMBERS[year]]
    if 1 not in split or len(split) < 2:
        raise PahqError(
            f"task greaterthan needs a token for the last two digits of a year; this model reads 1701 as "
            f"{encoder.shown(whole[1])}: for a token a digit take kind {DIGIT_KIND}"
        )
    return tuple(split[1:])


def signs(
    years: Sequence[int], answers: Sequence[int], size: int, *, digits: bool
) -> Float[Tensor, "item d_vocab_out"]:
    """+1 on the tokens ``answers[n]`` of numbers n above each year, -1 on the others, 0 on all other tokens.

    ``digits``: 0 on the year's own digit too.
    """
    numbers, start = torch.arange(len(answers)), torch.tensor(years)[:, None]
    sign = torch.zeros(len(years), size)
    sign[:, list(answers)] = (numbers > start).float() - ((numbers < start) if digits else (numbers <= start)).float()
    return sign


def _prompts(examples: list[GreaterThanExample], encoder: Encoder, answers: Sequence[int], *, digits: bool) -> Prompts:
    clean, corrupted = encode_pairs(
        encoder, [example.clean for example in examples], [example.corrupted for example in examples], "greaterthan"
    )
    sign = signs([example.year for example in examples], answers, encoder.size, digits=digits)
    return Prompts(clean, corrupted, last_items(*clean.shape), {"sign": sign})
