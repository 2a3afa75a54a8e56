"""Rounds that are recorded once and then replayed with other numbers.

On a GPU every operation of a wave is a launch, and where the network is small the host takes longer to launch them than
the card to run them. But behind the heads of a layer, or behind its MLP, a wave does the same while these are searched,
if it starts from all of them and not from those alone that a round changes: other trials are other numbers. So what is
behind them is recorded, launches, places in memory and all, and replayed by one launch; and what a chosen trial changes
in the state is recorded beside it. Where a wave starts stays a matter of the round. All this rests on the state's
tensors staying where they are meanwhile (``State.pin``).

A recording costs two rounds or three. It is made when a window of some width is asked for again and again, and only
where the host sets the pace (``wanted``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.finals import FinalLosses
from pahq.engine.suffix.graphs import Recorder
from pahq.engine.suffix.needs import EVERYWHERE, LAST
from pahq.engine.suffix.state import State
from pahq.engine.suffix.wave import Wave
from pahq.model.layerweights import LayerWeights

AFTER = 4  # a round is recorded when its like is asked for so often: on an H200 it costs 5 replays' gain
WIDER = 2  # and serves windows down to a width so many times smaller


class Start(Wave):
    """Where a round's wave starts, and no more: what is new at the nodes under test."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fresh: Mapping[Receiver, Tensor] = {}
        self.x: Tensor | None = None

    def start_heads(
        self, layer: int, fresh: Mapping[Receiver, Tensor], before: LayerWeights | None = None, **_: Any
    ) -> tuple[int, ...]:
        self.fresh = fresh
        return ()

    def start_mlp(self, layer: int, x: Float[Tensor, "trial batch pos d_model"]) -> None:
        self.x = x


@dataclass(frozen=True)
class Numbers:
    """What a replay reads. Of heads, by need: their inputs, new projections of these, and a row for each input and then
    for each head of the layer that says in which trials it is new. Of an MLP or the logits: the new input ``x``."""

    receivers: Mapping[int, tuple[Receiver, ...]]
    projections: Mapping[int, Float[Tensor, "receiver trial batch some d_head"]]
    new: Float[Tensor, "row trial"]
    x: Float[Tensor, "trial batch some d_model"] | None

    def fill(self, start: Start) -> None:
        """By where a round starts."""
        if self.x is not None:
            assert start.x is not None
            self.x[: start.trials].copy_(start.x)
            return
        shape, rows, place = start.state.graph.shape, np.zeros(self.new.shape, np.float32), 0
        heads = len(self.new) - shape.heads
        for need, receivers in self.receivers.items():
            for i, receiver in enumerate(receivers):
                value = start.fresh.get(receiver)
                if value is not None:
                    self.projections[need][i, : start.trials].copy_(value)
                    of = shape.query_heads(receiver.letter, receiver.head)
                    rows[place + i, : start.trials] = rows[heads + of.start : heads + of.stop, : start.trials] = 1
            place += len(receivers)
        sent = torch.from_numpy(rows)
        self.new.copy_(sent if self.new.device.type == "cpu" else sent.pin_memory(), non_blocking=True)


@dataclass(frozen=True)
class Recording:
    """What is behind the nodes under test in so many trials, and the choice of one of them."""

    numbers: Numbers
    losses: Float[Tensor, " trial"]
    index: Tensor
    replay: Callable[[], None]
    replay_choice: Callable[[], None]
    wave: Wave  # whose tensors the recordings write


@dataclass(frozen=True)
class Round:
    """A round that was replayed: see ``Wave.choose``."""

    start: Start
    recording: Recording
    changed: Callable[[], None]

    def choose(self, trial: int) -> None:
        """Make one trial the current state."""
        self.start.choose(trial)
        self.recording.index.fill_(trial)
        self.recording.replay_choice()
        self.changed()


