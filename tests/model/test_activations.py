"""The faster GELU is torch's own, by another formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pahq.model.activations import MANY, gelu_new

WIDE = torch.linspace(-60.0, 60.0, 3 * MANY, dtype=torch.float64)


def test_in_float64_it_is_torchs_gelu():
    with torch.inference_mode():
        assert torch.allclose(gelu_new(WIDE), F.gelu(WIDE, approximate="tanh"), rtol=1e-12, atol=1e-14)


def test_in_float32_it_is_as_exact_as_torchs_gelu():
    narrow = WIDE.float()
    true = F.gelu(narrow.double(), approximate="tanh")
    with torch.inference_mode():
        error = (gelu_new(narrow) - true).abs() / (1 + true.abs())
    torchs = (F.gelu(narrow, approximate="tanh") - true).abs() / (1 + true.abs())
    assert error.max() < 2 * torchs.max() < 1e-6


@pytest.mark.parametrize("number", [1e4, 1e20, 3e38, float("inf"), float("nan")])
def test_what_overflows_comes_out_as_from_torch(number):
    for signed in (number, -number):
        many = torch.full((MANY,), signed)
        with torch.inference_mode():
            assert torch.equal(gelu_new(many).isnan(), F.gelu(many, approximate="tanh").isnan())
            assert torch.equal(gelu_new(many).nan_to_num(), F.gelu(many, approximate="tanh").nan_to_num())


def test_gradients_go_through_torchs_own():
    x = WIDE.clone().requires_grad_()
    gelu_new(x).sum().backward()
    at = WIDE.clone().requires_grad_()
    F.gelu(at, approximate="tanh").sum().backward()
    assert torch.equal(x.grad, at.grad)
