"""The word lists: disjoint, so that a word has one role, and sized as the tasks assume."""

from __future__ import annotations

from pahq.tasks import words


def test_every_word_stands_in_one_list_once():
    assert len(set(words.VOCABULARY)) == len(words.VOCABULARY)


def test_numbers_are_the_two_digit_tokens_in_order():
    assert len(words.NUMBERS) == 100
    assert all(int(word) == i and len(word) == 2 for i, word in enumerate(words.NUMBERS))


def test_induction_draws_no_template_word_and_no_number():
    assert not set(words.CONTENT) & set(words.TEMPLATE + words.NUMBERS + words.OPENINGS + words.VERBS)
