"""Which dataclasses of a package can be changed after they were made."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType


def changeable(package: ModuleType) -> set[str]:
    """Names of the dataclasses in a package's own modules that are not frozen."""
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    members = [(name, value) for name in names for value in vars(importlib.import_module(name)).values()]
    own = [value for name, value in members if isinstance(value, type) and value.__module__ == name]
    return {
        value.__name__
        for value in own
        if dataclasses.is_dataclass(value) and not value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    }
