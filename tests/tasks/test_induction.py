"""Induction: varying periods, items wherever the next word has been seen coming, a deranged batch."""

from __future__ import annotations

from random import Random

import pytest

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.tasks import induction


def test_sequences_repeat_distinct_words_with_every_period():
    rng = Random(0)
    periods = set()
    for _ in range(200):
        example = induction.draw(rng)
        assert len(example.clean) == 24
        assert len(set(example.clean)) == example.period
        assert all(example.clean[at] == example.clean[at - example.period] for at in range(example.period, 24))
        periods.add(example.period)
    assert periods == set(range(6, 13))


def test_items_are_the_positions_whose_word_occurred_before(model):
    task = induction.build(TaskConfig(name="i", kind="induction", examples=12, metric="nll"), model, 0)
    for prompts in (task.search, task.fresh):
        expected = []
        for i, row in enumerate(prompts.clean.tolist()):
            for at in range(23):
                if row[at] in row[:at]:
                    before = row.index(row[at])
                    expected.append((i, at, row[before + 1]))
        found = [
            (*item, answer)
            for item, answer in zip(prompts.items.tolist(), prompts.targets["answer"].tolist(), strict=True)
        ]
        assert found == expected


def test_corrupted_rows_are_the_other_rows_of_the_batch(model):
    task = induction.build(TaskConfig(name="i", kind="induction", examples=12, metric="nll"), model, 0)
    for prompts in (task.search, task.fresh):
        assert sorted(prompts.corrupted.tolist()) == sorted(prompts.clean.tolist())
        assert (prompts.corrupted != prompts.clean).any(1).all()


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_derangements_fix_no_point(count):
    for seed in range(20):
        order = induction.derangement(count, Random(seed))
        assert sorted(order) == list(range(count))
        assert all(i != j for i, j in enumerate(order))


def test_one_example_has_no_other_to_be_corrupted_by(model):
    with pytest.raises(PahqError, match="at least 2 examples"):
        induction.build(TaskConfig(name="i", kind="induction", examples=1, metric="nll"), model, 0)
