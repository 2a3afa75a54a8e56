"""What a wave will do, before it does it: which receivers read what, in which order, and which heads follow.

None of that hangs on numbers. So it is worked out before the wave, for the nodes that it starts from, and kept while
the stage is searched; what is left to the wave are few and large operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.engine.suffix.mixing import Mix, mixes_of
from pahq.engine.suffix.needs import EVERYWHERE, LAST
from pahq.engine.suffix.state import Reader, State
from pahq.model.block import Kind, behind

Source = tuple[int, ...]  # senders of one layer and need that change together


@dataclass(frozen=True)
class Reading:
    """Receivers of one part of a layer, at one need, that read what changed; letter by letter.

    ``takes[i]`` are the slots (of the stack of changes at that need) that receiver i adds up. ``matrix`` says the same
    of the slots from ``first`` on: a 1 where a receiver reads a slot. ``copied``: how many changes at all positions
    must be in the stack of last positions by then, which begins with them.
    """

    receivers: tuple[Receiver, ...]
    need: int
    takes: tuple[tuple[int, ...], ...]
    first: int
    matrix: Float[Tensor, "receiver slot"]
    copied: int
    _parts: dict[int, list[Reading]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def wanted(self) -> tuple[int, ...]:
        """The slots that any of the receivers reads."""
        return tuple(sorted({slot for taken in self.takes for slot in taken}))

    @cached_property
    def alike(self) -> bool:
        """Whether all receivers read the very same slots."""
        return all(taken == self.takes[0] for taken in self.takes)

    def parts(self, size: int) -> list[Reading]:
        """The same, so many receivers at a time."""
        if size >= len(self.receivers):
            return [self]
        if size not in self._parts:
            starts = range(0, len(self.receivers), size)
            self._parts[size] = [self._part(slice(start, start + size)) for start in starts]
        return self._parts[size]

    def _part(self, rows: slice) -> Reading:
        return Reading(self.receivers[rows], self.need, self.takes[rows], self.first, self.matrix[rows], self.copied)


@dataclass(frozen=True)
class Sending:
    """Where the changes of a source go: from which slot on in the stack at its need."""

    senders: Source
    need: int
    slot: int


@dataclass(frozen=True)
class Step:
    """What a part of a layer does: receivers by need, then (heads) what is mixed anew, and what is sent."""

    kind: Kind
    layer: int
    readings: tuple[Reading, ...]
    mixes: tuple[Mix, ...]
    sendings: tuple[Sending, ...]


@dataclass(frozen=True)
class Plan:
    """``start``: where the changes go that a wave starts from; then its steps, and what the logits read.

    ``slots``: the sender of every slot, by need.
    """

    start: tuple[Sending, ...]
    steps: tuple[Step, ...]
    final: Reading | None
    slots: dict[int, tuple[int, ...]]

    @property
    def readings(self) -> list[Reading]:
        """All of them, in order."""
        inner = [reading for step in self.steps for reading in step.readings]
        return inner if self.final is None else [*inner, self.final]


class Plans:
    """The plans of the nodes at hand (a layer's heads, an MLP), by where a wave starts. What is behind them is decided,
    so that plans last as long as these nodes are searched, letter after letter."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._made: dict[tuple[Kind, int, tuple[Source, ...]], Plan] = {}
        self._mixes: dict[tuple[int, tuple[Receiver, ...]], list[Mix]] = {}

    def of(self, kind: Kind, layer: int, start: tuple[Source, ...]) -> Plan:
        """The plan of a wave in which these sources of a part of a layer have changed; made once."""
        key = kind, layer, start
        if key not in self._made:
            self._made[key] = _Maker(self._state).make(*key)
        return self._made[key]

    def mixes(self, layer: int, changed: tuple[Receiver, ...]) -> list[Mix]:
        """What a wave mixes anew that starts from these inputs of heads; made once."""
        key = layer, changed
        if key not in self._mixes:
            self._mixes[key] = mixes_of(self._state, layer, changed)
        return self._mixes[key]

    def stale(self) -> None:
        """Other nodes are searched: more receivers have been visited."""
        self._made.clear()
        self._mixes.clear()


def sent_by(graph: Graph, layer: int, mixes: Sequence[Mix]) -> list[Source]:
    """The sources that heads mixed anew become: where a norm couples them, all heads of the layer together."""
    heads = graph.head_senders(layer)
    if graph.shape.coupled:
        return [tuple(heads)] if mixes else []
    return [tuple(heads[head] for head in mix.heads) for mix in mixes]


class _Maker:
    """Makes one plan: first which nodes change, then where each change goes, then the sums."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._changed = 0  # senders, a bit each
        self._sources: list[Source] = []
        self._read: list[tuple[list[Reader], int]] = []  # who reads, and how many sources there were by then

    def make(self, kind: Kind, layer: int, start: Sequence[Source]) -> Plan:
        state, config = self._state, self._state.config
        self._change(start)
        steps: list[tuple[Kind, int, int, int, tuple[Mix, ...]]] = []  # with its readings' and sources' ends
        for at, part in behind(config.parts, kind, layer, config.layers):
            readers = self._reach(part, at)
            if not readers:
                continue
            mixes: tuple[Mix, ...] = ()
            if part == "heads":
                mixes = tuple(mixes_of(state, at, [reader.receiver for reader in readers]))
                self._change(sent_by(state.graph, at, mixes))
            else:
                self._change([tuple(state.graph.outputs(Receiver("mlp", at)))])
            steps.append((part, at, len(self._read), len(self._sources), mixes))
        self._reach("logits", -1)
        sendings = self._place()
        readings = self._readings(sendings)
        found, read, sent = [], 0, len(start)
        for part, at, read_end, sent_end, mixes in steps:
            found.append(Step(part, at, tuple(readings[read:read_end]), mixes, tuple(sendings[sent:sent_end])))
            read, sent = read_end, sent_end
        final = readings[read] if read < len(readings) else None
        return Plan(tuple(sendings[: len(start)]), tuple(found), final, {n: tuple(s) for n, s in self._slots.items()})

    def _change(self, sources: Sequence[Source]) -> None:
        self._sources += sources
        for source in sources:
            for sender in source:
                self._changed |= 1 << sender

    def _reach(self, part: str, layer: int) -> list[Reader]:
        """The readers of a part of a layer that any change reaches."""
        readers = [reader for reader in self._state.readers(part, layer) if reader.mask & self._changed]
        readers.sort(key=lambda reader: (reader.need, reader.receiver.letter, reader.receiver.head))
        for _, members in groupby(readers, key=lambda reader: reader.need):
            self._read.append((list(members), len(self._sources)))
        return readers

    def _place(self) -> list[Sending]:
        """A slot for every change, in the order of computation.

        Changes at all positions come first in the stack of last positions too, if anything reads that one.
        """
        need_of = [self._state.need[source[0]] for source in self._sources]
        whole = [
            sender
            for source, need in zip(self._sources, need_of, strict=True)
            if need == EVERYWHERE
            for sender in source
        ]
        last = any(readers[0].need == LAST for readers, _ in self._read)
        self._slots: dict[int, list[int]] = {LAST: list(whole) if last else [], EVERYWHERE: []}
        self._ends: list[dict[int, int]] = [{at: len(slots) for at, slots in self._slots.items()}]  # by sources so far
        sendings = []
        for source, need in zip(self._sources, need_of, strict=True):
            sendings.append(Sending(source, need, len(self._slots[need])))
            self._slots[need] += source
            self._ends.append({at: len(slots) for at, slots in self._slots.items()})
        return sendings

    def _readings(self, sendings: Sequence[Sending]) -> list[Reading]:
        """The sums; all matrices are sent to the device in one go."""
        made, like = [], self._state.clean_final
        for readers, sources in self._read:
            need, ends = readers[0].need, self._ends[sources]
            senders = self._slots[need][: ends[need]]
            reads = np.stack([reader.reads for reader in readers])[:, senders]
            if need == LAST:  # what changes later lies among the first ones
                reads[:, ends[EVERYWHERE] : self._ends[0][LAST]] = False
            at = np.flatnonzero(reads.any(axis=0))
            takes = tuple(tuple(np.flatnonzero(row).tolist()) for row in reads)
            first, end = int(at[0]), int(at[-1]) + 1
            copied = ends[EVERYWHERE] if need == LAST else 0
            made.append((readers, need, takes, first, reads[:, first:end], copied))
        flat = np.concatenate([reads.ravel() for *_, reads, _ in made]) if made else np.zeros(0, bool)
        sent, place, found = torch.from_numpy(flat).to(like.device, like.dtype), 0, []
        for readers, need, takes, first, reads, copied in made:
            matrix = sent[place : place + reads.size].view(reads.shape)
            found.append(Reading(tuple(reader.receiver for reader in readers), need, takes, first, matrix, copied))
            place += reads.size
        return found
