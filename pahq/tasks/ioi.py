"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593): who receives what is given?

Clean: ``Then , A and B went to the PLACE . B gave a OBJECT to`` -> A, order ABBA. Corrupted: three unrelated names
stand in place of A and both Bs, so nothing in the prompt tells A from B.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pahq.config import TaskConfig
from pahq.model.weights import Model
from pahq.tasks.task import Prompts, Task, draw_distinct, encode, last_items
from pahq.tasks.words import NAMES, OBJECTS, OPENINGS, PLACES, VERBS

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


def draw(rng: Random) -> IoiExample:
    """One ABBA prompt pair; its five names all differ."""
    answer, wrong, *others = rng.sample(NAMES, 5)
    place, thing = rng.choice(PLACES), rng.choice(OBJECTS)
    clean = sentence(answer, wrong, wrong, place, thing)
    return IoiExample(clean, sentence(others[0], others[1], others[2], place, thing), answer, wrong)


def build(config: TaskConfig, model: Model, seed: int) -> Task:
    """``config.examples`` prompts to search on and as many fresh ones; PahqError if the model lacks a word."""
    examples = draw_distinct(draw, 2 * config.examples, Random(f"ioi/{seed}"), config.name)
    search, fresh = examples[: config.examples], examples[config.examples :]
    return Task(config.name, _prompts(search, model), _prompts(fresh, model), METRIC)


def _prompts(examples: list[IoiExample], model: Model) -> Prompts:
    clean = encode(model, [example.clean for example in examples], "clean ioi")
    corrupted = encode(model, [example.corrupted for example in examples], "corrupted ioi")
    names = encode(model, [(example.answer, example.wrong) for example in examples], "ioi answer")
    targets = {"answer": names[:, 0], "wrong": names[:, 1]}
    return Prompts(clean, corrupted, last_items(*clean.shape), targets)
