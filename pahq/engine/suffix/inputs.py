"""States of a head's input while its Addition edges are under test.

Projecting each sender once and adding up projections (the norm is linear up to one factor per row, which a table of
inner products gives) was built and measured: it needs as many operations, more memory, and was slower. So the input is
formed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.state import EVERYWHERE, State, at_need
from pahq.graph import Receiver
from pahq.model.forward import project
from pahq.model.weights import LayerWeights


def selection(sets: Sequence[Sequence[int]], like: Tensor) -> tuple[list[int], Float[Tensor, "set sender"]]:
    """The senders that occur in any set, and the 0/1 matrix of who holds whom."""
    senders = sorted({sender for members in sets for sender in members})
    matrix = [[float(sender in members) for sender in senders] for members in map(set, sets)]
    return senders, torch.tensor(matrix, dtype=like.dtype, device=like.device).view(len(sets), len(senders))


def without(state: State, receiver: Receiver, sets: Sequence[Sequence[int]]) -> Float[Tensor, "set batch pos d_model"]:
    """The receiver's current input less each set of senders (clean minus corrupted, since all of them are clean)."""
    current = state.inputs[receiver]
    senders, matrix = selection(sets, current)
    gone = at_need(state.clean.difference, state.receiver_need(receiver))[senders]
    return current - (matrix @ gone.flatten(1)).view(len(sets), *gone.shape[1:])


def project_inputs(
    state: State, receiver: Receiver, weights: LayerWeights, x: Float[Tensor, "set batch pos d_model"]
) -> Float[Tensor, "set batch pos d_head"]:
    """A head's projections of many inputs, at the positions that it needs."""
    whole = state.receiver_need(receiver) == EVERYWHERE
    start = 0 if whole else state.clean.difference.shape[-2] - 1
    flat = x.flatten(0, 1)[None]
    out = project(state.clean.config, weights, receiver.letter, flat, first=start, rows=[receiver.head])
    return out[0].view(*x.shape[:2], *out.shape[2:])
