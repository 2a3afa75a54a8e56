"""What receivers gain of what changed: by stacks and without them, against sums by hand."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.needs import EVERYWHERE, LAST
from pahq.engine.suffix.plans import Plan, Reading, Sending
from pahq.engine.suffix.sums import Sums

TRIALS, BATCH, LENGTH, WIDTH, HEAD = 3, 2, 4, 6, 5
STATE: Any = SimpleNamespace(
    batch=BATCH,
    length=LENGTH,
    config=SimpleNamespace(d_model=WIDTH),
    clean_final=torch.zeros(BATCH, LENGTH, WIDTH, dtype=torch.float64),
)
WHOLE = (Sending((3, 4), EVERYWHERE, 0), Sending((7,), EVERYWHERE, 2))  # two heads, an MLP
ENDS = (Sending((8, 9), LAST, 3), Sending((12,), LAST, 5))
PLAN = Plan(WHOLE + ENDS, (), None, {LAST: (3, 4, 7, 8, 9, 12), EVERYWHERE: (3, 4, 7)})
HEADS = (3, 4, 8, 9)
MUCH = 8 * TRIALS * BATCH * WIDTH * (6 + 3 * LENGTH)  # bytes of both stacks


def randoms(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Changes:
    """Random changes of all senders, and the sums that know them, as far as ``count`` of the sendings go."""

    def __init__(self, hold_bytes: int, start: int = 0, count: int = 4) -> None:
        torch.manual_seed(1)
        self.outputs = {head: randoms(HEAD, WIDTH) for head in HEADS}
        self.sums = Sums(STATE, PLAN, TRIALS, self.outputs.__getitem__, hold_bytes=hold_bytes, start=start)
        self.changes, self.z = dict[int, Tensor](), dict[int, Tensor]()
        for sending in PLAN.start[:count]:
            self.send(sending)

    def send(self, sending: Sending) -> None:
        some = LENGTH if sending.need == EVERYWHERE else 1
        place = self.sums.place(sending)
        if sending.senders[0] in HEADS:
            z = randoms(len(sending.senders), TRIALS, BATCH, some, HEAD)
            changes = torch.stack([each @ self.outputs[at] for each, at in zip(z, sending.senders, strict=True)])
            self.z |= dict(zip(sending.senders, z, strict=True))
            if place is not None:
                place.copy_(changes)
            self.sums.note(sending, z, place)
        else:
            changes = randoms(1, TRIALS, BATCH, some, WIDTH)
            self.sums.note(sending, None, changes)
        self.changes |= dict(zip(sending.senders, changes, strict=True))

    def expected(self, reading: Reading, current: Tensor | None, rows: slice) -> Tensor:
        found = []
        for at, taken in enumerate(reading.takes):
            of = [self.changes[PLAN.slots[reading.need][slot]][rows] for slot in taken]
            total = sum((each if reading.need == EVERYWHERE else each[..., -1:, :] for each in of), torch.zeros(()))
            found.append(total if current is None else total + current[at])
        return torch.stack([each.expand(found[0].shape) for each in found])


def reading_of(need: int, takes: list[list[int]], copied: int = 3) -> Reading:
    slots = sorted({slot for taken in takes for slot in taken})
    first, stop = slots[0], slots[-1] + 1
    matrix = torch.tensor([[float(slot in taken) for slot in range(first, stop)] for taken in takes])
    receivers = tuple(Receiver("head", 1, head, "q") for head in range(len(takes)))
    return Reading(receivers, need, tuple(map(tuple, takes)), first, matrix.double(), copied if need == LAST else 0)


@pytest.mark.parametrize("start", [0, 10**6])
@pytest.mark.parametrize("hold_bytes", [MUCH, 0])
def test_gains_are_sums_of_what_is_read(hold_bytes: int, start: int) -> None:
    """One receiver and several, that read the same or not, one slot or many; with what they read so far or without."""
    changes, draw = Changes(hold_bytes, start), random.Random(0)
    for _ in range(60):
        need, receivers = draw.choice((LAST, EVERYWHERE)), draw.choice((1, 1, 3))
        slots = range(len(PLAN.slots[need]))
        takes = [sorted(draw.sample(slots, draw.randint(1, len(slots)))) for _ in range(receivers)]
        if draw.random() < 0.4:
            takes = takes[:1] * receivers
        reading = reading_of(need, takes)
        rows = draw.choice((slice(None), slice(1, 2)))
        current = randoms(receivers, 1, BATCH, LENGTH if need == EVERYWHERE else 1, WIDTH)
        for so_far in (current, None):
            asked = [changes.sums] if rows == slice(None) else [changes.sums.of_trial(1)]
            if rows != slice(None) and hold_bytes:
                asked.append(changes.sums.of_trial(torch.tensor([1])))
            for sums in asked:
                assert (sums.gain(reading, so_far) - changes.expected(reading, so_far, rows)).abs().max() < 1e-12


def test_there_are_stacks_where_they_fit() -> None:
    for hold_bytes, there in ((MUCH, True), (MUCH - 1, False)):
        sums = Changes(hold_bytes).sums
        assert [sums.place(sending) is not None for sending in PLAN.start] == [there] * 4


def test_last_positions_are_those_of_what_had_changed_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading in the middle of a wave; memory that nobody has written to is full of NaN here."""
    made = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda *args, **named: made(*args, **named).fill_(float("nan")))
    changes = Changes(MUCH, count=1)
    early = reading_of(LAST, [[0, 1], [1]], copied=2)
    assert (changes.sums.gain(early, None) - changes.expected(early, None, slice(None))).abs().max() < 1e-12
    for sending in (ENDS[0], WHOLE[1]):
        changes.send(sending)
    late = reading_of(LAST, [[0, 2, 4], [1, 3], [2]])  # the slots between are not read, and not all are written
    assert (changes.sums.gain(late, None) - changes.expected(late, None, slice(None))).abs().max() < 1e-12


