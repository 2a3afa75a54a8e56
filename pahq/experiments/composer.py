"""Configurations that differ in threshold and precision alone, composed once, since Hydra takes its time. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from pahq.config.precision import PrecisionConfig

FREE = ("threshold", "precision")
DEFAULTS = {name: field.default for name, field in PrecisionConfig.model_fields.items() if not field.is_required()}


class Composer:
    """Gives what ``compose`` gives for the same words (a test holds the two together), mostly without it.

    ``compose``: Hydra's, words to configuration. ``folder``: that of Hydra's files.
    """

    def __init__(self, compose: Callable[[Sequence[str]], dict[str, Any]], folder: Path) -> None:
        self._compose = compose
        self._folder = folder / "precision"
        self._known: dict[tuple[object, ...], dict[str, Any]] = {}
        self._precisions: dict[str, dict[str, str] | None] = {}

    def composed(self, words: Sequence[str]) -> dict[str, Any]:
        """The configuration that these overrides make; raises what ``compose`` raises."""
        free = {key: [word for word in words if word.startswith(f"{key}=")] for key in FREE}
        # A value may refer to another (${seed}), which is Hydra's to resolve, as are additions and removals.
        if max(map(len, free.values())) > 1 or any("$" in word or word.startswith(("+", "~")) for word in words):
            return self._compose(words)
        precisions = [self._precision(word.partition("=")[2]) for word in free["precision"]]
        if None in precisions:
            return self._compose(words)
        rest = [word for word in words if word.partition("=")[0] not in FREE]
        key = (*rest, *map(bool, free.values()))
        if key not in self._known:
            self._known[key] = self._compose(words)
        found = dict(self._known[key])
        for word in free["threshold"]:
            found["threshold"] = yaml.safe_load(word.partition("=")[2])
        for precision in precisions:
            assert precision is not None
            typed = {word.partition("=")[0] for word in rest}
            own = {name: value for name, value in found["precision"].items() if f"precision.{name}" in typed}
            found["precision"] = DEFAULTS | precision | own
        return found

    def _precision(self, name: str) -> dict[str, str] | None:
        """What a precision's file says; None for one that says it in Hydra's own ways, or that is not there."""
        if name not in self._precisions:
            path = self._folder / f"{name}.yaml"
            values = yaml.safe_load(path.read_text()) if path.is_file() else None
            self._precisions[name] = values if _is_plain(values) else None
        return self._precisions[name]


def _is_plain(values: Any) -> TypeGuard[dict[str, str]]:
    """Whether there are texts alone, none of which refers to another value."""
    return isinstance(values, dict) and all(type(value) is str and "$" not in value for value in values.values())
