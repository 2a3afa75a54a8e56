"""States of a head's input while its Addition edges are under test.

The norm is linear up to one factor per row, so the projection after any removals is a linear combination of projections
made once per sender, times a factor that ``Gram`` gives: no trial forms the d_model-wide input. ``PlainInputs`` forms
it; it is the slow twin, and what runs where the inner products would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.clean import Gram, scale_of
from pahq.engine.suffix.state import EVERYWHERE, State, at_need
from pahq.graph import Receiver
from pahq.model.forward import finish_projection, project
from pahq.model.weights import LayerWeights


class HeadInput(Protocol):
    """Projections of one receiver under sets of further removals (sender indices)."""

    def project(self, sets: Sequence[Sequence[int]]) -> Float[Tensor, "set batch pos d_head"]: ...

    def remove(self, senders: Sequence[int]) -> None: ...


def _selection(sets: Sequence[Sequence[int]], like: Tensor) -> tuple[list[int], Tensor]:
    """The senders that occur in any set, and the 0/1 matrix [set, sender] of who holds whom."""
    senders = sorted({sender for members in sets for sender in members})
    column = {sender: i for i, sender in enumerate(senders)}
    matrix = [[0.0] * len(senders) for _ in sets]
    for row, members in enumerate(sets):
        for sender in members:
            matrix[row][column[sender]] = 1.0
    return senders, torch.tensor(matrix, dtype=like.dtype, device=like.device)


class PlainInputs:
    """Forms the input, then projects it."""

    def __init__(self, state: State, receiver: Receiver, weights: LayerWeights) -> None:
        self._state, self._receiver, self._weights = state, receiver, weights
        self._need = state.receiver_need(receiver)
        self._input = state.inputs[receiver]

    def project(self, sets: Sequence[Sequence[int]]) -> Tensor:
        senders, selection = _selection(sets, self._input)
        gone = at_need(self._state.clean.difference, self._need)[senders]
        x = self._input - (selection @ gone.flatten(1)).view(len(sets), *gone.shape[1:])
        start = 0 if self._need == EVERYWHERE else self._state.clean.difference.shape[-2] - 1
        receiver, config = self._receiver, self._state.clean.config
        flat = x.flatten(0, 1)[None]
        out = project(config, self._weights, receiver.letter, flat, first=start, rows=[receiver.head])
        return out[0].view(*x.shape[:2], *out.shape[2:])

    def remove(self, senders: Sequence[int]) -> None:
        gone = at_need(self._state.clean.difference, self._need)[list(senders)]
        self._input = self._input - gone.sum(0)


class LinearInputs:
    """Adds up projections of senders; ``gram`` supplies the norm's scale (None for a model without norm)."""

    def __init__(self, state: State, receiver: Receiver, weights: LayerWeights, gram: Gram | None) -> None:
        clean, config = state.clean, state.clean.config
        self._state, self._receiver, self._weights = state, receiver, weights
        self._need = state.receiver_need(receiver)
        upstream = state.graph.upstream(receiver)
        matrix = weights.weight(receiver.letter)[receiver.head]
        self._bias = weights.bias(receiver.letter)[receiver.head]
        if weights.ln1_b is not None:
            self._bias = self._bias + weights.ln1_b @ matrix
        if weights.ln1_w is not None:
            matrix = weights.ln1_w[:, None] * matrix
        if config.norm == "layer":
            matrix = matrix - matrix.mean(0, keepdim=True)  # centring the input = centring the matrix
        self._current = at_need(state.clean_input(receiver), self._need) @ matrix
        self._parts = at_need(clean.difference[:upstream], self._need) @ matrix  # [sender, batch, pos, d_head]
        self._gram = None
        if gram is not None:
            rows = slice(None) if self._need == EVERYWHERE else slice(-1, None)
            self._gram = gram.products[:upstream, :upstream, :, rows]
            square, cross = gram.with_residual(receiver.layer, upstream)
            self._square, self._cross = square[:, rows], cross[:, :, rows]
        self._start = 0 if self._need == EVERYWHERE else clean.difference.shape[-2] - 1
        gone = [sender for sender, present in enumerate(state.present[receiver]) if not present]
        if gone:
            self.remove(gone)

    def _squares(self, senders: list[int], selection: Tensor) -> Float[Tensor, "set batch pos"]:
        """Sum of squares of the centred input after each set's removals: |x|^2 - 2 x.d + |d|^2."""
        assert self._gram is not None
        chosen = selection.double()
        inner = self._gram[senders][:, senders]
        quadratic = (torch.einsum("ks,strp->ktrp", chosen, inner) * chosen[:, :, None, None]).sum(1)
        return self._square - 2 * torch.einsum("ks,srp->krp", chosen, self._cross[senders]) + quadratic

    def project(self, sets: Sequence[Sequence[int]]) -> Tensor:
        config = self._state.clean.config
        senders, selection = _selection(sets, self._current)
        parts = self._parts[senders]
        out = self._current - (selection @ parts.flatten(1)).view(len(sets), *parts.shape[1:])
        if self._gram is not None:
            scale = scale_of(config, self._squares(senders, selection) / config.d_model)
            out = out * scale.to(out.dtype)[..., None]
        return finish_projection(config, self._weights, self._receiver.letter, out + self._bias, first=self._start)

    def remove(self, senders: Sequence[int]) -> None:
        gone = list(senders)
        if self._gram is not None:
            _, selection = _selection([sorted(gone)], self._current)
            self._square = self._squares(sorted(gone), selection)[0]
            self._cross = self._cross - self._gram[:, gone].sum(1)
        self._current = self._current - self._parts[gone].sum(0)
