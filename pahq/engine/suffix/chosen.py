"""The trial of a wave that comes true: a number, or a tensor of one, so that another can be chosen the same way."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Chosen = int | Int[Tensor, "1"]


def pick(values: Float[Tensor, "trial *rest"], trial: Chosen) -> Float[Tensor, "*rest"]:
    """A trial's row of a tensor whose trial axis may be 1 (all trials agree)."""
    if isinstance(trial, Tensor) and values.shape[0] > 1:
        return values.index_select(0, trial).squeeze(0)
    return values[trial if values.shape[0] > 1 else 0]
