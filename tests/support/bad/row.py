"""A row of bad input: what is typed, where, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Row:
    """``words`` are typed after ``make`` has put files into the folder given; ``says``: words of the one sentence."""

    words: str
    says: str
    make: Make = lambda given: None
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.words


def file(content: str | bytes, name: str = "own.csv") -> Make:
    raw = content.encode() if isinstance(content, str) else content
    return lambda given: (given / name).write_bytes(raw)
