"""What MLPs do between their two products."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GELU_SLOPE = math.sqrt(8 / math.pi)
MANY = 1 << 14  # numbers from which on a few passes over them are faster on a CPU than torch's own GELU


def gelu_new(x: Tensor) -> Tensor:
    """GELU by its tanh formula (arXiv 1606.08415, section 2), which is x sigmoid(2 u) for its 0.5 x (1 + tanh u).

    On a CPU torch's tanh is slow: its own GELU is a tenth of a GPT-2-like model's forward pass, and this is half of it.
    """
    if x.is_cuda or x.requires_grad or x.numel() < MANY:
        return F.gelu(x, approximate="tanh")
    twice_u = torch.addcmul(x.new_tensor(GELU_SLOPE), x, x, value=0.044715 * GELU_SLOPE).mul_(x)
    return twice_u.sigmoid_().mul_(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "silu": F.silu,
}
