"""Words as they come from a file."""

from __future__ import annotations


def as_read(word: str) -> str:
    """The same word as another object: code that asks whether two words are one object knows literals alone."""
    return "".join(list(word))