@pytest.mark.parametrize("hold_bytes", [MUCH, 0])
def test_what_heads_alone_changed_is_known_by_their_z(hold_bytes: int) -> None:
    changes, counts = Changes(hold_bytes), list[int]()

    def worthwhile(senders: list[int]) -> bool:
        counts.append(len(senders))
        return len(senders) < 4

    for need, slots, senders in ((EVERYWHERE, [0, 1], (3, 4)), (LAST, [0, 3, 4], (3, 8, 9))):
        found = changes.sums.by_heads(reading_of(need, [slots]), worthwhile)  # type: ignore[arg-type]
        assert found is not None
        assert tuple(found) == senders
        for sender, (z, output) in found.items():
            assert torch.equal(z, changes.z[sender] if need == EVERYWHERE else changes.z[sender][..., -1:, :])
            assert output is changes.outputs[sender]
    assert changes.sums.by_heads(reading_of(EVERYWHERE, [[0, 2]]), worthwhile) is None  # type: ignore[arg-type]
    assert changes.sums.by_heads(reading_of(LAST, [[0, 1, 3, 4]]), worthwhile) is None  # type: ignore[arg-type]
    assert counts == [2, 3, 2, 4]


def products(wanted: list[int], span: int, start: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many products it takes what one receiver gains that reads ``wanted`` of ``span`` slots."""
    senders, asked, real = tuple(range(span)), list[int](), torch.baddbmm
    sending = Sending(senders, EVERYWHERE, 0)
    plan = Plan((sending,), (), None, {LAST: (), EVERYWHERE: senders})
    sums = Sums(STATE, plan, TRIALS, lambda sender: randoms(HEAD, WIDTH), hold_bytes=10**9, start=start)
    changes = randoms(span, TRIALS, BATCH, LENGTH, WIDTH)
    sums.note(sending, None, changes)
    reading, current = reading_of(EVERYWHERE, [wanted]), randoms(1, 1, BATCH, LENGTH, WIDTH)
    monkeypatch.setattr(torch, "baddbmm", lambda *args: asked.append(1) or real(*args))
    found = sums.gain(reading, current)
    assert (found - current - changes[wanted].sum(0)).abs().max() < 1e-12
    return len(asked)


@pytest.mark.parametrize(
    ("wanted", "span", "start", "expected"),
    [
        ([4], 9, 10**9, 0),
        ([0, 39], 40, 0, 0),
        ([0, 13, 26, 39], 40, 0, 0),
        ([0, 39], 40, 10**9, 1),  # where an operation takes long to start
        (list(range(40)), 40, 0, 1),
        (list(range(0, 40, 2)), 40, 0, 1),
        ([0, 1, 2], 3, 0, 1),
    ],
)
def test_few_slots_far_apart_are_added_up_and_many_are_one_product(
    wanted: list[int], span: int, start: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is cheaper: an addition reads and writes a sum each time, a product reads all slots in between."""
    assert products(wanted, span, start, monkeypatch) == expected
