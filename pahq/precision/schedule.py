"""What runs side by side while a head is under test: bringing in the next one, that head itself, and all others.

PAHQ's scheduler (arXiv 2510.23264) gives each of the three a CUDA stream. The serial schedule does one after the other,
with the same operations on the same operands, so that both give the same numbers bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from pahq.errors import unknown

Wait = Callable[[], object]
Work = Callable[[], Tensor]
SCHEDULES = ("overlapped", "serial")


class Schedule(Protocol):
    """How the pieces of work share the device of a search."""

    @property
    def name(self) -> str:
        """One of ``SCHEDULES``."""

    def load(self, work: Callable[[], None]) -> Wait:
        """Begin to bring a focus in; what it returns waits for the end of that."""

    def both(self, high: Work, low: Work) -> tuple[Tensor, Tensor]:
        """What the heads in focus compute and what the others do; neither reads what the other writes."""


class Serial:
    """One after the other, and nothing ahead of time."""

    name = "serial"

    def load(self, work: Callable[[], None]) -> Wait:
        work()
        return _nothing

    def both(self, high: Work, low: Work) -> tuple[Tensor, Tensor]:
        return high(), low()


class Threaded:
    """On a CPU: a background thread reads the next focus from its file while the search computes.

    All cores that a search may use work at each product already, so the heads come one after the other. The thread goes
    with the schedule's last reference.
    """

    name = "overlapped"

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="focus")
        weakref.finalize(self, self._pool.shutdown, wait=False)

    def load(self, work: Callable[[], None]) -> Wait:
        return self._pool.submit(work).result

    def both(self, high: Work, low: Work) -> tuple[Tensor, Tensor]:
        return high(), low()


class Cuda(Protocol):
    """The part of ``torch.cuda`` that streams need."""

    def Stream(self, device: torch.device) -> Any: ...

    def current_stream(self, device: torch.device) -> Any: ...

    def stream(self, stream: Any) -> AbstractContextManager[Any]: ...


class Streams:
    """On a GPU: two streams beside the current one, which has the heads in low precision. The host waits for none."""

    name = "overlapped"

    def __init__(self, device: torch.device, cuda: Cuda = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._copies, self._high = cuda.Stream(device), cuda.Stream(device)

    def load(self, work: Callable[[], None]) -> Wait:
        cuda, device = self._cuda, self._device
        self._copies.wait_stream(cuda.current_stream(device))  # readers of the slot's last contents first
        with cuda.stream(self._copies):
            work()
            done = self._copies.record_event()
        return lambda: cuda.current_stream(device).wait_event(done)

    def both(self, high: Work, low: Work) -> tuple[Tensor, Tensor]:
        """The current stream goes on when both are done, so that what either allocated may be freed after that."""
        current = self._cuda.current_stream(self._device)
        self._high.wait_stream(current)  # what both read, and whoever reads memory that the last pieces had
        try:
            with self._cuda.stream(self._high):
                first = high()
            return first, low()
        finally:
            current.wait_stream(self._high)


def schedule_of(name: str, device: torch.device) -> Schedule:
    """The schedule of that name on a device. Raises PahqError for an unknown one."""
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    if name == "serial":
        return Serial()
    return Streams(device) if device.type == "cuda" else Threaded()


def _nothing() -> None:
    """Nothing is left to wait for."""
