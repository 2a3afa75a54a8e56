"""IOI: 15 words, ABBA, three unrelated names in the corrupted twin."""

from __future__ import annotations

from random import Random

from pahq.config.cell import TaskConfig
from pahq.tasks import ioi
from pahq.tasks.words import NAMES

NAME_PLACES = (2, 4, 10)


def test_the_sentence():
    words = ioi.sentence("Agnes", "Bruno", "Bruno", "harbour", "basket")
    assert " ".join(words) == "Then , Agnes and Bruno went to the harbour . Bruno gave a basket to"


def test_clean_is_abba_and_corrupted_changes_the_three_names_alone():
    rng = Random(0)
    for _ in range(200):
        example = ioi.draw(rng)
        assert len(example.clean) == len(example.corrupted) == 15
        assert [example.clean[at] for at in NAME_PLACES] == [example.answer, example.wrong, example.wrong]
        assert example.answer != example.wrong
        new = [example.corrupted[at] for at in NAME_PLACES]
        assert set(new) <= set(NAMES)
        assert len({*new, example.answer, example.wrong}) == 5
        changed = [at for at in range(15) if example.clean[at] != example.corrupted[at]]
        assert changed == list(NAME_PLACES)


def test_targets_are_the_names_in_the_prompt(model, words):
    task = ioi.build(TaskConfig(name="ioi", kind="ioi", examples=8, metric="logit_diff"), model, 0)
    for prompts in (task.search, task.fresh):
        assert prompts.last_only
        assert prompts.items[:, 0].tolist() == list(range(8))
        assert (prompts.targets["answer"] == prompts.clean[:, 2]).all()
        assert (prompts.targets["wrong"] == prompts.clean[:, 10]).all()
