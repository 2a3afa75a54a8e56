"""The one exception that users meet."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PahqError(ValueError):
    """Bad input, told in one sentence: what was wrong, what was expected, the known names."""


def unknown(kind: str, name: object, known: Iterable[object]) -> PahqError:
    """The error for a name that no table knows."""
    names = sorted(str(item) for item in known)
    return PahqError(f"unknown {kind} {str(name)!r}; known: {', '.join(names)}{nearest(name, names)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a sentence that says a name is not known: the known name that was probably meant, if there is one."""
    found = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
