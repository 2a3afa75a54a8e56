"""kernel=fused: the Triton kernel, run by Triton's interpreter, against weights unpacked beforehand; and compiled."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import small_models

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError
from pahq.model.forward import project
from pahq.model.fused import Fused, check_fused
from pahq.model.products import rounded
from pahq.model.rows import take
from pahq.precision.formats import GROUPS, Format
from pahq.precision.packed import pack, unpack
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import NO_FOCUS, PrecisionStore, focus_of
from pahq.search.acdc import acdc

pytest.importorskip("triton", reason="make triton installs what these tests need")
random_model, random_prompts = small_models.random_model, small_models.random_prompts
FORMATS = (
    "int8-row",
    "int8-head",
    "fp8-row",
    "fp8-head",
    "int4-group32",
    "int4-row",
    "int4-head",
    "int4s-group32",
    "int4s-row",
)
PRODUCTS = ("float32", "tf32", "bf16")


interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")


def at_rest(weight: torch.Tensor, form: str) -> tuple[Fused, torch.Tensor]:
    name, scales = form.split("-")
    packed = pack(weight, Format(name, scales))
    assert packed.scale is not None
    reach = GROUPS.get(scales, weight.shape[-2])
    return Fused(name, reach, packed.codes, packed.scale, packed.low), unpack(packed)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("inner", [7, 70])  # less than a group; two whole ones and a rest
@interpreted
def test_the_product_is_that_of_weights_unpacked_beforehand(form: str, inner: int) -> None:
    generator = torch.Generator().manual_seed(inner)
    weight = torch.randn(2, inner, 35, generator=generator)
    weight[0, :, 3] = 0.0
    weight[1, 0, 4] = 1e-4  # among E4M3's subnormal numbers, or nought
    fused, plain = at_rest(weight, form)
    x = torch.randn(2, 66, inner, generator=generator)
    for products in PRODUCTS:
        for given, heads in ((x, None), (x[:1], None), (x[[1]], [1])):
            found = (fused if heads is None else fused.rows(heads)).multiply(given, products)
            expected = rounded(given, products) @ rounded(plain if heads is None else take(plain, heads), products)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    broken = x.clone()
    broken[0, 0, 0] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # a card's own NaN
    for products in PRODUCTS:
        assert fused.multiply(broken, products)[0, 0].isnan().all()
    with pytest.raises(PahqError, match="do not fit weights"):
        fused.multiply(x[..., :-2], "float32")
    turned = x.mT.contiguous().mT
    torch.testing.assert_close(fused.multiply(turned, "float32"), x @ plain, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("compute", ["float32", "bf16"])
@interpreted
def test_a_layer_is_the_one_that_unpacks_and_heads_in_focus_are_exact(family: str, compute: str) -> None:
    model = random_model(family, dtype=torch.float32)
    policy = PrecisionConfig(name="x", format="int4", scales="group32", mlp="bf16", compute=compute)
    unpacked = PrecisionStore.build(model, policy)
    store = PackedStore.build(model, policy.model_copy(update={"kernel": "fused"}))
    x = torch.randn(model.config.heads, 2, 3, model.config.d_model, generator=torch.Generator().manual_seed(0))
    for focus in (NO_FOCUS, frozenset({(1, 1)}), frozenset({(1, 0), (1, 1)})):
        for letter in "qkv":
            every = x[: model.config.count(letter)]
            for inputs, rows in ((every, None), (every[:1], None), (every[[1]], [1])):
                found, expected = (
                    project(each.config, each.layer(1, focus), letter, inputs, rows=rows) for each in (store, unpacked)
                )
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@interpreted
def test_a_search_takes_the_same_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gpt2", dtype=torch.float32)
    policy = PrecisionConfig(name="x", format="int4", scales="group32", mlp="bf16")
    calls: list[str] = []
    multiply = Fused.multiply
    monkeypatch.setattr(
        Fused, "multiply", lambda self, x, products: calls.append(products) or multiply(self, x, products)
    )

    def searched(kernel: str) -> list[tuple[int, bool, float]]:
        problem: Problem = build_problem(
            model,
            random_prompts(model),
            metric="kl",
            precision=policy.model_copy(update={"kernel": kernel}),
            focus="receiver",
            store="packed",
        )
        found = acdc(
            SuffixEngine(problem),
            Order(),
            0.02,
            focus=lambda edge: focus_of(problem.graph, problem.graph.edges[edge], problem.focus),
        )
        return [(d.edge, d.removed, d.after) for d in found]

    unpack = searched("unpack")
    assert not calls
    fused = searched("fused")
    assert set(calls) == {"float32"}
    assert [line[:2] for line in fused] == [line[:2] for line in unpack]
    assert [line[2] for line in fused] == pytest.approx([line[2] for line in unpack], abs=1e-5)


def test_it_compiles_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """To machine code of compute capabilities 8.0 and 9.0; nothing runs it. Formats and products meet."""
    program = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pahq.model.fusedkernel import multiply_fused

kinds = [("int8", "*i8", "*fp32"), ("fp8", "*u8", "*fp32"), ("int4", "*u8", "*fp16"), ("int4s", "*u8", "*fp16")]
for i, (form, codes, scale) in enumerate(kinds):
    for j, products in enumerate(("float32", "tf32", "bf16")):
        fixed = {"FORM": form, "GROUP": 32, "PRODUCTS": products, "ROWS": 64, "OUT": 32, "INNER": 32}
        names = {name: "i32" for name in multiply_fused.arg_names} | {name: "constexpr" for name in fixed}
        names |= {"x": "*fp32", "codes": codes, "scale": scale, "low": scale, "found": "*fp32"}
        source, capability = ASTSource(fn=multiply_fused, signature=names, constexprs=fixed), (80, 90)[(i + j) % 2]
        assert len(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]) > 1000
print("compiled")
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.strip() == "compiled", done.stderr


def test_without_a_gpu_or_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(PahqError, match=r"multiplies float32, not torch\.float64"):
        at_rest(torch.ones(1, 4, 4), "int8-row")[0].multiply(torch.ones(1, 1, 4, dtype=torch.float64), "float32")
    with pytest.raises(
        PahqError, match=r"kernel=fused runs on a CUDA GPU, not on cpu .*known: precision\.kernel=unpack"
    ):
        check_fused(torch.device("cpu"))

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(PahqError, match="kernel=fused needs the package triton"):
        check_fused(torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("rows", "inner", "out"), [(240, 768, 64), (66, 70, 35)], ids=["whole-tiles", "parts"])
def test_a_gpus_products_are_those_of_weights_unpacked_beforehand(form: str, rows: int, inner: int, out: int) -> None:
    generator = torch.Generator().manual_seed(0)
    fused, plain = at_rest(torch.randn(3, inner, out, generator=generator).cuda(), form)
    x = torch.randn(3, rows, inner, generator=generator).cuda()
    turned = x.mT.contiguous().mT  # the same numbers, lying otherwise
    for products in PRODUCTS:
        for given, heads in ((x, [0, 1, 2]), (x[:1], [0, 1, 2]), (x[[0, 2]], [0, 2]), (turned, [0, 1, 2])):
            weight = rounded(take(plain, heads), products).double()
            wanted = (rounded(given, products).double() @ weight).float()
            found = fused.rows(heads).multiply(given, products)
            torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)
