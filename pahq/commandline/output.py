"""How a command tells what came of it: in words, on a terminal as a table, or as one JSON document. No torch."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pahq.errors import PahqError
from pahq.files.text import dump_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {"ok": "green", "whole": "green", "note": "yellow", "repaired": "yellow", "fault": "red", "damaged": "red"}


def for_this_process() -> None:
    """Standard output and error that take all words: what they cannot encode is escaped; a closed one keeps nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def on_terminal() -> bool:
    """Whether standard output is a terminal that can show a table; else words stay plain, without escape codes."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def line(text: str) -> None:
    """One line of words, seen at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def check_file(path: Path) -> None:
    """PahqError for an ``--out`` that cannot be a file, before anything is computed for it."""
    if path.is_dir():
        raise PahqError(f"--out {path} is a folder; name a file in it")


def document(value: Any) -> None:
    """One JSON document. What is no finite number is null there, and a path is text."""
    sys.stdout.write(dump_json(plain(value)))
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def table(rows: Sequence[Sequence[str]], headings: Sequence[str] = ()) -> None:
    """Rows of a table on a terminal, in colours unless NO_COLOR is set (https://no-color.org)."""
    made = _table(headings)
    for row in rows:
        _add(made, row)
    _console().print(made)


@contextmanager
def growing_table(headings: Sequence[str]) -> Iterator[Any]:
    """A table on a terminal that grows row by row: what it yields is called with each."""
    from rich.live import Live

    made = _table(headings)
    with Live(made, console=_console(), auto_refresh=False, vertical_overflow="visible") as live:

        def add(row: Sequence[str]) -> None:
            _add(made, row)
            live.refresh()

        yield add


def _console() -> Console:
    from rich.console import Console

    return Console(color_system=None if "NO_COLOR" in os.environ else "auto", highlight=False)


def _table(headings: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD if headings else None, show_header=bool(headings), pad_edge=False)
    for heading in headings:
        made.add_column(heading, no_wrap=heading == headings[0], overflow="fold")
    return made


def _add(made: Table, row: Sequence[str]) -> None:
    from rich.text import Text

    first, *rest = row
    style = STYLES.get(first, "" if made.show_header else "bold")
    made.add_row(Text(first, style=style), *map(Text, rest))


def sections_in_colours(parts: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """Titled lists of words with what they mean, on a terminal."""
    from rich import box
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    for title, rows in parts:
        grid = Table.grid(padding=(0, 2))
        for word, meaning in rows:
            grid.add_row(*([Text(word, style="bold cyan")] if word else []), Text(meaning))
        _console().print(Panel(grid, title=title, title_align="left", border_style="dim", box=box.ROUNDED))
