"""A CUDA graph's double on a CPU: it notes every operation with the very tensors that it reads and writes.

Replaying runs the same operations on the same memory, so whatever a graph would not see (a number of Python's, a tensor
that has moved meanwhile) a tape does not see either. Unlike a graph it runs what it records; writes to memory that was
there before are undone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

Result = TypeVar("Result")

# What a graph refuses: a number handed to Python, a size that depends on values, a tensor of Python's numbers, a tensor
# brought from other memory.
REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "_to_copy.device", "pin_memory")


def refused(func: Any, args: Any) -> bool:
    """Whether no CUDA graph can record an operator on these arguments."""
    brought = func.__name__.startswith(("_to_copy", "to.")) and any(
        isinstance(at, Tensor) and not at.is_floating_point() for at in args
    )
    return brought or any(word in func.__name__ for word in REFUSED)


class _Notes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.notes: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.own: set[int] = set()  # storages made while recording
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if refused(func, args):
            raise AssertionError(f"{func.__name__} cannot be recorded")
        given = [at for at in tree_flatten((args, kwargs))[0] if isinstance(at, Tensor)]
        with _disable_current_modes():  # nor is what is recorded
            if func._schema.is_mutable:
                for storage in (at.untyped_storage() for at in given):
                    if storage.data_ptr() not in self.own and storage.data_ptr() not in self.before:
                        self.before[storage.data_ptr()] = storage, storage.clone()  # type: ignore[no-untyped-call]
            out = func(*args, **kwargs)
        found = [at for at in tree_flatten(out)[0] if isinstance(at, Tensor)]
        read = {at.untyped_storage().data_ptr() for at in given}
        self.own |= {at.untyped_storage().data_ptr() for at in found} - read
        self.notes.append((func, args, kwargs, found))  # which keeps every tensor where it is
        return out


class Tape:
    """See ``pahq.engine.suffix.graphs.Recorder``. ``operations`` of all recordings; how many were ``replayed``."""

    def __init__(self) -> None:
        self.operations: list[int] = []
        self.replayed = 0

    def __call__(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        with _Notes() as tape:
            result = work()
        with _disable_current_modes():
            for storage, before in tape.before.values():
                storage.copy_(before)
        self.operations.append(sum(not func.is_view for func, *_ in tape.notes))

        def replay() -> None:
            self.replayed += 1
            with _disable_current_modes():  # a replay is no operation of the host's
                for func, args, kwargs, found in tape.notes:
                    again = [at for at in tree_flatten(func(*args, **kwargs))[0] if isinstance(at, Tensor)]
                    for place, value in zip(found, again, strict=True):
                        if place.data_ptr() != value.data_ptr():
                            place.copy_(value)

        return result, replay
