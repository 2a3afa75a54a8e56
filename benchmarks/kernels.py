"""One layer's q projection of every head: in float32, from low-bit weights unpacked each time, by 8-bit codes, and, on
a GPU, from weights unpacked inside the product.

    python benchmarks/kernels.py --json FILE
    python benchmarks/kernels.py --device cuda --rows 1500 --json FILE

Each way multiplies the same rows (an input of its own to every head, as a search's receivers have) by the same weights;
the ways take turns, and what is reported is the median of a way's time over float32's in the same round, with the
quartiles. ``error``: largest deviation from float32, relative to the largest output.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from output import publish
from torch import Tensor

from pahq.model.codes import Coded, multiply
from pahq.model.fused import Fused
from pahq.model.products import product, rounded
from pahq.precision.formats import Format
from pahq.precision.packed import Packed, pack, unpack

SHAPES = {"gpt2": (12, 768, 64), "gpt2-xl": (25, 1600, 64), "llama-3-8b": (32, 4096, 128)}  # heads, d_model, d_head


def ways(weight: Tensor, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is compared, by name: format / operands of the products / kernel."""
    buffer = torch.empty_like(weight)

    def unpacked(packed: Packed, products: str) -> Tensor:
        return product(x, unpack(packed, out=buffer), products)

    found: dict[str, Callable[[], Tensor]] = {"float32": partial(product, x, weight, "float32")}
    for products in ("tf32", "bf16") if x.is_cuda else ("bf16",):
        found[f"float32 / {products}"] = partial(product, x, rounded(weight, products), products)
    for name in ("int8", "fp8", "int4"):
        packed = pack(weight, Format(name, "group32" if name == "int4" else "row"))
        found[f"{name} / float32 / unpack"] = partial(unpacked, packed, "float32")
        assert packed.scale is not None
        if x.is_cuda:
            reach = 32 if name == "int4" else weight.shape[1]
            fused = Fused(name, reach, packed.codes, packed.scale, packed.low)
            for products in ("float32", "tf32", "bf16"):
                found[f"{name} / {products} / fused"] = partial(fused.multiply, x, products)
        if name != "int4":
            coded = Coded(packed.codes.mT.contiguous(), packed.scale[..., 0, :])
            found[f"{name} / {name} / unpack"] = partial(unpacked, packed, name)
            found[f"{name} / {name} / codes"] = partial(multiply, x, coded, name)
    return found


def measure(shape: str, rows: int, repeats: int, device: torch.device) -> list[dict[str, Any]]:
    heads, d_model, d_head = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(heads, d_model, d_head, generator=generator) * d_model**-0.5).to(device)
    x = torch.randn(heads, rows, d_model, generator=generator).to(device)
    compared = ways(weight, x)
    exact = compared["float32"]()
    errors = {name: float((way() - exact).abs().max() / exact.abs().max()) for name, way in compared.items()}
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(repeats):
        for name, way in compared.items():
            _settle(device)
            clock = time.perf_counter()
            way()
            _settle(device)
            times[name].append(time.perf_counter() - clock)
    found = []
    for name, seconds in times.items():
        ratios = [own / base for own, base in zip(seconds, times["float32"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        found.append(
            {
                **{"shape": shape, "way": name, "rows": rows, "seconds": statistics.median(seconds)},
                **{"over_float32": statistics.median(ratios), "quartiles": [low, high], "error": errors[name]},
            }
        )
    return found


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rows", type=int, default=240, help="of every head: prompts times positions")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    device = torch.device(options.device)
    rows = [row for shape in options.shapes.split(",") for row in measure(shape, options.rows, options.repeats, device)]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    publish({"torch": torch.__version__, "device": card, "rows": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