class Recordings:
    """The recorded rounds of the nodes at hand: the heads of a layer, an MLP or the logits.

    ``wave(width)`` makes a wave that knows of no products kept beside the state; ``changed`` is told when the state
    changed by one. ``room_bytes``: what all recordings of these nodes may hold, by the estimate ``bytes_of(width)``;
    ``widest()``: how many trials may be recorded, as far as time goes.
    ``made`` and ``replayed`` count, over all nodes.
    """

    def __init__(
        self,
        record: Recorder,
        state: State,
        finals: FinalLosses,
        wave: Callable[[int], Wave],
        changed: Callable[[], None],
        bytes_of: Callable[[int], int],
        widest: Callable[[], int],
        room_bytes: int,
    ) -> None:
        self._record, self._state, self._finals = record, state, finals
        self._wave, self._changed = wave, changed
        self._bytes_of, self._widest, self._room = bytes_of, widest, room_bytes
        self.made = self.replayed = 0
        self._nodes: tuple[str, int] = "", -1
        self._forget()

    def _forget(self) -> None:
        self._asked: Counter[int] = Counter()
        self._kept: dict[tuple[int, Hashable], Recording] = {}
        self._left = self._room
        self._refused = False  # whether these nodes' rounds cannot be recorded

    def enter(self, kind: str, layer: int) -> None:
        """The nodes of a kind of a layer are searched from here on."""
        if self._nodes != (kind, layer):
            self._nodes = kind, layer
            self._forget()

    def wanted(self, trials: int) -> bool:
        """Whether a round of so many trials is to be replayed, or recorded now."""
        width = _width(trials)
        if self._refused or width > self._widest():
            return False
        if self._known(width) is None:
            self._asked[width] += 1
            return self._asked[width] >= AFTER and self._bytes_of(width) <= self._room
        return True

    def round(self, start: Start) -> tuple[Float[Tensor, " trial"], Round] | None:
        """Losses of a round's trials from where it starts, and what chooses among them. None: it cannot be recorded."""
        width = _width(start.trials)
        recording = self._known(width) or self._new(width)
        if recording is None:
            return None
        recording.numbers.fill(start)
        recording.replay()
        self.replayed += 1
        return recording.losses[: start.trials].clone(), Round(start, recording, self._changed)

    def _known(self, width: int) -> Recording | None:
        now = self._finals.way
        most = min(WIDER * width, self._widest())
        widths = sorted(at for at, way in self._kept if way == now and width <= at <= most)
        return self._kept[widths[0], now] if widths else None

    def _new(self, width: int) -> Recording | None:
        """All is run once before: what is kept for later rounds (weights put together, masks) must not be made by a
        recording, which nobody has replayed yet."""
        if self._bytes_of(width) > self._left:  # others make room
            self._kept, self._left = {}, self._room
        numbers = self._numbers(width)
        wave, _ = self._work(numbers, width)
        self._refused = not wave.recordable or not self._state.pin(wave.receivers)
        if self._refused:
            return None
        del wave, _  # before as much is held again
        (wave, losses), replay = self._record(lambda: self._work(numbers, width))
        index, replay_choice = torch.zeros(1, dtype=torch.int64, device=losses.device), _nothing
        if self._nodes[0] != "logits":  # behind which there is nothing to change
            _, replay_choice = self._record(lambda: wave.choose(index))
        recording = Recording(numbers, losses, index, replay, replay_choice, wave)
        self._kept[width, self._finals.way] = recording
        self._left -= self._bytes_of(width)
        self.made += 1
        return recording

    def _numbers(self, width: int) -> Numbers:
        (kind, layer), state = self._nodes, self._state
        like, shape = state.clean_final, state.graph.shape
        if kind != "head":
            receiver = Receiver("logits") if kind == "logits" else Receiver("mlp", layer)
            return Numbers({}, {}, like[:0], like.new_zeros(width, *state.inputs[receiver].shape))
        every = [Receiver("head", layer, at, letter) for letter in "qkv" for at in range(shape.letter_heads(letter))]
        receivers = {need: tuple(at for at in every if state.receiver_need(at) == need) for need in (LAST, EVERYWHERE)}
        receivers = {need: of for need, of in receivers.items() if of}
        new = {need: (len(of), width, *state.projections[of[0]].shape) for need, of in receivers.items()}
        rows = sum(map(len, receivers.values())) + shape.heads
        return Numbers(
            receivers, {need: like.new_zeros(of) for need, of in new.items()}, like.new_zeros(rows, width), None
        )

    def _work(self, numbers: Numbers, width: int) -> tuple[Wave, Float[Tensor, " trial"]]:
        """From the nodes under test to the losses."""
        (kind, layer), wave = self._nodes, self._wave(width)
        if kind == "logits":
            assert numbers.x is not None
            return wave, self._finals.whole(self._state, numbers.x)
        if kind == "mlp":
            assert numbers.x is not None
            wave.start_mlp(layer, numbers.x)
        else:
            self._start_heads(wave, layer, numbers)
        final = wave.run()
        assert final is not None  # or no edge of these nodes would be tested
        return wave, self._finals.whole(self._state, final)

    def _start_heads(self, wave: Wave, layer: int, numbers: Numbers) -> None:
        """All of them; but what no trial changes stays as it is to the last bit."""
        fresh: dict[Receiver, Tensor] = {}
        changes, place = numbers.new[..., None, None, None] > 0, 0
        for need, receivers in numbers.receivers.items():
            old = torch.stack([self._state.projections[receiver] for receiver in receivers])[:, None]
            values = torch.where(changes[place : place + len(receivers)], numbers.projections[need], old)
            fresh.update(zip(receivers, values.unbind(), strict=True))
            place += len(receivers)
        joint = self._state.config.qk_joint  # there a norm over all heads changes each of them
        wave.start_heads(layer, fresh, touched=None if joint else changes[place:])


def _nothing() -> None:
    """The choice of a trial behind which nothing lies."""


def _width(trials: int) -> int:
    return 1 << (trials - 1).bit_length()
