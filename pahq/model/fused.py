"""Products of activations with weights in 8 or 4 bits, which are unpacked inside the product (``kernel=fused``).

The numbers are those of weights unpacked beforehand but for the order of sums; what is saved is writing them out and
reading them again. The kernel is Triton's, for a GPU. Triton's interpreter (TRITON_INTERPRET=1) runs it on a CPU, very
slowly: for tests.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.rows import take

ROWS, OUT = 64, 32  # a tile
INNER = 32  # of the contraction axis at a time; every group of one scale is a multiple, or all there is


@dataclass(frozen=True)
class Fused:
    """Weights of some heads at rest, as ``pahq.precision.packed`` lays them out: ``in`` rows, half as many in 4 bits.

    ``form`` names the format, ``group`` says how many rows of ``in`` one scale reaches over.
    """

    form: str
    group: int
    codes: Shaped[Tensor, "head rows out"]
    scale: Float[Tensor, "head group out_or_1"]
    low: Float[Tensor, "head group out_or_1"] | None = None

    def rows(self, heads: list[int]) -> Fused:
        low = None if self.low is None else take(self.low, heads)
        return replace(self, codes=take(self.codes, heads), scale=take(self.scale, heads), low=low)

    def multiply(self, x: Float[Tensor, "head row inner"], products: str) -> Float[Tensor, "head row out"]:
        """``x @ weight``; ``x`` may have 1 in place of the head axis. Raises PahqError for what does not fit."""
        if x.dtype != torch.float32:
            raise PahqError(f"precision.kernel=fused multiplies float32, not {x.dtype}; known: precision.kernel=unpack")
        kernel = _kernel()
        heads, out = self.codes.shape[0], self.codes.shape[2]
        inner = x.shape[-1] if self.form in ("int8", "fp8") else (x.shape[-1] + 1) // 2
        if x.shape[0] not in (1, heads) or inner != self.codes.shape[1]:
            raise PahqError(f"activations of {list(x.shape)} do not fit weights held as {list(self.codes.shape)}")
        x = x if x.stride(-1) == 1 else x.contiguous()
        found = x.new_empty(heads, x.shape[1], out)
        codes = self.codes.view(torch.uint8) if self.form == "fp8" else self.codes
        low = self.scale if self.low is None else self.low
        grid = (-(-x.shape[1] // ROWS), -(-out // OUT), heads)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # Triton launches on the current device
            kernel.multiply_fused[grid](
                *(x, codes, self.scale, low, found),
                *(x.shape[1], x.shape[2], out),
                *(0 if x.shape[0] == 1 else x.stride(0), x.stride(1)),
                *(codes.stride(0), codes.stride(1), codes.stride(2)),
                *(self.scale.stride(0), self.scale.stride(1), 0 if self.scale.shape[2] == 1 else self.scale.stride(2)),
                *(low.stride(0), low.stride(1), 0 if low.shape[2] == 1 else low.stride(2)),
                *(found.stride(0), found.stride(1)),
                FORM=self.form,
                GROUP=self.group,
                PRODUCTS=products,
                ROWS=ROWS,
                OUT=OUT,
                INNER=INNER,
            )
        return found


def check_fused(device: torch.device) -> None:
    """Raise PahqError where the kernel cannot run: without Triton, or on a CPU without its interpreter."""
    try:
        _kernel()
    except ImportError:
        raise PahqError(
            "precision.kernel=fused needs the package triton, which PyTorch's CUDA builds bring; known: "
            "precision.kernel=unpack"
        ) from None
    if device.type != "cuda" and not (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        raise PahqError(
            f"precision.kernel=fused runs on a CUDA GPU, not on {device.type} (on a CPU with TRITON_INTERPRET=1 alone, "
            "thousands of times slower); known: precision.kernel=unpack"
        )


def _kernel() -> ModuleType:
    """Loaded when it is asked for: the rest of this package does without Triton."""
    return importlib.import_module("pahq.model.fusedkernel")
