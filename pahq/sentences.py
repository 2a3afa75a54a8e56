"""What a validation error says to whoever typed the configuration: one clear sentence."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from pahq.errors import nearest


def one_sentence(
    error: ValidationError, model: type[BaseModel] | None = None, *, prefix: str = "", also: tuple[str, ...] = ()
) -> str:
    """The first fault of a validation error: where (after ``prefix``), what, and what is known there.

    ``model`` is what was being validated, for the keys that it knows (and ``also``) in the place of an unknown one.
    """
    fault = error.errors()[0]
    place = prefix + ".".join(str(part) for part in fault["loc"]) if fault["loc"] else ""
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        if model is None:
            return f"unknown key {place!r}"
        known = _known_keys(model, fault["loc"], also)
        return f"unknown key {place!r}; known: {', '.join(known)}{nearest(fault['loc'][-1], known)}"
    got = "" if fault["type"] in ("value_error", "missing") else f" (got {fault['input']!r})"
    return f"{place}: {message}{got}" if place else message


def _known_keys(model: Any, place: tuple[int | str, ...], also: tuple[str, ...]) -> list[str]:
    for part in place[:-1]:
        model, also = model.model_fields[part].annotation, ()
    return sorted([*model.model_fields, *also])
