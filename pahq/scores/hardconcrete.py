"""The hard concrete distribution: a mask between 0 and 1 that is often either, and differentiable in its parameter.

Louizos et al. 2018 (arXiv 1712.01312), with the constants of subnetwork probing (Cao et al. 2021, arXiv 2104.03514) and
of Edge Pruning (Bhaskar et al. 2024, arXiv 2406.16778). With u uniform on (0, 1), a mask of parameter ``log_alpha`` is

    s = sigmoid((log u - log(1 - u) + log_alpha) / BETA)
    mask = min(1, max(0, s (ZETA - GAMMA) + GAMMA))
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
SHIFT = BETA * math.log(-GAMMA / ZETA)
EDGE = 1e-6  # u is at least so far from 0 and from 1


def sampled(log_alpha: Float[Tensor, " mask"], uniform: Float[Tensor, " mask"]) -> Float[Tensor, " mask"]:
    """Masks drawn with uniform numbers that are given."""
    u = uniform.clamp(EDGE, 1 - EDGE)
    s = torch.sigmoid((u.log() - (-u).log1p() + log_alpha) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def probability(log_alpha: Float[Tensor, " mask"]) -> Float[Tensor, " mask"]:
    """That a mask is not 0; the sum over all masks is their expected L0. It grows with ``log_alpha``."""
    return torch.sigmoid(log_alpha - SHIFT)
