"""Configurations of one task and model, composed once, since Hydra takes its time. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import OmegaConf

from pahq.config.precision import PrecisionConfig
from pahq.experiments.typed import read_word

# Groups of which files of other groups say nothing, with the defaults of their values.
FREE: dict[str, dict[str, Any]] = {"method": {}, "engine": {}} | {
    "precision": {
        name: field.default for name, field in PrecisionConfig.model_fields.items() if not field.is_required()
    }
}


class Composer:
    """Gives what ``compose`` gives for the same words (tests hold the two together), mostly without it.

    ``compose``: Hydra's, words to configuration. ``folder``: that of Hydra's files.
    """

    def __init__(self, compose: Callable[[Sequence[str]], dict[str, Any]], folder: Path) -> None:
        self._compose = compose
        self._folder = folder
        self._groups = {path.name for path in folder.iterdir() if path.is_dir()}
        self._read: dict[str, Override | None] = {}
        self._files: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._known: dict[tuple[str, ...], dict[str, Any]] = {}

    def composed(self, words: Sequence[str]) -> dict[str, Any]:
        """The configuration that these overrides make; raises what ``compose`` raises."""
        read = {word: self._reading(word) for word in words}
        typed = {override.key_or_group: override.value() for override in read.values() if override is not None}
        files = {group: self._file(group, str(typed[group])) for group in FREE.keys() & typed.keys()}
        if len(typed) < len(words) or None in files.values():
            return self._compose(words)
        rest = tuple(
            word for word, override in read.items() if override and override.key_or_group in self._groups - FREE.keys()
        )
        if rest not in self._known:
            self._known[rest] = self._compose(rest)
        found = deepcopy(self._known[rest])
        for group, said in files.items():
            found[group] = FREE[group] | deepcopy(said or {})
        values = {key: value for key, value in typed.items() if key not in self._groups}
        return found if all(_put(found, key, value) for key, value in values.items()) else self._compose(words)

    def _reading(self, word: str) -> Override | None:
        """Hydra's reading of a word that sets one value; None for references (``${seed}``), additions and removals."""
        if word not in self._read:
            override = read_word(word)
            if override is None or override.type != OverrideType.CHANGE or override.package or "$" in word:
                override = None
            self._read[word] = override if override and _is_plain(override.value()) else None
        return self._read[word]

    def _file(self, group: str, name: str) -> dict[str, Any] | None:
        """What a file says, with those that it builds on; None where it says that in ways that are left to Hydra."""
        if (group, name) not in self._files:
            path = self._folder / group / f"{name}.yaml"
            text = path.read_text() if path.is_file() else "$"
            self._files[group, name] = None if "$" in text or "@" in text else self._said(group, text)
        return self._files[group, name]

    def _said(self, group: str, text: str) -> dict[str, Any] | None:
        values = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(values, dict):
            return None
        *others, last = values.pop("defaults", None) or ["_self_"]
        said = [self._file(group, other) if isinstance(other, str) else None for other in others]
        below = [value for value in values.values() if isinstance(value, dict)]
        plain = all(_is_plain(value) for part in (values, *below) for value in part.values() if value not in below)
        again = any(isinstance(value, dict) and key in (one or {}) for one in said for key, value in values.items())
        if last != "_self_" or None in said or again or not plain:
            return None
        return {str(key): value for one in [*said, values] for key, value in (one or {}).items()}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _put(configuration: dict[str, Any], key: str, value: object) -> bool:
    """Put a value in the place of another; False, with nothing changed, where that is not all that the key means."""
    parent, _, name = key.rpartition(".")
    place: Any = configuration
    for part in parent.split(".") if parent else ():
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or name not in place or not _is_plain(place[name]):
        return False
    place[name] = value
    return True
