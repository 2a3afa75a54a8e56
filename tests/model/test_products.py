"""Products of rounded operands, against rounding one number at a time."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_models import random_model

from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError
from pahq.model import products as products_room
from pahq.model.codes import LARGEST, Coded, check_card, encode, multiply
from pahq.model.forward import mlp, project
from pahq.model.products import PRODUCTS, mlp_products, product, rounded
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import NO_FOCUS, PrecisionStore

MANTISSA = {"tf32": 10, "bf16": 7}
LOW = pytest.mark.parametrize("products", sorted(MANTISSA))


def nearest(x: float, bits: int) -> float:
    """The slow twin: ``x`` to that many bits of mantissa, ties to even, in float32's range of exponents."""
    if x == 0 or not math.isfinite(x):
        return x
    step = 2.0 ** (max(math.frexp(x)[1] - 1, -126) - bits)
    found = round(x / step) * step
    try:
        struct.pack("<f", found)
    except OverflowError:
        return math.copysign(math.inf, x)
    return found


@LOW
@given(st.lists(st.floats(width=32), max_size=20))
def test_rounding_is_to_the_nearest_and_ties_go_to_even(products: str, values: list[float]) -> None:
    found = rounded(torch.tensor(values, dtype=torch.float32), products)
    expected = torch.tensor([nearest(value, MANTISSA[products]) for value in values], dtype=torch.float32)
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.equal(found.isnan(), expected.isnan())


@LOW
def test_ties(products: str) -> None:
    step = 2.0 ** -MANTISSA[products]
    values = torch.tensor([1 + step / 2, 1 + 1.5 * step, 1 + step / 2 + 2.0**-23], dtype=torch.float32)
    assert rounded(values, products).tolist() == [1.0, 1 + 2 * step, 1 + step]


@LOW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_rounds_operands_and_not_sums(products: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, generator=generator, dtype=dtype) for size in ((3, 4, 50), (3, 50, 6)))
    bits = MANTISSA[products]
    left, right = (torch.tensor([nearest(v, bits) for v in x.float().flatten().tolist()]).view(x.shape) for x in (a, b))
    expected = torch.einsum("bij,bjk->bik", left.double(), right.double())
    tolerance = {"atol": 1e-12, "rtol": 0} if dtype == torch.float64 else {"atol": 1e-4, "rtol": 0}
    weights = rounded(b, products)
    torch.testing.assert_close(product(a, weights, products).double(), expected, **tolerance)
    assert (expected - (a @ b).double()).abs().max() > 1e-3  # rounding shows
    torch.testing.assert_close(product(a, weights[0], products)[0], product(a, weights, products)[0])


