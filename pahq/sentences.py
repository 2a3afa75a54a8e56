"""What a validation error says to whoever typed the configuration: one clear sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pahq.errors import nearest


def one_sentence(
    error: ValidationError, model: type[BaseModel] | None = None, *, prefix: str = "", also: tuple[str, ...] = ()
) -> str:
    """The first fault of a validation error, unknown keys before others: where (after ``prefix``), and what is known.

    ``model`` is what was being validated, for the keys that it knows (and ``also``) in the place of an unknown one.
    """
    faults = error.errors()
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    parts = [str(part) for part in fault["loc"] if "[" not in str(part)]  # not which of several types was tried
    place = prefix + ".".join(parts) if parts else ""
    message = fault["msg"].removeprefix("Value error, ")
    own = str(fault["loc"][-1]) if fault["loc"] else ""
    if own and message.startswith((f"{own}: ", f"{own} ")):  # it begins with the key's own name
        return f"{place}{message.removeprefix(own)}"
    if fault["type"] == "extra_forbidden":
        if model is None:
            return f"unknown key {place!r}"
        known = _known_keys(model, fault["loc"][:-1], also)
        return f"unknown key {place!r}; known: {', '.join(known)}{nearest(fault['loc'][-1], known)}"
    if fault["type"] == "model_type" and place:
        return no_mapping(place, fault["input"], _known_keys(model, fault["loc"], also) if model else ())
    got = "" if fault["type"] in ("value_error", "missing") else f" (got {fault['input']!r})"
    return f"{place}: {message}{got}" if place else message


def no_mapping(place: str, given: object, known: Iterable[str]) -> str:
    """What to say where one value was given in the place of several settings."""
    keys = ", ".join(sorted(known))
    return f"{place}: a mapping was expected (got {given!r})" + (f"; known keys: {keys}" if keys else "")


def _known_keys(model: Any, place: tuple[int | str, ...], also: tuple[str, ...]) -> list[str]:
    for part in place:
        kind = model.model_fields[part].annotation
        model, also = next(one for one in (kind, *get_args(kind)) if hasattr(one, "model_fields")), ()
    return sorted([*model.model_fields, *also])
