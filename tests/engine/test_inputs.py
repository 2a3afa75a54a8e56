"""A window's states of an input, by one running sum and by hand."""

from __future__ import annotations

import pytest
import torch

from pahq.engine.suffix.inputs import less_and_less, one_by_one


def by_hand(current: torch.Tensor, gone: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for piece in reversed(gone):
        current = current - piece
        found.append(current)
    return found


@pytest.mark.parametrize("senders", [1, 2, 40])
def test_one_running_sum_is_a_subtraction_after_the_other(senders: int) -> None:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    gone = torch.randn(senders, 3, 5, 7, generator=generator, dtype=torch.float64)
    assert torch.equal(less_and_less(current, gone), torch.stack(by_hand(current, gone)))


@pytest.mark.parametrize(
    ("sets", "falls"),
    [
        ([(5,), (5, 3), (5, 3, 0)], True),
        ([(5,)], False),  # of three senders
        ([(5,), (5, 3), (5, 3)], False),
        ([(5,), (5, 3), (5, 3, 0), (5, 3, 0)], False),
        ([(5,), (3,), (5, 3, 0)], False),
        ([(5,), (5, 0), (5, 0, 3)], False),
        ([(0,), (0, 3), (0, 3, 5)], False),
    ],
)
def test_a_running_sum_is_for_sets_that_take_senders_one_by_one(sets: list[tuple[int, ...]], falls: bool) -> None:
    assert one_by_one(sets, [0, 3, 5]) == falls


@pytest.mark.gpu
@pytest.mark.parametrize("senders", [1, 2, 64])
def test_on_a_gpu_it_is_so_bit_for_bit_in_float32(senders: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    current = torch.randn(16, 15, 768, generator=generator, device="cuda")
    gone = torch.randn(senders, 16, 15, 768, generator=generator, device="cuda")
    assert torch.equal(less_and_less(current, gone), torch.stack(by_hand(current, gone)))