@pytest.mark.parametrize(("form", "products"), [("bf16", "tf32"), ("bf16", "bf16"), ("fp16", "tf32")])
def test_products_read_all_of_formats_that_have_no_more_bits(form: str, products: str) -> None:
    """Every number of a format: packed stores need not round these."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    values = bits.view({"bf16": torch.bfloat16, "fp16": torch.float16}[form]).float()
    assert torch.equal(rounded(values, products).nan_to_num(7.0), values.nan_to_num(7.0))


def test_full_precision_is_as_it_is_and_other_names_are_refused() -> None:
    a = torch.randn(3, 4)
    assert rounded(a, "float32") is a
    assert torch.equal(product(a, a.T, "float32"), a @ a.T)
    for call in (lambda: rounded(a, "fp4"), lambda: product(a, a.T, "fp4")):
        with pytest.raises(PahqError, match=f"unknown products 'fp4'; known: {', '.join(sorted(PRODUCTS))}"):
            call()


@pytest.mark.parametrize("store", [PrecisionStore, PackedStore])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_heads_in_focus_multiply_in_full_precision_and_all_else_does_not(store: type, family: str) -> None:
    model = random_model(family, dtype=torch.float32)
    low = store.build(model, PrecisionConfig(name="x", format="float32", compute="bf16"))
    assert not low.uniform
    plain, config = model.config, low.config
    layers = model.layers[0], low.layer(0, frozenset())
    assert [layer.products for layer in layers] == ["float32", low.products] == ["float32", "bf16"]
    assert plain == config  # the model is the same
    count, focus = plain.kv_heads, frozenset({(1, 1)})
    x = torch.randn(count, 2, 3, plain.d_model, generator=torch.Generator().manual_seed(0))
    exact = project(plain, model.layers[1], "k", x)
    coarse = project(config, low.layer(1, NO_FOCUS), "k", x)
    mixed = project(config, low.layer(1, focus), "k", x)
    alone = project(config, low.layer(1, focus), "k", x[[1]], rows=[1])
    assert not torch.isclose(exact, coarse, atol=1e-5).flatten(1).all(1).any()
    for head in range(count):
        torch.testing.assert_close(mixed[head], exact[head] if head == 1 else coarse[head], atol=1e-6, rtol=0)
    torch.testing.assert_close(alone[0], exact[1], atol=1e-6, rtol=0)
    same = x[:1]  # what all heads read
    torch.testing.assert_close(
        project(config, low.layer(1, focus), "k", same)[1],
        project(plain, model.layers[1], "k", same)[1],
        atol=1e-6,
        rtol=0,
    )
    assert not torch.allclose(mlp(config, low.layer(1, focus), x), mlp(plain, model.layers[1], x), atol=1e-6)


def e4m3(x: float) -> float:
    """The slow twin: ``x`` in E4M3 with 3 bits of mantissa, least exponent -6, ties to even."""
    if x == 0:
        return 0.0
    step = 2.0 ** (max(math.frexp(x)[1] - 1, -6) - 3)
    return max(-448.0, min(448.0, round(x / step) * step))


CODED = pytest.mark.parametrize("products", sorted(LARGEST))


@CODED
def test_rows_are_rounded_by_their_own_scale(products: str) -> None:
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-6], [1.0], [3e4], [1.0], [0]]
    )
    codes, scale = encode(x, products)
    level = e4m3 if products == "fp8" else round
    for row, got, unit in zip(x.tolist(), codes.float().tolist(), scale[:, 0].tolist(), strict=True):
        largest = max(map(abs, row))
        assert unit == pytest.approx(largest / LARGEST[products] or 1.0, rel=1e-6)
        assert got == [level(float(torch.tensor(value) / torch.tensor(unit))) for value in row]
    torch.testing.assert_close(rounded(x, products), codes.float() * scale)
    assert torch.isnan(rounded(torch.tensor([[1.0, math.nan]]), products)).all()


def test_a_scale_too_small_to_be_exact_wraps_no_code_around() -> None:
    tiny = torch.tensor([[190.0, -190.0]]) * 2.0**-149  # a scale of 1.5 steps of float32 becomes one of 1
    assert encode(tiny, "int8")[0].tolist() == [[127, -127]]


@CODED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_codes_multiply_as_the_weights_that_they_stand_for(products: str, dtype: torch.dtype, rows: int) -> None:
    """Against the sum of products of rounded numbers in float64; integers are summed exactly."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 6, 50, generator=generator)
    codes, scale = encode(weight, products)
    coded = Coded(codes, scale[..., 0])
    a = torch.randn(3, rows, 50, generator=generator, dtype=dtype)
    values, units = encode(a, products)
    exact = torch.einsum("hri,hoi->hro", values.double(), codes.double()) * units.double() * scale.double().mT
    tolerance = {"rtol": 1e-12 if dtype == torch.float64 else 2e-6, "atol": 0}
    if (products, dtype) == ("fp8", torch.float32):
        tolerance["atol"] = 1e-5
    found = multiply(a, coded, products)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, **tolerance)
    unpacked = product(a, (codes.to(dtype) * scale.to(dtype)).mT, products)
    torch.testing.assert_close(found, unpacked, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        multiply(a[:1], coded, products)[2], multiply(a[[0]].expand(3, -1, -1), coded, products)[2]
    )
    torch.testing.assert_close(multiply(a[[2]], coded.rows([2]), products)[0], found[2])
    assert (found - a @ weight.to(dtype).mT).abs().max() > 1e-3  # rounding shows


def test_devices_refuse_codes_that_they_cannot_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    check_card(torch.device("cpu"), "fp8", 50, 6)
    check_card(torch.device("cuda"), "int8", 768, 64)
    with pytest.raises(PahqError, match="cpu and cuda, not on mps"):
        check_card(torch.device("mps"), "int8", 768, 64)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(PahqError, match=r"no products of fp8 codes \(compute capability 8\.9 or more\)"):
        check_card(torch.device("cuda"), "fp8", 768, 64)
    with pytest.raises(PahqError, match=r"multiples of 16 on a GPU, not 768 and 40; known: precision\.kernel=unpack"):
        check_card(torch.device("cuda"), "int8", 768, 40)


