"""A wave in which only changes pass through low-precision products (``method.arithmetic=changes``).

The current state is in full precision. A trial changes some inputs, and what a receiver computes becomes

    its current value + W_low (norm(new input) - norm(current input)),

so that the error of a format is in proportion to the change, and with it to the effect under test. Norms, activations
and attention act on full sums: a norm behind the heads, or behind the MLP, on what is sent now in full precision plus
what low-precision products add to it. Nothing of such a wave ever becomes the state: what a search accepts is carried
through the network once more, in full precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.chosen import Chosen
from pahq.engine.suffix.needs import at_need
from pahq.engine.suffix.plans import Sending
from pahq.engine.suffix.state import State
from pahq.engine.suffix.wave import Wave
from pahq.model.block import together
from pahq.model.forward import activated, finish_projection, mlp_before, mlp_sends, multiply, read_through
from pahq.model.layerweights import LayerWeights
from pahq.model.products import mlp_products, product

Before = tuple[Tensor, ...]  # what an MLP computes before its activation: see pahq.model.forward.mlp_before


class Current:
    """What the state computes in full precision where changes are added to it, beside what it keeps anyway.

    Formed when it is first asked for; ``stale`` says that the state is another.
    """

    def __init__(self, state: State, weights: Callable[[int], LayerWeights]) -> None:
        self._state, self._weights = state, weights
        self._before: dict[int, Before] = {}
        self._raw: dict[Receiver, Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self._sent: dict[int, Tensor] = {}

    def stale(self) -> None:
        """Removals entered the state."""
        for kept in (self._before, self._raw, self._sums, self._sent):
            kept.clear()

    def normed(self, receiver: Receiver) -> Float[Tensor, "batch some d_model"]:
        """The receiver's current input, normed; at its need."""
        return _normed(self._state, self._weights(receiver.layer), receiver, self._state.inputs[receiver])

    def before(self, layer: int) -> Before:
        """An MLP's values [batch, some, d_mlp] before its activation."""
        if layer not in self._before:
            self._before[layer] = mlp_before(self._weights(layer), self.normed(Receiver("mlp", layer)))
        return self._before[layer]

    def raw(self, receiver: Receiver) -> Float[Tensor, "batch some d_head"]:
        """A projection before its own norm and rotation, which is not linear where queries and keys are normed."""
        if receiver not in self._raw:
            weights, normed = self._weights(receiver.layer), self.normed(receiver)[None]
            rows = [receiver.head]
            (self._raw[receiver],) = multiply(self._state.config, weights, receiver.letter, normed, rows=rows)
        return self._raw[receiver]

    def sum_of_heads(self, layer: int) -> Float[Tensor, "batch some d_model"]:
        """What a layer's heads send together, before the norm behind them."""
        if layer not in self._sums:
            self._sums[layer] = together(self._weights(layer), self._state.raw[layer])
        return self._sums[layer]

    def sent(self, layer: int) -> Float[Tensor, "batch some d_model"]:
        """What an MLP sends, before the norm behind it."""
        if layer not in self._sent:
            weights = self._weights(layer)
            assert weights.W_out is not None
            assert weights.b_out is not None
            self._sent[layer] = activated(self._state.config, self.before(layer)) @ weights.W_out + weights.b_out
        return self._sent[layer]


class ChangeWave(Wave):
    """``low(l)`` gives the weights that changes are multiplied with: the head in focus in full precision."""

    def __init__(self, current: Current, state: State, trials: int, low: Callable[[int], LayerWeights], **rest: Any):
        super().__init__(state, trials, low, None, **rest)
        self._current = current

    def write(self, action: Callable[[Chosen], None]) -> None:
        """Nothing is written."""

    def choose(self, trial: Chosen) -> NoReturn:
        raise AssertionError("a trial in low precision never becomes the state")

    def projections(
        self, receivers: Sequence[Receiver], x: Float[Tensor, "receiver trial batch pos d_model"]
    ) -> Float[Tensor, "receiver trial batch pos d_head"]:
        state, (first, *_) = self.state, receivers
        config, weights, need = state.config, self.weights(first.layer), state.receiver_need(first)
        parts, start = [], state.position(need)
        for letter, members in groupby(enumerate(receivers), key=lambda pair: pair[1].letter):
            at, own = zip(*members, strict=True)
            current = torch.stack([self._current.normed(receiver) for receiver in own])[:, None]
            change = _normed(state, weights, own[0], x[at[0] : at[-1] + 1]) - current
            made = multiply(
                config, weights, letter, change.flatten(1, 2), rows=[receiver.head for receiver in own], bias=False
            )
            made = made.view(-1, *x.shape[1:-1], config.d_head)
            if config.qk_norm and not config.qk_joint and letter != "v":
                raw = torch.stack([self._current.raw(receiver) for receiver in own])[:, None]
                parts.append(finish_projection(config, weights, letter, raw + made, first=start))
                continue
            held = torch.stack([at_need(state.projections[receiver], need) for receiver in own])[:, None]
            if not config.qk_joint:  # there what is kept is before the norm over all heads, which mixing takes
                made = finish_projection(config, weights, letter, made, first=start)
            parts.append(held + made)
        return torch.cat(parts)

    def _send_mlp(self, layer: int, x: Float[Tensor, "trial batch pos d_model"], sending: Sending) -> None:
        state, weights, receiver = self.state, self.weights(layer), Receiver("mlp", layer)
        assert weights.W_out is not None
        change = _normed(state, weights, receiver, x) - self._current.normed(receiver)
        old = self._current.before(layer)
        new = tuple(a + b for a, b in zip(old, mlp_before(weights, change, bias=False), strict=True))
        hidden = activated(state.config, new) - activated(state.config, old)
        more = product(hidden, weights.W_out, mlp_products(weights.products))
        if state.config.post_norms:
            sent = self._current.sent(layer)
            more = mlp_sends(state.config, weights, sent + more) - mlp_sends(state.config, weights, sent)
        self._changes.note(sending, None, more[None])

    def current_sum(self, layer: int) -> Float[Tensor, "batch some d_model"]:
        return self._current.sum_of_heads(layer)

    def heads_into_logits(self, worthwhile: Callable[[Sequence[int]], bool]) -> None:
        """Products with the unembedding are kept for full precision alone."""


def _normed(state: State, weights: LayerWeights, receiver: Receiver, x: Tensor) -> Tensor:
    norm = (weights.ln2_w, weights.ln2_b) if receiver.kind == "mlp" else (weights.ln1_w, weights.ln1_b)
    normed = read_through(state.config, x, *norm)
    if weights.W_pos is None or receiver.letter not in ("q", "k"):
        return normed
    start = state.position(state.receiver_need(receiver))
    return normed + weights.W_pos[start : start + normed.shape[-2]]
