"""Low-precision formats: how far a weight may move, and whose scale it depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.as_read import as_read
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pahq.config.precision import BITS, FORMATS
from pahq.errors import PahqError
from pahq.model.codes import encode
from pahq.precision.formats import Format, nf4_levels, round_trip

ALL = [
    ("float32", "row"), ("bf16", "row"), ("fp16", "row"), ("fp8", "row"), ("fp8", "head"), ("fp8", "none"),
    ("int8", "row"), ("int8", "head"), ("int4", "group32"), ("int4", "row"), ("int4", "head"),
    ("int4s", "group32"), ("int4s", "row"), ("int4s", "head"), ("nf4", "group64"),
]  # fmt: skip
EVERY = pytest.mark.parametrize(("name", "scales"), ALL)
SLACK = 1 + 1e-5  # the rounding's own float32 arithmetic


def rounded(weight: Tensor, name: str, scales: str = "row") -> Tensor:
    return round_trip(weight, Format(as_read(name), as_read(scales)))


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """[head, in, out] float32: random sizes (``in`` often no multiple of 32), magnitudes, heavy tails, zeros."""
    heads, rows, columns = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 7, 31, 32, 41, 64, 70])),
        draw(st.integers(1, 4)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    values = torch.randn(heads, rows, columns, generator=generator)
    values = values * values.abs() ** draw(st.sampled_from([0, 2])) * 10.0 ** draw(st.integers(-3, 1))
    values += draw(st.sampled_from([0.0, 0.0, 0.5]))
    return torch.where(torch.rand(values.shape, generator=generator) < draw(st.sampled_from([0.0, 0.5])), 0.0, values)


def reach(w: Tensor, scales: str) -> Tensor:
    """The largest magnitude within the reach of a scale: one output column of one head, or one head."""
    return w.abs().amax((-2, -1) if scales == "head" else -2, keepdim=True)


@given(w=weights(), scales=st.sampled_from(["row", "head", "none"]))
@settings(deadline=None)
def test_fp8_moves_a_weight_by_half_a_step_of_e4m3(w: Tensor, scales: str) -> None:
    """3 mantissa bits: relative 2^-4 for normal values; below 2^-6 (in units of the scale) steps of 2^-9."""
    w = w.clamp(-448, 448)
    scale = torch.tensor(1.0) if scales == "none" else reach(w, scales) / 448
    bound = torch.maximum(w.abs() * 2.0**-4, scale * 2.0**-10)
    assert bool(((rounded(w, "fp8", scales) - w).abs() <= bound * SLACK).all())


@given(w=weights(), scales=st.sampled_from(["row", "head"]))
@settings(deadline=None)
def test_int8_moves_a_weight_by_half_a_step(w: Tensor, scales: str) -> None:
    scale = reach(w, scales) / 127
    after = rounded(w, "int8", scales)
    assert bool(((after - w).abs() <= scale / 2 * SLACK).all())
    assert torch.allclose(reach(after, scales), reach(w, scales), rtol=1e-6)  # the largest weight is met


@given(w=weights(), scales=st.sampled_from(["group32", "row", "head"]))
@settings(deadline=None)
def test_int4_moves_a_weight_by_half_a_step_and_the_rounding_of_its_constants(w: Tensor, scales: str) -> None:
    after = rounded(w, "int4", scales)
    blocks = zip(w.split(32, -2), after.split(32, -2), strict=True) if scales == "group32" else [(w, after)]
    for group, got in blocks:
        axes = (-2, -1) if scales == "head" else (-2,)
        low, high = group.amin(axes, keepdim=True), group.amax(axes, keepdim=True)
        step = (high - low) / 15
        # fp16 keeps 11 bits (half a step of 2^-11, relative) and nothing finer than 2^-25 below its normal range; an
        # error of the scale counts up to 15 times, one of the smallest value twice: in the offset and in the spread.
        constants = 15 * (step * 2.0**-11 + 2.0**-24) + 2 * (low.abs() * 2.0**-11 + 2.0**-24)
        assert bool(((got - group).abs() <= (step / 2 + constants) * SLACK).all())


@given(w=weights(), scales=st.sampled_from(["group32", "row", "head"]))
@settings(deadline=None)
def test_symmetric_int4_moves_a_weight_by_half_a_step_and_the_rounding_of_its_scale(w: Tensor, scales: str) -> None:
    after = rounded(w, "int4s", scales)
    blocks = zip(w.split(32, -2), after.split(32, -2), strict=True) if scales == "group32" else [(w, after)]
    for group, got in blocks:
        step = reach(group, scales) / 7
        constant = 7 * (step * 2.0**-11 + 2.0**-24)  # of the scale in fp16, which counts up to 7 times
        assert bool(((got - group).abs() <= (step / 2 + constant) * SLACK).all())


@given(w=weights())
@settings(deadline=None)
def test_nf4_moves_a_weight_by_half_the_widest_gap_and_the_rounding_of_its_scale(w: Tensor) -> None:
    widest = float((nf4_levels()[1:] - nf4_levels()[:-1]).max())  # between the two most negative levels
    for group, got in zip(w.split(64, -2), rounded(w, "nf4", "group64").split(64, -2), strict=True):
        largest = reach(group, "row")
        assert bool(((got - group).abs() <= (largest * (widest / 2 + 2.0**-10) + 2.0**-23) * SLACK).all())


@given(w=weights())
@settings(deadline=None)
def test_half_precision_formats_keep_their_mantissa(w: Tensor) -> None:
    assert bool(((rounded(w, "bf16") - w).abs() <= w.abs() * 2.0**-8 * SLACK).all())  # 8 significant bits
    assert bool(((rounded(w, "fp16") - w).abs() <= torch.clamp(w.abs() * 2.0**-11, min=2.0**-25) * SLACK).all())
    assert rounded(w, "float32") is w


@EVERY
def test_zeros_and_constants(name: str, scales: str) -> None:
    assert torch.equal(rounded(torch.zeros(2, 40, 3), name, scales), torch.zeros(2, 40, 3))
    constant = torch.full((2, 40, 3), 0.375)  # exact in every format; its scale too, but a seventh of it in fp16
    rtol = 2.0**-11 if name == "int4s" else 1e-6
    assert torch.allclose(rounded(constant, name, scales), constant, rtol=rtol, atol=0)
    assert torch.allclose(rounded(-constant, name, scales), -constant, rtol=rtol, atol=0)


@EVERY
def test_tiny_weights_stay_finite(name: str, scales: str) -> None:
    for tiny in (1e-30, 1e-41, 1e-45):
        after = rounded(torch.tensor([[[tiny, 0.0], [-tiny, tiny]]]), name, scales)
        assert bool(torch.isfinite(after).all())
        assert float(after.abs().max()) <= 2e-7


@EVERY
def test_heads_are_independent(name: str, scales: str) -> None:
    generator = torch.Generator().manual_seed(4)
    w = torch.randn(5, 41, 6, generator=generator)
    changed = w.clone()
    changed[3] = 50 * torch.randn(41, 6, generator=generator)
    before, after = rounded(w, name, scales), rounded(changed, name, scales)
    others = [0, 1, 2, 4]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[3], after[3])
    assert torch.equal(rounded(w[:1], name, scales), before[:1])  # nor does a head depend on how many there are


@pytest.mark.parametrize(("name", "scales"), [("fp8", "row"), ("int8", "row"), ("int4", "row"), ("int4", "group32")])
def test_output_columns_are_independent_under_row_and_group_scales(name: str, scales: str) -> None:
    w = torch.randn(2, 41, 6, generator=torch.Generator().manual_seed(5))
    changed = w.clone()
    changed[..., 2] *= 100
    others = [0, 1, 3, 4, 5]
    assert torch.equal(rounded(w, name, scales)[..., others], rounded(changed, name, scales)[..., others])


@pytest.mark.parametrize(("name", "scales"), [("fp8", "head"), ("int8", "head"), ("int4", "head")])
def test_one_scale_per_head_reaches_over_its_columns(name: str, scales: str) -> None:
    w = torch.randn(2, 41, 6, generator=torch.Generator().manual_seed(5))
    changed = w.clone()
    changed[0, :, 2] *= 100
    assert not torch.equal(rounded(w, name, scales)[0, :, 0], rounded(changed, name, scales)[0, :, 0])


def test_a_ragged_last_group_has_constants_of_its_own() -> None:
    w = torch.randn(1, 41, 4, generator=torch.Generator().manual_seed(6))
    changed = w.clone()
    changed[:, 32:] *= 1000
    before, after = rounded(w, "int4", "group32"), rounded(changed, "int4", "group32")
    assert before.shape == w.shape
    assert torch.equal(before[:, :32], after[:, :32])
    assert torch.equal(rounded(w[:, 32:], "int4", "row"), before[:, 32:])
    assert torch.equal(rounded(w[:, :32], "int4", "row"), before[:, :32])


def test_int4_of_stored_four_bit_blocks_is_lossless() -> None:
    """What a Q4_1 file unpacks to, d q + m with d and m in fp16, is met exactly: such weights cannot lose twice."""
    generator = torch.Generator().manual_seed(7)
    levels = torch.randint(0, 16, (3, 4, 32, 5), generator=generator).float()
    levels[:, :, 0], levels[:, :, 1] = 0, 15  # the packer spans its group, so both ends occur
    scale = (0.01 * torch.rand(3, 4, 1, 5, generator=generator) + 1e-4).half().float()
    low = (-0.2 * torch.rand(3, 4, 1, 5, generator=generator)).half().float()
    w = (levels * scale + low).flatten(1, 2)
    assert torch.equal(rounded(w, "int4", "group32"), w)
    assert not torch.equal(rounded(w, "int4", "row"), w)


def test_fp8_clamps_what_a_bare_cast_would_lose() -> None:
    """Above 464 a cast to E4M3 without saturation gives NaN."""
    w = torch.tensor([[[500.0], [-1e6], [3.0]]])
    assert rounded(w, "fp8", "none").flatten().tolist() == [448.0, -448.0, 3.0]
    assert bool(torch.isfinite(rounded(w, "fp8", "row")).all())


def test_a_bare_fp8_cast_underflows_where_a_scale_does_not() -> None:
    w = torch.full((1, 4, 1), 2.0**-11)
    assert float(rounded(w, "fp8", "none").abs().max()) == 0.0
    assert torch.allclose(rounded(w, "fp8", "row"), w, rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "name", "what"),
    [(70_000.0, "fp16", "a weight"), (-70_000.0, "int4", "smallest weight"), (1.5e6, "int4", "scale")],
)
def test_what_does_not_fit_fp16_is_refused(weight: float, name: str, what: str) -> None:
    w = torch.tensor([[[weight], [0.0]]])
    with pytest.raises(PahqError, match=f"{what}.* does not fit fp16"):
        rounded(w, name, "row" if name == "fp16" else "group32")


@pytest.mark.parametrize(("name", "scales"), [pair for pair in ALL if pair[0] != "float32"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(name: str, scales: str, value: float) -> None:
    w = torch.ones(2, 40, 3)
    w[1, 39, 2] = value
    with pytest.raises(PahqError, match=f"a weight is NaN or infinite; format {name} stores finite numbers"):
        rounded(w, name, scales)


def test_what_bf16_would_round_to_infinity_is_refused() -> None:
    largest = torch.finfo(torch.float32).max
    with pytest.raises(PahqError, match="does not fit bf16"):
        rounded(torch.full((1, 1, 1), largest), "bf16")
    assert torch.isfinite(rounded(torch.full((1, 1, 1), 3.389e38), "bf16")).all()


@EVERY
def test_the_dtype_is_kept_and_float32_decides(name: str, scales: str) -> None:
    w = torch.randn(2, 41, 3, generator=torch.Generator().manual_seed(8))
    double = rounded(w.double(), name, scales)
    assert double.dtype == torch.float64
    assert torch.equal(double, rounded(w, name, scales).double())


@EVERY
def test_rounding_twice_is_rounding_once(name: str, scales: str) -> None:
    """Up to the float32 arithmetic of the scales."""
    w = torch.randn(2, 41, 3, generator=torch.Generator().manual_seed(9))
    once = rounded(w, name, scales)
    assert torch.allclose(rounded(once, name, scales), once, rtol=1e-5, atol=2e-3 if name == "int4" else 1e-7)


def test_more_bits_are_closer() -> None:
    w = torch.randn(4, 96, 16, generator=torch.Generator().manual_seed(10))

    def error(name: str, scales: str = "row") -> float:
        return float((rounded(w, name, scales) - w).square().mean())

    ranks = [error("fp16"), error("bf16"), error("int8"), error("fp8"), error("int4", "group32"), error("int4", "head")]
    assert ranks == sorted(ranks)
    assert error("int8") < error("int8", "head")


def test_unknown_formats_and_scales_are_refused() -> None:
    assert set(BITS) == set(FORMATS)
    with pytest.raises(
        PahqError, match="unknown format 'int3'; known: bf16, float32, fp16, fp8, int4, int4s, int8, nf4"
    ):
        Format("int3")
    with pytest.raises(PahqError, match="format int8 has no scales 'group32'; known: row, head"):
        Format("int8", "group32")


def test_a_weight_that_would_read_as_infinite_is_refused() -> None:
    """The largest float32 over 127, rounded to the nearest, times 127 may be more than float32 holds."""
    largest = torch.finfo(torch.float32).max
    refused = 0
    for weight in torch.linspace(largest * (1 - 1e-6), largest, 64):
        try:
            assert torch.isfinite(round_trip(weight.view(1, 1, 1), Format("int8", "row"))).all()
        except PahqError:
            refused += 1
    assert 0 < refused < 64


class Divisions(TorchDispatchMode):
    """Notes divisors that are Python's numbers: a GPU multiplies by their rounded reciprocals, and is off by a bit."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.numbers = 0, list[object]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.startswith("div"):
            self.count += 1
            self.numbers += [] if isinstance(args[1], Tensor) or args[1] == 2 else [args[1]]  # halves are exact
        return func(*args, **(kwargs or {}))


@EVERY
def test_scales_have_the_same_bits_on_every_device(name: str, scales: str) -> None:
    with Divisions() as seen:
        rounded(torch.randn(2, 64, 3), name, scales)
    assert seen.numbers == []
    if name not in ("float32", "bf16", "fp16") and scales != "none":
        assert seen.count


@pytest.mark.parametrize("products", ["int8", "fp8"])
def test_scales_of_activations_have_the_same_bits_on_every_device(products: str) -> None:
    with Divisions() as seen:
        encode(torch.randn(5, 7), products)
    assert seen.count == 2
    assert seen.numbers == []
