"""Hard concrete masks: their expected L0 is what drawing finds, and gradients pass where a mask is neither 0 nor 1."""

from __future__ import annotations

import pytest
import torch

from pahq.scores.hardconcrete import probability, sampled


@pytest.mark.parametrize("log_alpha", [-4.0, -1.6, 0.0, 1.0, 2.2])
def test_the_expected_l0_is_that_of_many_draws(log_alpha: float):
    draws, at = 200_000, torch.tensor(log_alpha, dtype=torch.float64)
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    masks = sampled(at.expand(draws), uniform)
    expected = float(probability(at))
    noise = (expected * (1 - expected) / draws) ** 0.5
    assert abs(float((masks > 0).double().mean()) - expected) < 5 * noise
    assert 0 <= float(masks.min()) <= float(masks.max()) <= 1
    assert abs(float((masks < 1).double().mean()) - float(probability(-at))) < 5 * noise + 1e-3


def test_masks_move_with_their_parameter_where_they_are_between():
    log_alpha = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        masks = sampled(log_alpha, torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(masks.sum(), log_alpha)
    assert masks[[0, 2, 4]].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-12)
    assert [value > 0 for value in gradient.tolist()] == [False, True, True, True, False]
