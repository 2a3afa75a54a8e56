"""Current inputs of the visited receivers, as many as memory allows.

A receiver's input is d_model wide and there are three receivers a head, so in a dense circuit they outweigh everything
else a search holds. What does not fit is not kept but formed anew from its definition where it is read.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pahq.circuits.graph import Receiver


class KeptInputs:
    """Inputs by receiver. ``clean`` gives an untouched receiver's input, ``fresh`` any receiver's by definition.

    A receiver once kept stays: dropping the least recently used would lose every one of them in each wave, since
    waves read them in the same order.
    """

    def __init__(
        self, clean: Callable[[Receiver], Tensor], fresh: Callable[[Receiver], Tensor], capacity_bytes: int | None
    ) -> None:
        self._clean, self._fresh, self._capacity = clean, fresh, capacity_bytes
        self._opened: set[Receiver] = set()
        self._untouched: set[Receiver] = set()
        self._kept: dict[Receiver, Tensor] = {}
        self._bytes = 0

    def open(self, receiver: Receiver) -> None:
        """A receiver's edges are about to be tested; so far its input is clean."""
        self._opened.add(receiver)
        self._untouched.add(receiver)

    def __contains__(self, receiver: Receiver) -> bool:
        """Whether the receiver has been opened, be its input kept or not."""
        return receiver in self._opened

    def untouched(self, receiver: Receiver) -> bool:
        """Whether the receiver's input is still the clean one."""
        return receiver in self._untouched

    def __getitem__(self, receiver: Receiver) -> Tensor:
        if receiver in self._kept:
            return self._kept[receiver]
        return self._clean(receiver) if receiver in self._untouched else self._fresh(receiver)

    def __setitem__(self, receiver: Receiver, values: Tensor) -> None:
        """``values`` may be a view of many trials' inputs: what is kept is a copy."""
        self._untouched.discard(receiver)
        place = self._kept.get(receiver)
        if place is not None:
            place.copy_(values)
            return
        size = values.numel() * values.element_size()
        if self._capacity is None or self._bytes + size <= self._capacity:
            self._kept[receiver] = values.clone()
            self._bytes += size

    def pin(self, receiver: Receiver) -> bool:
        """Keep the input from here on, if there is room: it is then one tensor, which changes in place."""
        if receiver not in self._kept and receiver in self._untouched:
            self[receiver] = self._clean(receiver)
        return receiver in self._kept

    def grows(self, receiver: Receiver) -> bool:
        """Whether ``add`` does anything: what is not kept follows from its definition."""
        return receiver in self._kept or receiver in self._untouched

    def add(self, receiver: Receiver, change: Tensor) -> None:
        """The input changed by so much. What is not kept follows from its definition, once the senders have changed."""
        place = self._kept.get(receiver)
        if place is not None:
            place.add_(change)
        elif receiver in self._untouched:
            self[receiver] = self._clean(receiver) + change
