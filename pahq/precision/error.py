"""How far off a network's weights are that some format has rounded: one number for the whole network."""

from __future__ import annotations

import math

import torch

from pahq.precision.store import ATTENTION, MLP, NO_FOCUS, WeightStore

PART = 64  # heads, or rows of a matrix, at a time


@torch.no_grad()
def format_error(full: WeightStore, low: WeightStore) -> float:
    """|low - full| / |full|, root mean square over the weights of a kind (of heads, of MLPs), of the worse kind.

    Where operands of products are rounded too, activations are off by about as much as weights, so that it is the root
    of 2 times larger.
    """
    worst = 0.0
    for names in (ATTENTION, MLP):
        off = size = 0.0
        for index in range(full.config.layers):
            exact, rounded = full.layer(index, NO_FOCUS), low.layer(index, NO_FOCUS)
            for name in names:
                weight = getattr(exact, name)
                if weight is not None:
                    for part, other in zip(weight.split(PART), getattr(rounded, name).split(PART), strict=True):
                        size += float(part.double().square().sum())
                        off += float((other - part).double().square().sum())
        worst = max(worst, math.sqrt(off / size) if size else 0.0)
    return worst * (1.0 if low.products == "float32" else math.sqrt(2))
