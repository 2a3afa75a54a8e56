"""A table of the report: a frame with a title and a caption, and how it looks in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pahq.analysis.headings import HEADINGS


@dataclass(frozen=True)
class Table:
    """The Markdown shows ``frame`` in parts, one for each value of the column ``by``, a task if not said otherwise."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    by: str = "task"
    notes: str = ""  # how to read its numbers: Markdown

    def markdown(self, level: int = 1) -> str:
        """The table below a heading of that level."""
        parts = [f"{'#' * level} {self.title}", self.caption]
        if self.notes and not self.frame.empty:
            parts.append(self.notes.rstrip())
        for value, rows in self.frame.groupby(self.by, sort=False):
            parts += [
                f"{'#' * (level + 1)} {value}",
                markdown_table(without_blank(rows.drop(columns=self.by))),
            ]
        if self.frame.empty:
            parts.append("No row. Nothing in this experiment belongs in this table.")
        return "\n\n".join(parts) + "\n"


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table: three significant digits, a dash for what is not there."""
    right = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    heads = [HEADINGS.get(name, name.replace("_", " ")) for name in map(str, frame.columns)]
    rows = [heads, ["---:" if number else "---" for number in right]]
    rows += [[in_cell(value).replace("|", "\\|") for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def without_blank(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that say nothing in any row."""
    return frame[[name for name in frame.columns if not (frame[name].isna() | (frame[name] == "")).all()]]


def in_cell(value: object) -> str:
    """A value as it is shown: three significant digits, a dash for what is not there."""
    if isinstance(value, float):
        if np.isnan(value):
            return "-"
        return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
    return str(value)
