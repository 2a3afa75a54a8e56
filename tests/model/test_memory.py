"""Peak memory: sees what was held in between, not what was there before."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from pahq.model import memory
from pahq.model.memory import PeakMemory, frugal, release

MIB = 2**20
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def hold(mib: int) -> None:
    torch.ones(mib * MIB // 4).sum()


def test_the_peak_is_what_was_held_in_between() -> None:
    hold(1)  # whatever torch allocates once
    peak = PeakMemory("cpu")
    hold(96)
    assert 90 * MIB < peak.bytes() < 130 * MIB


def test_earlier_peaks_and_what_is_held_already_do_not_count() -> None:
    hold(128)
    held = torch.ones(64 * MIB // 4)
    peak = PeakMemory("cpu")
    hold(16)
    assert 12 * MIB < peak.bytes() < 50 * MIB
    assert held[0] == 1


def test_what_the_allocator_kept_counts_when_it_is_used_again() -> None:
    with frugal():
        pass  # from here on freed blocks below 32 MiB are kept
    blocks = [torch.ones(8 * MIB // 4) for _ in range(8)]
    peak_of_the_blocks = blocks.pop()  # on top: nothing below it goes back by itself
    blocks.clear()
    peak = PeakMemory("cpu")
    again = [torch.ones(8 * MIB // 4) for _ in range(4)]
    assert 28 * MIB < peak.bytes() < 60 * MIB
    assert again[0][0] == peak_of_the_blocks[0] == 1


def test_nothing_held_is_close_to_nothing() -> None:
    peak = PeakMemory("cpu")
    assert 0 <= peak.bytes() < 8 * MIB


def test_without_a_reset_the_answer_is_an_upper_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    peak = PeakMemory("cpu")
    hold(32)
    assert peak.bytes() > 28 * MIB


def test_without_proc_the_process_peak_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    assert PeakMemory("cpu").bytes() > 50 * MIB  # torch alone takes more


@pytest.mark.gpu
def test_on_a_gpu_the_allocator_is_asked() -> None:
    held = torch.ones(MIB, device="cuda")
    peak = PeakMemory("cuda")
    torch.ones(8 * MIB, device="cuda").sum()
    assert 32 * MIB <= peak.bytes() < 48 * MIB
    assert held[0] == 1


def test_what_is_released_is_gone_before_its_successor_is_made() -> None:
    class Holder:
        value: object

    class Thing:
        pass

    holder = Holder()
    release(holder, "value")  # nothing there yet
    holder.value = Thing()
    last = weakref.ref(holder.value)
    release(holder, "value")
    assert last() is None
    assert not hasattr(holder, "value")


def test_frugal_where_it_is_not_worth_it_leaves_the_heap_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: pytest.fail("the C library was asked"))
    with frugal(when=False):
        pass
