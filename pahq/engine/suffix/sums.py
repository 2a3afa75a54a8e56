"""What senders changed in a wave, and what receivers gain of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.chosen import Chosen
from pahq.engine.suffix.needs import EVERYWHERE, LAST, at_need
from pahq.engine.suffix.plans import Plan, Reading, Sending, Source
from pahq.engine.suffix.state import State

EVERY = slice(None)


@dataclass(frozen=True)
class Sent:
    """What senders of one layer changed, in every trial.

    ``z``: by how much heads' z changed; None for an MLP, and for heads whose W_O changed too, which z alone does not
    tell. ``change``: of the outputs, where there is no room for a stack of them and they do not follow from z.
    """

    senders: Source
    z: Float[Tensor, "sender trial batch some d_head"] | None
    change: Float[Tensor, "sender trial batch some d_model"] | None


class Sums:
    """Changes of outputs lie in two stacks, those of all positions and those of the last one alone, so that what
    receivers gain is one product of their present edges with a stack.

    Where ``hold_bytes`` do not allow that, a head's change is kept as z, d_head wide, and formed where it is read
    (``output`` gives the W_O of a sender). ``start``: what an operation takes to start, in numbers that it could add.
    """

    def __init__(
        self,
        state: State,
        plan: Plan,
        trials: int,
        output: Callable[[int], Float[Tensor, "d_head d_model"]],
        *,
        hold_bytes: int,
        start: int,
    ) -> None:
        self._plan, self._output, self._start, like = plan, output, start, state.clean_final
        self._sent: dict[int, tuple[Sent, int]] = {}  # by sender, with its place among those that changed with it
        self._copied = 0  # slots of all positions whose last one has been copied
        self._stacks: dict[int, Float[Tensor, "slot trial batch some d_model"]] | None = None  # by need
        self._rows = EVERY  # the trials that are asked for, where there are no stacks
        shapes = {
            need: (len(slots), trials, state.batch, 1 if need == LAST else state.length, state.config.d_model)
            for need, slots in plan.slots.items()
        }
        if sum(map(math.prod, shapes.values())) * like.element_size() <= hold_bytes:
            # slots of last positions that are not written yet are multiplied too, with nought, and must not be NaN
            made = {LAST: like.new_zeros if plan.slots[EVERYWHERE] else like.new_empty, EVERYWHERE: like.new_empty}
            self._stacks = {need: made[need](shape) for need, shape in shapes.items() if shape[0]}

    def place(self, sending: Sending) -> Float[Tensor, "sender trial batch some d_model"] | None:
        """Where the changes of these senders may be written at once; None without stacks."""
        if self._stacks is None:
            return None
        return self._stacks[sending.need][sending.slot : sending.slot + len(sending.senders)]

    def note(self, sending: Sending, z: Tensor | None, change: Tensor | None) -> None:
        """Senders changed; ``change`` may be their ``place``, and may be None where z tells it."""
        place = self.place(sending)
        if place is not None and change is not None and place.data_ptr() != change.data_ptr():
            place.copy_(change)
        sent = Sent(sending.senders, z, change if place is None else None)
        for at, sender in enumerate(sending.senders):
            self._sent[sender] = sent, at

    @property
    def stacked(self) -> bool:
        """Whether there was room for stacks."""
        return self._stacks is not None

    def of_trial(self, trial: Chosen) -> Sums:
        """The same of one trial alone, when all changes are there; without stacks the trial must be a number."""
        if self._stacks is None:
            assert isinstance(trial, int)
            return self._with(None, slice(trial, trial + 1))
        if isinstance(trial, int):
            return self._with({need: stack[:, trial : trial + 1] for need, stack in self._stacks.items()}, EVERY)
        return self._with({need: stack.index_select(1, trial) for need, stack in self._stacks.items()}, EVERY)

    def _with(self, stacks: dict[int, Tensor] | None, rows: slice) -> Sums:
        other = copy(self)
        other._stacks, other._rows = stacks, rows
        return other

    def gain(self, reading: Reading, current: Tensor | None) -> Float[Tensor, "receiver trial batch some d_model"]:
        """What receivers gain of all that changed, added to ``current``."""
        if self._stacks is None:
            return self._one_by_one(reading, current, self._rows)
        if reading.copied > self._copied:  # last positions of what changed everywhere
            new = slice(self._copied, reading.copied)
            self._stacks[LAST][new] = self._stacks[EVERYWHERE][new, ..., -1:, :]
            self._copied = reading.copied
        stack, count, wanted = self._stacks[reading.need], len(reading.receivers), reading.wanted
        numbers, span = math.prod(stack.shape[1:]), reading.matrix.shape[1]
        one_by_one = len(wanted) * (self._start + 3 * numbers) <= self._start + (span + 3) * numbers
        if current is not None and reading.alike and (len(wanted) == 1 or (count == 1 and one_by_one)):
            total = current + stack[wanted[0]]
            for slot in wanted[1:]:
                total += stack[slot]
            return total
        changes = stack[reading.first : reading.first + span]
        if current is not None and count == 1:
            trials = changes.shape[1]
            inner = reading.matrix.expand(trials, 1, span), changes.flatten(2).transpose(0, 1)
            return torch.baddbmm(current.reshape(1, 1, -1).expand(trials, 1, -1), *inner).view(1, *changes.shape[1:])
        gain = (reading.matrix @ changes.flatten(1)).view(count, *changes.shape[1:])
        return gain if current is None else gain.add_(current)

    def _one_by_one(
        self, reading: Reading, current: Tensor | None, rows: slice
    ) -> Float[Tensor, "receiver trial batch some d_model"]:
        """``gain`` without stacks: a sender after the other."""
        total: Tensor | float = 0.0 if current is None else current
        for slot in reading.wanted:
            sender = self._plan.slots[reading.need][slot]
            sent, place = self._sent[sender]
            if sent.z is None:
                assert sent.change is not None
                change = at_need(sent.change[place, rows], reading.need)
            else:
                change = at_need(sent.z[place, rows], reading.need) @ self._output(sender)
            total = total + reading.matrix[:, slot - reading.first, None, None, None, None] * change
        assert isinstance(total, Tensor)
        return total

    def by_heads(
        self, reading: Reading, worthwhile: Callable[[Sequence[int]], bool]
    ) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Change of z and W_O of all that one receiver reads, by sender.

        None if that is not heads alone, or if it is not ``worthwhile`` for so many.
        """
        senders = [self._plan.slots[reading.need][slot] for slot in reading.wanted]
        found = {}
        for sender in senders if worthwhile(senders) else ():
            sent, place = self._sent[sender]
            if sent.z is None:
                return None
            found[sender] = at_need(sent.z[place], reading.need), self._output(sender)
        return found or None
