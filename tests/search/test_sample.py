"""Seeded samples and what they bound: against exact probabilities."""

from __future__ import annotations

import pytest

from pahq.search.sample import binomial, drawn, unseen_share, upper_rate


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


def test_an_unseen_share_counts_the_tests_that_are_drawn_most_seldom() -> None:
    assert unseen_share([1.0] * 10, 0.95) == 0.1  # every test is seen: not even one is left
    assert unseen_share([0.1] * 100, 0.95) == 0.29  # 0.9 ** 28 is above 5%, 0.9 ** 29 below
    assert unseen_share([0.1] * 20, 0.95) == 1.0  # all 20 may have been missed
    assert unseen_share([], 0.95) == 1.0
    uneven = [0.5] * 50 + [0.01] * 50
    assert unseen_share(uneven, 0.95) == pytest.approx(0.54)  # 0.99 ** 50 is 61%: four more of the others are needed


def test_an_unseen_share_is_as_sure_as_it_says() -> None:
    """Of many samples, those that miss a share of tests of one kind altogether are at most one in twenty."""
    shares = [min(0.1, 40 / (i + 1)) for i in range(1000)]
    share = unseen_share(shares, 0.95)
    kind = range(1000 - round(share * 1000), 1000)  # the last ones, which are drawn most seldom
    missed = sum(not any(drawn(seed, i, shares[i]) for i in kind) for seed in range(400))
    assert missed <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5
