"""Lent memory comes back when no tensor can read it any more, and not before."""

from __future__ import annotations

import torch

from pahq.model.buffers import Buffers, pages

CPU = torch.device("cpu")


def test_a_place_is_lent_again_once_its_last_view_is_gone() -> None:
    buffers = Buffers((4, 3), torch.float32, CPU)
    first = buffers.lend()
    place, row = first.data_ptr(), first.T[1]
    del first
    second = buffers.lend()
    assert second.data_ptr() != place  # the row can still be read
    row.fill_(7)
    assert not (second == 7).any()
    del row
    assert buffers.lend().data_ptr() == place


def test_places_that_are_not_needed_go_back() -> None:
    buffers = Buffers((1000,), torch.float64, CPU)
    held = [buffers.lend() for _ in range(5)]
    assert buffers.nbytes == 5 * 8000
    held.clear()
    kept = buffers.lend()
    assert buffers.nbytes == 8000
    assert kept.shape == (1000,)


def test_pages_are_a_tensor_like_any_other() -> None:
    x = pages((3, 5), torch.float64)
    assert x.dtype == torch.float64
    assert not x.any()
    assert x.data_ptr() % 64 == 0
    assert torch.equal((x + 1).sum(1), torch.full((3,), 5.0, dtype=torch.float64))
    assert pages((0, 5), torch.float32).numel() == 0
