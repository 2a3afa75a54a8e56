"""Packed storage: few bytes, and out of them the very bits of the round trip."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import round_trips
from support.as_read import as_read
from torch import Tensor

from pahq.errors import PahqError
from pahq.precision.formats import Format, nf4_levels, round_trip
from pahq.precision.packed import pack, pack_parts, unpack

ALL = [
    ("float32", "row"), ("bf16", "row"), ("fp16", "row"), ("fp8", "row"), ("fp8", "head"), ("fp8", "none"),
    ("int8", "row"), ("int8", "head"), ("int4", "group32"), ("int4", "row"), ("int4", "head"),
    ("int4s", "group32"), ("int4s", "row"), ("int4s", "head"), ("nf4", "group64"),
]  # fmt: skip
EVERY = pytest.mark.parametrize(("name", "scales"), ALL)
# zeros of both signs, subnormals of float32, of fp16 and of the scales, and steps around the ends of E4M3
SPECIAL = [0.0, -0.0, 1e-45, -1e-40, 2.0**-24, 2.0**-10, -(2.0**-9), 2.0**-6, 447.9, 448.0, 449.0, -480.0, 6e4]


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """[head, in, out]: sizes that are odd, below a group or no multiple of one; magnitudes from subnormal to 6e4."""
    shape = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 7, 31, 32, 33, 64, 97])), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    w = torch.randn(shape, generator=generator) * 10.0 ** draw(st.sampled_from([-42, -38, -9, -5, -2, 0, 2, 4]))
    w = w.clamp(-6e4, 6e4)
    for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=4)):
        w.view(-1)[draw(st.integers(0, w.numel() - 1))] = value
    if draw(st.booleans()):
        w[draw(st.integers(0, shape[0] - 1))] = draw(st.sampled_from([0.0, -0.0, 0.5]))
    return w.to(draw(st.sampled_from([torch.float32, torch.float64])))


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int32 if x.dtype == torch.float32 else torch.int64)


@EVERY
@settings(deadline=None, max_examples=60)
@given(w=weights(), rows=st.lists(st.integers(0, 2), max_size=4))
def test_what_is_unpacked_is_the_round_trip_bit_by_bit(name: str, scales: str, w: Tensor, rows: list[int]) -> None:
    form = Format(as_read(name), as_read(scales))
    packed, expected = pack(w, form), round_trip(w, form)
    assert torch.equal(bits(unpack(packed)), bits(expected))
    twin = round_trips.round_trip(w, name, scales)
    if name == "nf4":
        assert torch.allclose(expected, twin, rtol=1e-6, atol=0)  # the printed table has float32's last digits
    else:
        # whole numbers have no negative zero, plain float arithmetic does
        assert torch.equal(bits(expected + 0.0), bits(twin + 0.0))
    chosen = [row for row in rows if row < w.shape[0]]
    buffer = torch.full((len(chosen), *w.shape[1:]), float("nan"), dtype=w.dtype)
    assert unpack(packed, rows=chosen, out=buffer) is buffer
    assert torch.equal(bits(buffer), bits(expected[chosen]))
    assert torch.equal(bits(unpack(packed, rows=slice(0, 1))), bits(expected[:1]))


def test_the_printed_table_of_nf4_is_met() -> None:
    assert torch.allclose(nf4_levels(), torch.tensor(round_trips.NF4), atol=1e-6)


@EVERY
def test_bytes_are_counted_exactly(name: str, scales: str) -> None:
    """12 heads of 768 x 64, the projections of GPT-2 small: bits of codes and of scales by hand."""
    codes = {"float32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}.get(name, 0.5) * 12 * 768 * 64
    groups = {"row": 12 * 64, "head": 12, "none": 0, "group32": 12 * 24 * 64, "group64": 12 * 12 * 64}[scales]
    constants = {"fp8": 4, "int8": 4, "int4": 4, "int4s": 2, "nf4": 2}.get(name, 0)
    packed = pack(torch.randn(12, 768, 64), Format(name, scales))
    assert packed.nbytes == codes + groups * constants
    held = [t for t in (packed.codes, packed.scale, packed.low) if t is not None]
    assert sum(t.untyped_storage().nbytes() for t in held) == packed.nbytes  # no view of something larger


def test_an_odd_length_costs_half_a_byte_more() -> None:
    assert pack(torch.randn(2, 7, 3), Format("int4s", "head")).codes.numel() == 2 * 4 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_without_heads_is_packed_as_well(dtype: torch.dtype) -> None:
    w = torch.randn(40, 9).to(dtype)
    for name, scales in ALL:
        form = Format(name, scales)
        assert torch.equal(unpack(pack(w, form)), round_trip(w, form))


def test_a_buffer_that_does_not_fit_is_refused() -> None:
    packed = pack(torch.randn(3, 8, 4), Format("int8"))
    with pytest.raises(PahqError, match=r"a buffer of \[3, 8, 4\].* cannot take a weight of \[2, 8, 4\]"):
        unpack(packed, rows=[0, 2], out=torch.empty(3, 8, 4))
    with pytest.raises(PahqError, match=r"in torch.float64 cannot take"):
        unpack(packed, out=torch.empty(3, 8, 4, dtype=torch.float64))


@EVERY
def test_packing_changes_and_keeps_nothing_of_its_input(name: str, scales: str) -> None:
    w = torch.randn(2, 33, 4)
    before = w.clone()
    packed = pack(w, Format(name, scales))
    expected = unpack(packed)
    assert torch.equal(w, before)
    w.zero_()
    assert torch.equal(unpack(packed), expected)


def test_no_float_tensor_is_made_beside_the_buffer() -> None:
    """Unpacking int8 and fp8 into a buffer allocates nothing; 4 bits a byte for each pair of numbers, twice."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        fresh = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in known:
                Largest.fresh = max(Largest.fresh, result.untyped_storage().nbytes())
            return result

    for name, scales, most in (("int8", "row", 256), ("fp8", "row", 256), ("int4", "group32", 0.27)):
        packed = pack(torch.randn(4, 256, 16), Format(name, scales))
        buffer = torch.empty(4, 256, 16)
        held = [t for t in (buffer, packed.codes, packed.scale, packed.low) if t is not None]
        known = {t.untyped_storage().data_ptr() for t in held}
        Largest.fresh = 0
        with Largest():
            unpack(packed, out=buffer)
        limit = most if most > 1 else most * buffer.nbytes
        assert Largest.fresh <= limit, (name, Largest.fresh)


@EVERY
@pytest.mark.parametrize("step", [1, 2, 3])
def test_packing_in_parts_is_packing_the_whole(name: str, scales: str, step: int) -> None:
    w = torch.randn(5, 33, 4)
    parts = ((5, w[first : first + step]) for first in range(0, 5, step))
    packed, whole = pack_parts(parts, Format(name, scales)), pack(w, Format(name, scales))
    assert packed.shape == whole.shape
    assert packed.nbytes == whole.nbytes
    assert torch.equal(unpack(packed), unpack(whole))
