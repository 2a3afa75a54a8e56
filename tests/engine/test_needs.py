"""Positions that a node is needed at: what is read of a tensor, and what is written over."""

from __future__ import annotations

import pytest
import torch

from pahq.engine.suffix.needs import EVERYWHERE, LAST, NOWHERE, at_need, overwrite, put_at_need

WHOLE = torch.arange(2 * 5 * 3.0).view(2, 5, 3)


def test_more_positions_are_a_larger_need() -> None:
    assert NOWHERE < LAST < EVERYWHERE
    assert not NOWHERE


def test_a_need_takes_all_positions_or_the_last_one() -> None:
    assert torch.equal(at_need(WHOLE, EVERYWHERE), WHOLE)
    assert torch.equal(at_need(WHOLE, LAST), WHOLE[:, 4:])
    for need in (LAST, EVERYWHERE):  # of a tensor that holds the last one alone
        assert torch.equal(at_need(WHOLE[:, 4:], need), WHOLE[:, 4:])


@pytest.mark.parametrize("first", [0, 4])
def test_what_is_written_over_are_the_positions_of_the_values(first: int) -> None:
    place = torch.zeros(2, 5, 3)
    overwrite(place, WHOLE[:, first:])
    assert torch.equal(place[:, first:], WHOLE[:, first:])
    assert not place[:, :first].any()
    narrow = torch.zeros(2, 1, 3)
    overwrite(narrow, WHOLE[:, 4:])
    assert torch.equal(narrow, WHOLE[:, 4:])


@pytest.mark.parametrize("first", [0, 4])
def test_heads_are_written_over_at_the_positions_of_the_values(first: int) -> None:
    place = torch.zeros(4, 2, 5, 3)
    values = torch.stack((WHOLE, -WHOLE))[:, :, first:]
    put_at_need(place, (1, 3), values)
    assert torch.equal(place[[1, 3], :, first:], values)
    assert not place[[0, 2]].any()
    assert not place[:, :, :first].any()
