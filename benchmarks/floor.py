"""The least time that an arithmetic takes on a device: its operations over the rate of a large float32 product, or its
bytes over the bandwidth of a large copy, whichever is more. Both are measured here.

Operations are those of matrix products, counted as they are dispatched, and bytes what all operators read and write, as
if nothing stayed in a cache. So a program can be below the floor of bytes, one whose products are in fewer bits below
that of operations, and one whose pace the host sets is far above both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations of products, and bytes that operators read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.is_view:
            return found
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=found)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


@dataclass(frozen=True)
class Device:
    """What a device does in a second: operations of a product in float32, and bytes read and written by a copy."""

    operations: float
    bytes: float

    @classmethod
    def measured(cls, device: str, side: int) -> Device:
        """By a product of two square matrices of so many rows, and a copy of one; the quickest of five."""
        left, right, out = (torch.rand(side, side, device=device) for _ in range(3))
        product = quickest(device, lambda: torch.mm(left, right, out=out))
        copied = quickest(device, lambda: out.copy_(left))
        return cls(2 * side**3 / product, 2 * left.numel() * left.element_size() / copied)

    def floor(self, work: Work) -> float:
        """Seconds below which the work cannot be done."""
        return max(work.operations / self.operations, work.bytes / self.bytes)


def quickest(device: str, call: Callable[[], object]) -> float:
    """Seconds of the quickest of five calls, after one that is not timed."""
    call()
    taken = []
    for _ in range(5):
        wait(device)
        clock = time.perf_counter()
        call()
        wait(device)
        taken.append(time.perf_counter() - clock)
    return min(taken)


def wait(device: str) -> None:
    """Until everything that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
