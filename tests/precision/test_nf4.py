"""The 16 levels of NormalFloat."""

from __future__ import annotations

import math

import torch

from pahq.precision.formats import nf4_levels


def test_the_levels_of_nf4_are_quantiles_of_the_normal_distribution() -> None:
    """By bisection on the error function, with the table as the QLoRA paper prints it (rounded) beside it."""

    def quantile(p: float) -> float:
        low, high = -8.0, 8.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if (1 + math.erf(middle / 2**0.5)) / 2 < p else (low, middle)
        return low

    outermost = 0.9677083
    upper = [quantile(0.5 + (outermost - 0.5) * i / 8) for i in range(9)]
    lower = [quantile(0.5 - (outermost - 0.5) * i / 7) for i in range(8)]
    expected = torch.tensor(sorted({*lower[1:], 0.0, *upper[1:]}))
    assert torch.allclose(nf4_levels(), expected / expected.max(), atol=1e-5)
    assert float(nf4_levels()[0]) == -1
    assert float(nf4_levels()[7]) == 0
    assert float(nf4_levels()[15]) == 1
