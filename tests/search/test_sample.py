"""Seeded samples and what they bound: against exact probabilities."""

from __future__ import annotations

import pytest

from pahq.search.sample import binomial, drawn, upper_rate


def test_the_upper_rate_leaves_the_right_tail() -> None:
    assert upper_rate(0, 29, 0.95) == pytest.approx(1 - 0.05 ** (1 / 29))
    assert upper_rate(3, 3, 0.95) == 1
    assert upper_rate(0, 0, 0.95) == 1
    rate = upper_rate(1, 10, 0.9)
    assert (1 - rate) ** 10 + 10 * rate * (1 - rate) ** 9 == pytest.approx(0.1)


def test_binomial_probabilities_add_up() -> None:
    assert binomial(4, 2, 0.5) == pytest.approx(6 / 16)
    assert sum(binomial(30, k, 0.17) for k in range(31)) == pytest.approx(1)


def test_drawing_depends_on_nothing_but_seed_and_index() -> None:
    chosen = [i for i in range(4000) if drawn(3, i, 0.1)]
    assert 320 < len(chosen) < 480
    assert chosen == [i for i in range(4000) if drawn(3, i, 0.1)]
    assert chosen != [i for i in range(4000) if drawn(4, i, 0.1)]
    assert not any(drawn(0, i, 0.0) for i in range(1000))
    assert all(drawn(0, i, 1.0) for i in range(1000))


def test_a_larger_share_draws_all_that_a_smaller_one_does() -> None:
    assert all(drawn(1, i, 0.3) for i in range(2000) if drawn(1, i, 0.1))
