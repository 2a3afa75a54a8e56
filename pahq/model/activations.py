"""What MLPs do between their two products."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

GELU_SLOPE = math.sqrt(8 / math.pi)
MANY = (
    1 << 18
)  # numbers from which on a few passes over them are faster on a CPU than torch's own GELU, whatever starts them


def gelu_new(x: Tensor) -> Tensor:
    """GELU by its tanh formula (arXiv 1606.08415, section 2), which is x sigmoid(2 u) for its 0.5 x (1 + tanh u).

    Of many numbers a CPU has torch's sigmoid sooner than its tanh, however many passes the formula takes.
    """
    if x.is_cuda or x.requires_grad or x.numel() < MANY:
        return F.gelu(x, approximate="tanh")
    twice_u = torch.addcmul(_slope(x.dtype), x, x, value=0.044715 * GELU_SLOPE).mul_(x)
    return twice_u.sigmoid_().mul_(x)


@cache
def _slope(dtype: torch.dtype) -> Tensor:
    """What u rises by at 0, twice. Kept, since a round makes no tensors of Python's numbers."""
    with torch.inference_mode(False):
        return torch.tensor(GELU_SLOPE, dtype=dtype)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "silu": F.silu,
}
