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

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.state import State
from pahq.model.forward import project
from pahq.model.layerweights import LayerWeights


def without(state: State, receiver: Receiver, sets: Sequence[Sequence[int]]) -> Float[Tensor, "set batch pos d_model"]:
    """The receiver's current input less each set of senders (clean minus corrupted, since all of them are clean)."""
    current = state.inputs[receiver]
    senders = sorted({sender for members in sets for sender in members})
    gone = state.difference(senders, state.receiver_need(receiver))
    steps = in_steps(sets, senders)
    if steps is not None:
        if current.is_cuda and one_by_one(sets, senders):
            return less_and_less(current, gone)
        x = current.new_empty(len(sets), *current.shape)
        for i, (earlier, rest) in enumerate(steps):
            before = current if earlier is None else x[earlier]
            for place in rest:
                torch.sub(before, gone[place], out=x[i])
                before = x[i]
        return x
    matrix = current.new_tensor([[float(sender in members) for sender in senders] for members in map(set, sets)])
    return current - (matrix.view(len(sets), len(senders)) @ gone.flatten(1)).view(len(sets), *gone.shape[1:])


def in_steps(sets: Sequence[Sequence[int]], senders: Sequence[int]) -> list[tuple[int | None, list[int]]] | None:
    """For each set an earlier one that it begins with (None: nothing), and the places of what it takes more.

    As a window asks: most sets are an earlier one and one sender more. None where that saves too little, or a set is
    empty.
    """
    place, index = {sender: i for i, sender in enumerate(senders)}, dict[tuple[int, ...], int]()
    steps: list[tuple[int | None, list[int]]] = []
    for i, members in enumerate(sets):
        earlier = index.get(tuple(members[:-1]))
        steps.append((earlier, [place[sender] for sender in (members if earlier is None else members[-1:])]))
        index[tuple(members)] = i
    total = sum(len(rest) for _, rest in steps)
    return steps if all(map(len, sets)) and total <= 2 * (len(sets) + len(senders)) else None


def one_by_one(sets: Sequence[Sequence[int]], senders: Sequence[int]) -> bool:
    """Whether the sets take the senders (ascending) one after the other, from the last down."""
    falling = tuple(reversed(senders))
    return len(sets) == len(senders) and all(tuple(members) == falling[: i + 1] for i, members in enumerate(sets))


def less_and_less(
    current: Float[Tensor, "batch pos d_model"], gone: Float[Tensor, "sender batch pos d_model"]
) -> Float[Tensor, "sender batch pos d_model"]:
    """``current`` less the last of ``gone``, less the one before that as well, and so on: one after the other.

    On a GPU, where a subtraction each would be a launch each. A CPU adds float32 up in float64 here.
    """
    steps = current.new_empty(len(gone) + 1, *current.shape)
    steps[0] = current
    torch.neg(gone.flip(0), out=steps[1:])
    return steps.cumsum(0)[1:]


def project_inputs(
    state: State, receiver: Receiver, weights: LayerWeights, x: Float[Tensor, "set batch pos d_model"]
) -> Float[Tensor, "set batch pos d_head"]:
    """A head's projections of many inputs, at the positions that it needs."""
    start = state.position(state.receiver_need(receiver))
    flat = x.flatten(0, 1)[None]
    out = project(state.config, weights, receiver.letter, flat, first=start, rows=[receiver.head])
    return out[0].view(*x.shape[:2], *out.shape[2:])
