"""The journal of a cell: every decision, one JSON line each, before the next one falls. It survives a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pahq.circuits.graph import Graph
from pahq.files.text import loads, write_atomic
from pahq.search.acdc import Decision


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One decision as the journal stores it; ``edge`` by name, ``seconds`` spent on its test.

    ``audited`` and ``low`` (losses before and after in low precision) stay unsaid without an audit, and ``drift`` of
    carried losses where it has not grown. ``rough``: the engine's own losses where float64 decided.
    """

    i: int
    edge: str
    before: float
    after: float
    removed: bool
    seconds: float
    audited: bool = False
    low: tuple[float, float] | None = None
    drift: float | None = None
    rough: tuple[float, float] | None = None


class Journal:
    """Appends decisions, one JSON line each, flushed as they fall."""

    def __init__(self, path: Path, kept: Sequence[JournalLine]) -> None:
        """Go on after the lines ``kept``; anything behind them (a half-written line) is cut off."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(_dump(line) for line in kept))
        self._file: TextIO = path.open("a")

    def append(self, line: JournalLine) -> None:
        self._file.write(_dump(line))
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


_SELDOM = ("audited", "low", "drift", "rough")  # unsaid where there is nothing to say


def _dump(line: JournalLine) -> str:
    values = {name: getattr(line, name) for name in JournalLine.__slots__}
    values = {name: value for name, value in values.items() if value or name not in _SELDOM}
    return json.dumps(values, separators=(",", ":"), allow_nan=False) + "\n"


def _well_typed(line: JournalLine) -> bool:
    pairs, drift = (line.low or (), line.rough or ()), () if line.drift is None else (line.drift,)
    numbers = (line.before, line.after, line.seconds, *pairs[0], *pairs[1], *drift)
    plain = all(type(number) in (int, float) for number in numbers) and all(len(pair) in (0, 2) for pair in pairs)
    return plain and isinstance(line.edge, str) and isinstance(line.removed, bool) and isinstance(line.audited, bool)


def read_journal(path: Path) -> list[JournalLine]:
    """The journal's whole lines in order; reading stops at the first line that is cut or out of sequence."""
    lines: list[JournalLine] = []
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return lines
    for raw in content.split(b"\n")[:-1]:  # what follows the last line end was cut in mid-write
        try:
            values = loads(raw)
            for name in ("low", "rough"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            line = JournalLine(**values)
        except (ValueError, TypeError, AttributeError):
            break
        if line.i != len(lines) or not _well_typed(line):
            break
        lines.append(line)
    return lines


def as_line(graph: Graph, decision: Decision, seconds: float) -> JournalLine:
    """A decision as the journal stores it."""
    d, edge = decision, str(graph.edges[decision.edge])
    return JournalLine(
        d.index, edge, d.before, d.after, d.removed, round(seconds, 6), d.audited, d.low, d.drift, d.rough
    )


def as_decision(graph: Graph, line: JournalLine) -> Decision:
    """A journal's line as the search that goes on after it takes it."""
    edge = graph.index_of(line.edge)
    return Decision(line.i, edge, line.before, line.after, line.removed, line.audited, line.low, line.drift, line.rough)


def journalled(
    path: Path, graph: Graph, earlier: Sequence[JournalLine], start: Callable[[list[Decision]], Iterator[Decision]]
) -> Iterator[JournalLine]:
    """The lines of a search that goes on after the lines ``earlier``, each yielded once it is written.

    ``start`` begins the search after decisions that are done. A line's seconds run from the line before it; those of
    the first one, from before ``start``.
    """
    with Journal(path, earlier) as journal:
        clock = time.perf_counter()
        for decision in start([as_decision(graph, line) for line in earlier]):
            now = time.perf_counter()
            line = as_line(graph, decision, now - clock)
            journal.append(line)
            clock = now
            yield line
