"""A norm taken apart is the norm."""

from __future__ import annotations

import pytest
import torch
from support.small_models import random_model

from pahq.engine.suffix.norms import centred, scale_of
from pahq.model.forward import normalise


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_linear_part_times_the_factor_is_the_norm(family: str) -> None:
    config = random_model(family).config.model_copy(update={"eps": 0.3})
    x, y = torch.randn(2, 3, 5, config.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    scale = scale_of(config, x)
    assert scale.shape == (3, 5, 1)
    assert torch.allclose(centred(config, x) * scale, normalise(config, x, None, None), rtol=1e-12, atol=0)
    assert torch.allclose(centred(config, x + y), centred(config, x) + centred(config, y), rtol=1e-12, atol=1e-14)
