"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593): who receives what is given?

Clean: ``Then , A and B went to the PLACE . B gave a OBJECT to`` -> A, order ABBA. Corrupted: three unrelated names
stand in place of A and both Bs, so nothing in the prompt tells A from B.
"""

from __future__ import annotations

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
from pahq.tasks.words import NANO, OPENINGS, VERBS, Lexicon

METRIC = "logit_diff"


@dataclass(frozen=True)
class IoiExample:
    """A prompt pair; ``answer`` is the indirect object, ``wrong`` the subject."""

    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answer: str
    wrong: str


def sentence(
    first: str,
    second: str,
    giver: str,
    place: str,
    thing: str,
    *,
    opening: str = OPENINGS[0],
    verb: str = VERBS[0],
) -> tuple[str, ...]:
    """The 15 words of one prompt; the task uses one opening and verb, training mixes them."""
    scene = (opening, ",", first, "and", second, "went", "to", "the", place, ".")
    return (*scene, giver, verb, "a", thing, "to")


def draw(rng: Random, lexicon: Lexicon = NANO) -> IoiExample:
    """One ABBA prompt pair; its five names all differ."""
    answer, wrong, *others = rng.sample(lexicon.names, 5)
    place, thing = rng.choice(lexicon.places), rng.choice(lexicon.objects)
    clean = sentence(answer, wrong, wrong, place, thing)
    return IoiExample(clean, sentence(others[0], others[1], others[2], place, thing), answer, wrong)


def different(lexicon: Lexicon) -> int:
    """How many different clean prompts there are."""
    return perm(len(lexicon.names), 2) * len(lexicon.places) * len(lexicon.objects)


def build(config: TaskConfig, model: Reader, seed: int) -> Task:
    """``config.examples`` prompts to search on and as many fresh ones; PahqError if the model lacks a word."""
    encoder = encoder_of(model, "ioi", bos=config.bos)
    lexicon = lexicon_of(encoder)
    possible = different(lexicon)
    check_enough(config, possible)
    drawn = partial(draw, lexicon=lexicon)
    examples = draw_distinct(drawn, 2 * config.examples, Random(f"ioi/{seed}"), config.name)
    search, fresh = examples[: config.examples], examples[config.examples :]
    return Task(config.name, _prompts(search, encoder), _prompts(fresh, encoder), METRIC, possible)


def _prompts(examples: list[IoiExample], encoder: Encoder) -> Prompts:
    clean, corrupted = encode_pairs(
        encoder, [example.clean for example in examples], [example.corrupted for example in examples], "ioi"
    )
    targets = {
        "answer": torch.tensor([encoder.token(example.answer, "ioi name") for example in examples]),
        "wrong": torch.tensor([encoder.token(example.wrong, "ioi name") for example in examples]),
    }
    return Prompts(clean, corrupted, last_items(*clean.shape), targets)
