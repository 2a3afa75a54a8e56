"""The values of a room: its dataclasses, and which of them can be changed after they were made."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import ModuleType


def values_of(room: ModuleType) -> Iterator[type]:
    """Every dataclass that a module of a room defines."""
    for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        for _, one in inspect.getmembers(importlib.import_module(found.name), is_dataclass):
            if one.__module__ == found.name:
                yield one


def is_frozen(value: type) -> bool:
    """Whether no field of an instance can be set."""
    blank = object.__new__(value)
    try:
        setattr(blank, fields(value)[0].name, None)
    except AttributeError:
        return True
    return False


def changeable(room: ModuleType) -> set[str]:
    """Names of a room's dataclasses that are not frozen."""
    return {value.__name__ for value in values_of(room) if not is_frozen(value)}
