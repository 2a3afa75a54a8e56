"""Rows of a table to be, held column by column: a list of dicts takes several times the memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

AT_ONCE = 64  # rows of a frame that are dicts at the same time


class Rows:
    """Rows of the columns named. A text that the row before has too is in memory once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in names}

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row; nan where it has no entry."""
        for name, column in self._columns.items():
            value = row.get(name, float("nan"))
            same = column and isinstance(value, str) and column[-1] == value
            column.append(column[-1] if same else value)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._columns if len(self) else [], columns=list(self._columns))

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))


def records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A frame's rows as dicts, a few at a time."""
    for first in range(0, len(frame), AT_ONCE):
        yield from frame.iloc[first : first + AT_ONCE].to_dict("records")  # type: ignore[misc]
