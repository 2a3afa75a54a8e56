"""Docstring completion (Heimersheim and Janiak 2023): which argument is documented next?

Clean: ``def FN ( self , A0 , A1 , A2 , A3 , A4 , A5 ) : \"\"\" W W W . :param A1 : W W :param A2 : W W :param`` -> A3.
Corrupted: the middle arguments of the signature (A1, A2, A3) and the two documented ones become five unrelated names,
so neither the answer nor a link from docstring to signature is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import perm
from random import Random

import torch

from pahq.config.cell import TaskConfig
from pahq.model.weights import Reader
from pahq.tasks.encoder import Encoder, encoder_of
from pahq.tasks.english import lexicon_of
from pahq.tasks.task import Prompts, Task, check_enough, draw_distinct, encode_pairs, last_items
from pahq.tasks.words import NANO, Lexicon

METRIC = "margin"


@dataclass(frozen=True)
class DocstringExample:
    """A prompt pair; ``choices`` are all argument names of both prompts but ``answer``, always ten."""

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answer: str
    choices: tuple[str, ...]


def sentence(
    function: str,
    arguments: Sequence[str],
    summary: Sequence[str],
    documented: Sequence[tuple[str, Sequence[str]]],
) -> tuple[str, ...]:
    """Signature and unfinished docstring, ending on ``:param``; ``documented`` pairs a name with its description."""
    words = ["def", function, "(", "self"]
    for argument in arguments:
        words += [",", argument]
    words += [")", ":", '"""', *summary, "."]
    for name, description in documented:
        words += [":param", name, ":", *description]
    return (*words, ":param")


def draw(rng: Random, lexicon: Lexicon = NANO) -> DocstringExample:
    """One prompt pair of 34 words; its eleven argument names all differ."""
    names = rng.sample(lexicon.arguments, 11)
    arguments, unrelated = names[:6], names[6:]
    function = rng.choice(lexicon.functions)
    summary = rng.sample(lexicon.descriptions, 3)
    texts = [rng.sample(lexicon.descriptions, 2) for _ in range(2)]
    clean = sentence(function, arguments, summary, list(zip(arguments[1:3], texts, strict=True)))
    changed = [arguments[0], *unrelated[:3], *arguments[4:]]
    corrupted = sentence(function, changed, summary, list(zip(unrelated[3:], texts, strict=True)))
    return DocstringExample(clean, corrupted, arguments[3], tuple(name for name in names if name != arguments[3]))


def different(lexicon: Lexicon) -> int:
    """How many different clean prompts there are: a function, six arguments, a summary and two descriptions."""
    words = len(lexicon.descriptions)
    return len(lexicon.functions) * perm(len(lexicon.arguments), 6) * perm(words, 3) * perm(words, 2) ** 2


def build(config: TaskConfig, model: Reader, seed: int) -> Task:
    """``config.examples`` prompts to search on and as many fresh ones; PahqError if the model lacks a word."""
    encoder = encoder_of(model, "docstring", bos=config.bos)
    lexicon = lexicon_of(encoder)
    possible = different(lexicon)
    check_enough(config, possible)
    drawn = partial(draw, lexicon=lexicon)
    examples = draw_distinct(drawn, 2 * config.examples, Random(f"docstring/{seed}"), config.name)
    search, fresh = examples[: config.examples], examples[config.examples :]
    return Task(config.name, _prompts(search, encoder), _prompts(fresh, encoder), METRIC, possible)


def _prompts(examples: list[DocstringExample], encoder: Encoder) -> Prompts:
    clean, corrupted = encode_pairs(
        encoder, [example.clean for example in examples], [example.corrupted for example in examples], "docstring"
    )
    answers = [(example.answer, *example.choices) for example in examples]
    tokens = torch.tensor([[encoder.token(name, "docstring argument") for name in names] for names in answers])
    targets = {"answer": tokens[:, 0], "choices": tokens[:, 1:]}
    return Prompts(clean, corrupted, last_items(*clean.shape), targets)
