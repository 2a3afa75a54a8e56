"""Memory of this process: letting go of it, and the peak of a stretch of work.

Tensors are freed with the last name that holds them. Three things keep memory longer than that, and each function here
is against one of them; whoever calls it says what is let go.

- A name holds its old value until the new one is made, so that two are in memory at once: ``release`` drops the old one
  first.
- The C library (glibc) keeps freed blocks of up to 32 MiB for later, and up to 64 MiB at the heap's end. What a
  search's set-up frees would stay as a third of its peak, which then depends on what happens to lie last: ``frugal``.
- What it has kept already, from work that is done: ``give_back``.

Peak, CPU: the kernel's high-water mark of resident memory, reset at the start, minus what was resident then. CUDA: the
allocator's peak.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


_TRIM, _MMAP = -1, -3  # glibc's mallopt: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
MIB = 1 << 20


def release(owner: object, name: str) -> None:
    """Drop what an object holds under a name, which is about to be given a new value; nothing if it holds none yet."""
    vars(owner).pop(name, None)


@contextmanager
def frugal(*, when: bool = True) -> Iterator[None]:
    """Within, freed tensors go back to the system at once, and afterwards what is free in the heap does too.

    Slow where the same blocks are wanted again and again, as in a search that has room: ``when`` says whether it is
    worth that. Elsewhere than on glibc: nothing.
    """
    libc = _glibc() if when else None
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP, MIB)
    libc.mallopt(_TRIM, MIB)
    try:
        yield
    finally:
        libc.mallopt(_MMAP, 32 * MIB)
        libc.mallopt(_TRIM, 64 * MIB)
        libc.malloc_trim(0)


def give_back() -> None:
    """What earlier work freed and the C library kept goes back to the system."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None


class PeakMemory:
    """Started when made; ``bytes()`` is the peak since, above the level at the start."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
            return
        give_back()  # what the allocator kept would be used again unseen
        # Without it the mark counts from the process's start, which bounds the answer from above.
        with suppress(OSError):
            _CLEAR.write_text("5")  # resets VmHWM to the present level
        self._start = _status_bytes("VmRSS")

    def bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device)) - self._start
        return max(0, _status_bytes("VmHWM") - self._start)


def _status_bytes(key: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:  # no /proc: the process's peak is all that there is
        return 0 if key == "VmRSS" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) * 1024
