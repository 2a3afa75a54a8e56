"""Products of activations and weights in fewer bits: operands are rounded, sums are taken in the operands' own dtype.

``tf32`` keeps 10 bits of mantissa, ``bf16`` 7; both have float32's exponents. That is what a GPU's tensor cores do with
float32 sums (how a card rounds to TF32 is its own affair), and a processor's matrix unit in bf16 (Intel's AMX).
Elsewhere rounding is done by hand, which costs time.
``fp8`` and ``int8`` round every row of activations by its own scale (``pahq.model.codes``); weights are in 8 bits
already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import unknown
from pahq.model.codes import LARGEST, encode

PRODUCTS = ("float32", "tf32", "bf16", "fp8", "int8")


def mlp_products(products: str) -> str:
    """How MLPs multiply in a network that multiplies in ``products``: their weights are never in 8 bits."""
    return "bf16" if products in LARGEST else products


def product(
    a: Float[Tensor, "*batch rows inner"], b: Float[Tensor, "*batch inner out"], products: str
) -> Float[Tensor, "*batch rows out"]:
    """``a @ b`` for weights ``b`` that are rounded already (stores see to it); ``b`` may lack the batch axes.

    float32: as it is. Raises PahqError for an unknown kind.
    """
    if products == "float32":
        return a @ b
    gradient = a.requires_grad and torch.is_grad_enabled()  # which products that sum in another dtype have none of
    if products == "bf16" and a.device.type == "cpu" and a.dtype == torch.float32 and not gradient and _matrix_unit():
        with _bf16_operands():  # small products are float32's all the same, so that operands are rounded here
            return rounded(a, products) @ b
    if a.device.type != "cuda" or a.dtype != torch.float32 or products in LARGEST or gradient:
        return rounded(a, products) @ b
    if products == "tf32":
        with _tf32():
            return a @ b
    if products != "bf16":
        raise unknown("products", products, PRODUCTS)
    left, right = a.bfloat16(), b.bfloat16()
    if b.ndim == 2:
        out = torch.mm(left.flatten(0, -2), right, out_dtype=torch.float32)
    else:
        out = torch.bmm(left.flatten(0, -3), right.flatten(0, -3), out_dtype=torch.float32)
    return out.view(*a.shape[:-1], b.shape[-1])


def rounded(x: Tensor, products: str) -> Tensor:
    """Every value as such a product reads it, to the nearest (ties to even), in the dtype of ``x``.

    Rounding has a gradient of nought almost everywhere; backward passes go straight through it, as if nothing were
    rounded (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432).
    """
    if products == "float32":
        return x
    if x.requires_grad and torch.is_grad_enabled():
        return x + (
            rounded(x.detach(), products) - x.detach()
        )  # exact: the two are within a factor of two, or one is 0
    if products == "bf16":
        return x.bfloat16().to(x.dtype)
    if products in LARGEST:
        codes, scale = encode(x, products)
        return codes.to(x.dtype) * scale
    if products != "tf32":
        raise unknown("products", products, PRODUCTS)
    bits = x.float().contiguous().view(torch.int32)
    last = (bits >> 13) & 1  # of the bits that stay: a tie goes to where it is 0
    nearest = ((bits + 0xFFF + last) & ~0x1FFF).view(torch.float32)
    return torch.where(torch.isfinite(x), nearest, x.float()).to(x.dtype)


@cache
def _matrix_unit() -> bool:
    """Whether this processor multiplies bf16 several times faster than float32, and torch says so."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("amx_bf16")) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@contextmanager
def _bf16_operands() -> Iterator[None]:
    """Within, a CPU's products of float32 tensors may read their operands in bf16; sums stay in float32.

    That holds for the whole process, so no other thread may multiply meanwhile.
    """
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@contextmanager
def _tf32() -> Iterator[None]:
    setting = torch.backends.cuda.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "tf32"
    try:
        yield
    finally:
        setting.fp32_precision = before
