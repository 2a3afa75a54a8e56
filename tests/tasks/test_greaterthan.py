"""Greater-than: 10 words, the start year in the clean prompt, 01 in the corrupted one."""

from __future__ import annotations

from random import Random

from pahq.config.cell import TaskConfig
from pahq.tasks import greaterthan
from pahq.tasks.words import NUMBERS, VOCABULARY


def test_the_sentence():
    assert " ".join(greaterthan.sentence("siege", 5)) == "The siege lasted from the year 17 05 to 17"


def test_corrupted_changes_the_year_alone_to_01():
    rng = Random(0)
    years = set()
    for _ in range(3000):
        example = greaterthan.draw(rng)
        assert example.clean[7] == NUMBERS[example.year]
        assert example.corrupted == (*example.clean[:7], "01", *example.clean[8:])
        years.add(example.year)
    assert years == set(range(2, 99))


def test_signs_split_the_two_digit_tokens_at_the_year(model):
    task = greaterthan.build(TaskConfig(name="g", kind="greaterthan", examples=8, metric="prob_diff"), model, 0)
    for row, sign in zip(task.fresh.clean, task.fresh.targets["sign"], strict=True):
        year = int(VOCABULARY[row[7]])
        for word, value in zip(VOCABULARY, sign.tolist(), strict=True):
            expected = 0 if word not in NUMBERS else 1 if int(word) > year else -1
            assert value == expected, word