@CODED
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_network_that_multiplies_codes_is_the_one_that_unpacks_them(
    products: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers under any focus, by the codes and by the weights that they stand for; heads in focus are exact."""
    model = random_model(family, dtype=torch.float32)
    policy = PrecisionConfig(name="x", format=products, mlp="bf16", compute=products)
    unpacked = PrecisionStore.build(model, policy)
    coded = PackedStore.build(model, policy.model_copy(update={"kernel": "codes"}))
    multiplied = counted(monkeypatch)
    for rows in (None, [0], [0, 1]):  # as 8-bit products of a card want the second operand
        found = coded.layer(1, NO_FOCUS).coded("q", rows)
        assert found is not None
        assert found.codes.is_contiguous()
    assert coded.layer(0, NO_FOCUS).by_codes
    assert not unpacked.layer(0, NO_FOCUS).by_codes
    x = torch.randn(model.config.heads, 2, 3, model.config.d_model, generator=torch.Generator().manual_seed(0))
    for focus in (NO_FOCUS, frozenset({(1, 1)}), frozenset({(1, 0), (1, 1)})):
        for letter in "qkv":
            every = x[: model.config.count(letter)]
            for inputs, rows in ((every, None), (every[:1], None), (every[[1]], [1])):
                found, expected = (
                    project(store.config, store.layer(1, focus), letter, inputs, rows=rows)
                    for store in (coded, unpacked)
                )
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(multiplied) >= 9  # without a focus in every call
    assert mlp_products(coded.products) == "bf16"
    with pytest.raises(PahqError, match="needs a packed store"):
        PrecisionStore.build(model, policy.model_copy(update={"kernel": "codes"}))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each product of codes from now on."""
    seen: list[int] = []

    def count(*args: object) -> object:
        seen.append(1)
        return multiply(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("pahq.model.codes.multiply", count)
    return seen


@pytest.mark.gpu
@CODED
def test_a_gpus_codes_are_the_cpus(products: str) -> None:
    generator = torch.Generator().manual_seed(0)
    codes, scale = encode(torch.randn(3, 64, 768, generator=generator), products)
    weight, moved = Coded(codes, scale[..., 0]), Coded(codes.cuda(), scale[..., 0].cuda())
    for rows in (1, 16, 17, 32, 33, 40):
        a = torch.randn(3, rows, 768, generator=generator)
        for x, chosen in ((a, None), (a[:1], None), (a[:2], [0, 2]), (a[:1].expand(3, -1, -1), None)):
            ours, theirs = (w if chosen is None else w.rows(chosen) for w in (moved, weight))
            expected = multiply(x, theirs, products)
            tolerance = (1e-6 if products == "int8" else 1e-3) * float(expected.abs().max())
            torch.testing.assert_close(multiply(x.cuda(), ours, products).cpu(), expected, atol=tolerance, rtol=0)


@pytest.mark.gpu
@CODED
def test_a_gpus_store_multiplies_codes(products: str) -> None:
    model = random_model("gpt2", dtype=torch.float32, d_model=64, d_head=16)
    policy = PrecisionConfig(name="x", format=products, mlp="bf16", compute=products, kernel="codes")
    here, there = PackedStore.build(model, policy), PackedStore.build(model.to(device="cuda"), policy)
    x = torch.randn(model.config.heads, 2, 3, 64, generator=torch.Generator().manual_seed(0))
    for focus in (NO_FOCUS, frozenset({(1, 1)})):
        for given_x in (x, x[:1]):
            expected = project(here.config, here.layer(1, focus), "q", given_x)
            found = project(there.config, there.layer(1, focus), "q", given_x.cuda()).cpu()
            torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("sizes", [(3, 5, 4), (300, 512, 260)])
@pytest.mark.parametrize("unit", [True, False])
def test_a_processors_own_bf16_products_are_those_of_rounded_operands(
    unit: bool, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    used, operands = [], products_room._bf16_operands
    monkeypatch.setattr(products_room, "_matrix_unit", lambda: unit)
    monkeypatch.setattr(products_room, "_bf16_operands", lambda: used.append(True) or operands())
    before = torch.backends.mkldnn.matmul.fp32_precision
    generator, (rows, inner, columns) = torch.Generator().manual_seed(0), sizes
    a, b = (torch.randn(size, generator=generator) for size in ((rows, inner), (inner, columns)))
    b = rounded(b, "bf16")
    expected = (rounded(a, "bf16").double() @ b.double()).float()
    torch.testing.assert_close(product(a, b, "bf16"), expected, atol=2e-5 * inner**0.5, rtol=0)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert bool(used) == unit


@pytest.mark.gpu
@LOW
def test_a_gpus_own_products_are_those_of_rounded_operands(products: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, generator=generator) for size in ((3, 4, 64), (3, 64, 8)))
    b = rounded(b, products)
    found = product(a.cuda(), b.cuda(), products).cpu()
    # a card may round to TF32 in another way, by half a step at most
    tolerance = 2.0**-10 * float((a.abs() @ b.abs()).max())
    torch.testing.assert_close(found, product(a, b, products), atol=tolerance, rtol=0)
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
