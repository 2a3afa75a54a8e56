"""Heads whose inputs changed, mixed anew: as many in one go as need the same positions.

The slow twin is ``pahq.model.attention``, a head at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.needs import EVERYWHERE, NOWHERE, at_need
from pahq.model.attention import added_future, attend, attention
from pahq.model.forward import joined
from pahq.model.rows import take

if TYPE_CHECKING:
    from pahq.engine.suffix.state import State

LONG = 64  # positions from which on patterns that stay are worth keeping apart from those that change


@dataclass(frozen=True, slots=True)
class Mix:
    """Heads of one layer and one need that are mixed in one go."""

    heads: tuple[int, ...]
    need: int
    q: tuple[Receiver, ...]
    kv: tuple[Receiver, ...]  # keys, then values

    @property
    def groups(self) -> tuple[int, ...]:
        """The key-value heads."""
        return tuple(receiver.head for receiver in self.kv[: len(self.kv) // 2])


def mixes_of(state: State, layer: int, changed: Iterable[Receiver] | None = None) -> list[Mix]:
    """What has to be mixed anew where these inputs of heads changed (None: all of them), at the heads' needs.

    Heads whose pattern stays, since only their values changed, are apart where prompts are long; all are together where
    one norm is over their queries, or keys.
    """
    shape, first = state.graph.shape, state.first_sender(layer)
    if changed is None:
        turning = dict.fromkeys(range(shape.heads), True)
    else:
        turning = {}
        for receiver in changed:
            for head in shape.query_heads(receiver.letter, receiver.head):
                turning[head] = turning.get(head, False) or receiver.letter != "v"
    groups: dict[tuple[int, bool], list[int]] = {}
    for head in sorted(turning):
        need = state.need[first + head]
        if need != NOWHERE:
            apart = need == EVERYWHERE and state.first + state.length >= LONG and not turning[head]
            groups.setdefault((need, apart), []).append(head)
    if state.config.qk_joint and groups:
        at = [Receiver("head", layer, row, letter) for letter in "qkv" for row in range(shape.letter_heads(letter))]
        return [Mix(tuple(range(shape.heads)), state.need[first], tuple(at[: shape.heads]), tuple(at[shape.heads :]))]
    found = []
    for (need, _), heads in groups.items():
        q, k, v = zip(*(state.graph.own_inputs(first + head) for head in heads), strict=True)
        found.append(Mix(tuple(heads), need, q, (*k, *v)))
    return found


def mix_heads(
    state: State, layer: int, mix: Mix, fresh: Mapping[Receiver, Tensor]
) -> Float[Tensor, "head trial batch some d_head"]:
    """Heads' values as their patterns mix them, from their current projections, those in ``fresh`` replaced.

    ``fresh`` holds [trial, batch, some, d_head] each. No norm behind the heads is in what comes out.
    """
    q, half = at_need(_stacked(state, mix.q, fresh), mix.need), len(mix.kv) // 2
    if state.first:
        both = _with_earlier(state, layer, _stacked(state, mix.kv, fresh), mix.groups)
        k, v = both[:half], both[half:]
    else:
        k, v = _stacked(state, mix.kv[:half], fresh), _stacked(state, mix.kv[half:], fresh)
    return (_jointly if state.config.qk_joint else _attention)(state, layer, q, k, v)


def _jointly(state: State, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``_attention`` of all heads, where one norm is over all their queries, or keys."""
    trials = max(x.shape[1] for x in (q, k, v))
    q, k, v = (x.expand(-1, trials, *x.shape[2:]).flatten(1, 2) for x in (q, k, v))
    z = attend(state.config, *joined(state.config, state.weights(layer), q, k), v)
    return z.view(-1, trials, state.batch, *z.shape[2:])


def _stacked(
    state: State, receivers: Sequence[Receiver], fresh: Mapping[Receiver, Tensor]
) -> Float[Tensor, "receiver trial batch some d_head"]:
    """Projections of some head inputs (a trial axis of 1 where none of them is fresh)."""
    new = [fresh.get(receiver) for receiver in receivers]
    trials = max((value.shape[0] for value in new if value is not None), default=1)
    every = []
    for receiver, value in zip(receivers, new, strict=True):
        if value is None:
            value = state.projections[receiver]
            value = value.expand(trials, *value.shape)
        every.append(value)
    return every[0][None] if len(every) == 1 else torch.stack(every)


def _with_earlier(
    state: State, layer: int, both: Float[Tensor, "receiver trial batch pos d_head"], rows: tuple[int, ...]
) -> Tensor:
    """Keys, then values, of some heads with those before the first position that changes, which attention reads too."""
    earlier = state.earlier[layer]
    half = earlier.shape[0] // 2
    every = (*rows, *(half + row for row in rows))
    chosen = state.gathered(("earlier", layer, rows), lambda: take(earlier, every))[:, None]
    return torch.cat((chosen.expand(*both.shape[:-2], *chosen.shape[-2:]), both), dim=-2)


def _attention(
    state: State,
    layer: int,
    q: Float[Tensor, "head #trial batch query d_head"],
    k: Float[Tensor, "head #trial batch pos d_head"],
    v: Float[Tensor, "head #trial batch pos d_head"],
) -> Float[Tensor, "head trial batch query d_head"]:
    """Softmax attention of many heads: scale and mask are taken in with the product of queries and keys."""
    config = state.config
    if config.score_cap is not None or config.sum_bias:
        return attention(config, q, k, v)
    heads, queries, positions, trials = q.shape[0], q.shape[-2], k.shape[-2], max(q.shape[1], k.shape[1])
    scale = config.d_head**-0.5 if config.attention_scale is None else config.attention_scale
    future = added_future(queries, positions, q.dtype, q.device, config.causal and queries > 1)
    left, right = ((x if x.shape[1] == trials else x.expand(-1, trials, *x.shape[2:])).flatten(0, 2) for x in (q, k))
    scores = torch.baddbmm(future, left, right.transpose(1, 2), alpha=scale)
    return torch.matmul(scores.softmax(-1).view(heads, trials, -1, queries, positions), v)
