"""States of a head's input while its Addition edges are under test.

Projecting each sender once and adding up projections (the norm is linear up to one factor per row, which a table of
inner products gives) was built and measured: it needs as many operations, more memory, and was slower. So the input is
formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.state import State
from pahq.model.forward import finish_projection, project, read_through
from pahq.model.layers import PlainLayer, as_it_lies
from pahq.model.layerweights import LayerWeights

SMALL = 1 << 14  # numbers up to which a CPU adds up a running sum faster than pieces one after the other


def without(state: State, receiver: Receiver, sets: Sequence[Sequence[int]]) -> Float[Tensor, "set batch pos d_model"]:
    """The receiver's current input less each set of senders (clean minus corrupted, since all of them are clean)."""
    current = state.inputs[receiver]
    senders = sorted({sender for members in sets for sender in members})
    gone = state.clean_difference(senders, state.receiver_need(receiver))
    steps = in_steps(sets, senders)
    if steps is not None:
        alone = left_out(sets, senders) if current.is_cuda or 1 < len(gone) <= SMALL // current.numel() else None
        if alone is not None:
            return less_and_less(current, gone, alone)
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


def left_out(sets: Sequence[Sequence[int]], senders: Sequence[int]) -> list[int] | None:
    """Which sets are no beginning of the later ones, where each takes one sender more, from the last (of ascending
    ``senders``) down. None where they do not."""
    if len(sets) != len(senders):
        return None
    taken: list[int] = []
    alone: list[int] = []
    for i, (members, own) in enumerate(zip(sets, reversed(senders), strict=True)):
        if list(members) != [*taken, own]:
            return None
        if i + 1 == len(sets) or own in sets[i + 1]:
            taken.append(own)
        else:
            alone.append(i)
    return alone


def less_and_less(
    current: Float[Tensor, "batch pos d_model"], gone: Float[Tensor, "sender batch pos d_model"], alone: Sequence[int]
) -> Float[Tensor, "sender batch pos d_model"]:
    """``current`` less the last of ``gone``, less the one before that as well, and so on: one after the other, but that
    what is ``alone`` (counted from the last) is missing where it stands and nowhere behind.

    On a GPU, where a subtraction each would be a launch each, and where there is little to subtract. A CPU adds float32
    up in float64 here.
    """
    falling = gone.flip(0).neg_()
    apart = [falling[i].clone() for i in alone]
    for i in alone:
        falling[i].zero_()
    left = torch.cat((current[None], falling)).cumsum(0)[1:]
    for i, change in zip(alone, apart, strict=True):
        left[i] += change
    return left


def project_together(
    state: State,
    receivers: Sequence[Receiver],
    weights: LayerWeights,
    x: Float[Tensor, "receiver trial batch pos d_model"],
) -> Float[Tensor, "receiver trial batch pos d_head"]:
    """Projections of one layer and need, letter by letter, from the receivers' inputs.

    Weights that are multiplied as they lie there are put together, so that all receivers are one product.
    """
    config, start, flat = state.config, state.position(state.receiver_need(receivers[0])), x.flatten(1, 2)
    letters = [(letter, [at.head for at in of]) for letter, of in groupby(receivers, key=lambda at: at.letter)]
    if len(receivers) > 1 and as_it_lies(weights):
        normed = read_through(config, flat, weights.ln1_w, weights.ln1_b).flatten(1, -2)
        matrices, biases = _put_together(state, weights, receivers)
        out = torch.baddbmm(biases, normed, matrices).view(*flat.shape[:-1], -1)
        if config.qk_joint or (config.positions != "rotary" and not config.qk_norm):
            return out.view(*x.shape[:-1], -1)
        ends = [len(rows) for _, rows in letters]
        parts = [
            finish_projection(config, weights, letter, part, first=start)
            for (letter, _), part in zip(letters, torch.split(out, ends), strict=True)
        ]
    else:
        parts, place = [], 0
        for letter, rows in letters:
            part = flat[place : place + len(rows)]
            parts.append(project(config, weights, letter, part, first=start, rows=rows))
            place += len(rows)
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.view(*x.shape[:-1], -1)


def _put_together(state: State, weights: PlainLayer, receivers: Sequence[Receiver]) -> tuple[Tensor, Tensor]:
    """Weights [receiver, d_model, d_head] and biases [receiver, 1, d_head] of projections of one layer."""

    def matrices() -> Tensor:
        return torch.stack([weights.weight(at.letter)[at.head] for at in receivers])

    def biases() -> Tensor:
        return torch.stack([weights.bias(at.letter)[at.head] for at in receivers])[:, None]

    if weights.exact:  # not the layer's usual ones
        return matrices(), biases()
    return state.gathered(("W", *receivers), matrices, weights), state.gathered(("b", *receivers), biases, weights)


def project_inputs(
    state: State, receiver: Receiver, weights: LayerWeights, x: Float[Tensor, "set batch pos d_model"]
) -> Float[Tensor, "set batch pos d_head"]:
    """A head's projections of many inputs, at the positions that it needs."""
    start = state.position(state.receiver_need(receiver))
    flat = x.flatten(0, 1)[None]
    out = project(state.config, weights, receiver.letter, flat, first=start, rows=[receiver.head]).squeeze(0)
    return out.view(*x.shape[:2], *out.shape[1:])
