"""A task's prompts as JSON: token ids, the items that metrics read, and their targets, exactly as a search had them.

A tensor is its ``dtype`` and its ``rows``. One that is nearly all nought (the signs of a vocabulary) is its ``shape``
and, in place of rows, the places ``at`` (in the order of memory) of its ``values``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pahq.errors import PahqError
from pahq.tasks.task import Prompts, Task

SPARSE = 1000  # numbers of a tensor from which on it may be told by those that are not nought
LARGEST = 1 << 27  # numbers that such a tensor may stand for
PARTS = ("search", "fresh")
_FIELDS = ("clean", "corrupted", "items", "position_order")
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.int64, torch.float32, torch.float64)}


def told(task: Task) -> dict[str, Any]:
    """A task's prompts as JSON can hold them."""
    parts = {name: _told(getattr(task, name)) for name in PARTS}
    return {"task": task.name, "metric": task.metric} | parts


def read(values: Any) -> Task:
    """What ``told`` gave; PahqError for anything else."""
    try:
        parts = {name: _read(values[name]) for name in PARTS}
        name, metric = values["task"], values["metric"]
        if not isinstance(name, str) or not isinstance(metric, str):
            raise TypeError("task and metric are names")
        task = Task(name, parts["search"], parts["fresh"], metric)
        if told(task) != values:
            raise ValueError("numbers or entries are not those that would be written")
        return task
    except KeyError as error:
        raise PahqError(f"its prompts lack the entry {error}") from None
    except (AttributeError, IndexError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise PahqError(f"its prompts cannot be read: {' '.join(str(error).split())}") from None


def alike(one: Task, other: Task) -> bool:
    """Whether two tasks have the very same prompts."""
    return told(one) == told(other)


def _told(prompts: Prompts) -> dict[str, Any]:
    found: dict[str, Any] = {name: _tensor(getattr(prompts, name)) for name in _FIELDS}
    return found | {"targets": {name: _tensor(value) for name, value in sorted(prompts.targets.items())}}


def _tensor(value: Tensor | None) -> dict[str, Any] | None:
    if value is None:
        return None
    dtype, flat = str(value.dtype).removeprefix("torch."), value.flatten()
    at = flat.nonzero()[:, 0]
    if flat.numel() < SPARSE or 4 * len(at) > flat.numel():
        return {"dtype": dtype, "rows": value.tolist()}
    return {"dtype": dtype, "shape": list(value.shape), "at": at.tolist(), "values": flat[at].tolist()}


def _read(values: Mapping[str, Any]) -> Prompts:
    fields = {name: _from(values[name]) for name in _FIELDS}
    targets = {str(name): _from(value) for name, value in values["targets"].items()}
    return Prompts(**fields, targets=targets)


def _from(values: Mapping[str, Any] | None) -> Any:
    if values is None:
        return None
    dtype = _DTYPES[values["dtype"]]
    if "rows" in values:
        return torch.tensor(values["rows"], dtype=dtype)
    shape = tuple(values["shape"])
    if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) > LARGEST:
        raise ValueError(f"a tensor of shape {shape}")
    found = torch.zeros(math.prod(shape), dtype=dtype)
    found[torch.tensor(values["at"], dtype=torch.int64)] = torch.tensor(values["values"], dtype=dtype)
    return found.view(shape)
