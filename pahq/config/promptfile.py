"""Files of your own prompts: CSV or JSONL with clean, corrupted, answer and perhaps wrong and split. No torch.

A file is read when a configuration is checked, so a faulty row is told in one sentence before any heavy work.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pahq.errors import PahqError, unknown
from pahq.files.text import loads

REQUIRED = ("clean", "corrupted", "answer")
COLUMNS = (*REQUIRED, "wrong", "split")
SPLITS = ("search", "fresh")
SUFFIXES = (".csv", ".jsonl")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # of tables that are no CSV of ours


@dataclass(frozen=True)
class Pair:
    """One row: texts as they stand in the file (spaces count), ``row`` counted from 1 without the heading."""

    row: int
    clean: str
    corrupted: str
    answer: str
    wrong: str | None = None
    split: str | None = None


def read_pairs(path: Path, *, sha256: str | None = None) -> list[Pair]:
    """All rows of a prompt file.

    A byte order mark, and lines that end in CRLF, make no difference. Raises PahqError naming row and column: a column
    that is missing, unknown, empty, or filled in some rows only. With ``sha256`` (``pairs_digest``, or that of the
    file's bytes, as older cells recorded it) it is raised too if the file holds something else.
    """
    content = _content(path)
    text = _text(path, content)
    rows = list(_csv(path, text) if path.suffix.lower() == ".csv" else _jsonl(path, text))
    if not rows:
        raise PahqError(f"{path} holds no prompts")
    pairs = [_pair(path, row, values) for row, values in rows]
    for column in ("wrong", "split"):
        for pair in pairs[1:]:
            if (getattr(pair, column) is None) != (getattr(pairs[0], column) is None):
                raise PahqError(f"{path}, row {pair.row}, column {column}: either all rows have one or none")
    if sha256 is not None and sha256 not in (pairs_digest(pairs), hashlib.sha256(content).hexdigest()):
        raise PahqError(f"{path} has changed: it does not hold the prompts ({sha256[:12]}...) of the cell's set-up")
    return pairs


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """sha256 in hex of what was read: every text of every row in order, however the file spells them."""
    rows = [[pair.clean, pair.corrupted, pair.answer, pair.wrong, pair.split] for pair in pairs]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def cut(pairs: Sequence[Pair], examples: int | None) -> tuple[list[Pair], list[Pair]]:
    """Pairs to search on and fresh ones.

    With a column ``split``: the first ``examples`` of those marked search (None: all), and all marked fresh. Without:
    the first ``examples`` (None: half of them, rounded up), and all others. Raises PahqError where either is empty.
    """
    if pairs[0].split is not None:
        search, fresh = ([pair for pair in pairs if pair.split == split] for split in SPLITS)
        if not search or not fresh:
            raise PahqError(f"column split marks no row as {'fresh' if search else 'search'}; both are needed")
    else:
        half = (len(pairs) + 1) // 2 if examples is None else examples
        search, fresh = list(pairs[:half]), list(pairs[half:])
        if not fresh:
            raise PahqError(f"{len(pairs)} prompts leave none to judge by when {half} are searched on; give more")
    if examples is not None and examples > len(search):
        raise PahqError(f"{examples} examples were asked for; the file marks {len(search)} as search")
    return search[:examples], fresh


def _content(path: Path) -> bytes:
    if path.suffix.lower() not in SUFFIXES:
        raise PahqError(f"prompts are read from {' or '.join(SUFFIXES)} files, not from {path.name!r}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise PahqError(f"prompt file {path}: {error.strerror}") from None


def _text(path: Path, content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise PahqError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PahqError(f"{path} is not UTF-8 text (byte {error.start})") from None


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    _check_separator(f"{path}, heading", text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        heading = next(reader, [])
        _check_columns(f"{path}, heading", heading)
        for row, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(heading):
                raise PahqError(f"{path}, row {row} has {len(cells)} cells; the heading has {len(heading)} columns")
            yield row, dict(zip(heading, cells, strict=True))
    except csv.Error as error:
        raise PahqError(f"{path}, line {reader.line_num} is no CSV: {error}") from None


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for row, line in enumerate((line for line in text.split("\n") if line.strip()), 1):
        try:
            values = loads(line)
        except ValueError as error:
            raise PahqError(f"{path}, row {row} is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise PahqError(f"{path}, row {row} is no JSON object with the keys {', '.join(REQUIRED)}")
        _check_columns(f"{path}, row {row}", list(values))
        yield row, values


def _check_separator(place: str, line: str) -> None:
    """Raise PahqError where a heading without commas names our columns between other separators."""
    for mark, name in SEPARATORS.items():
        if "," not in line and len({part.strip(' "') for part in line.split(mark)} & set(COLUMNS)) > 1:
            raise PahqError(f"{place}: commas were expected between columns, not {name} ({','.join(REQUIRED)})")


def _check_columns(place: str, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in COLUMNS:
            raise unknown(f"column in {place}:", column, COLUMNS)
    if len(set(columns)) != len(columns):
        raise PahqError(f"{place} names a column twice")
    for column in REQUIRED:
        if column not in columns:
            raise PahqError(f"{place} lacks the column {column!r}; needed: {', '.join(REQUIRED)}")


def _pair(path: Path, row: int, values: dict[str, Any]) -> Pair:
    for column, value in values.items():
        if value is None and column not in REQUIRED:
            continue
        if not isinstance(value, str):
            raise PahqError(f"{path}, row {row}, column {column}: text was expected, got {value!r}")
        if column in REQUIRED and not value.strip():
            raise PahqError(f"{path}, row {row}, column {column} is empty")
    optional = {column: values.get(column) or None for column in ("wrong", "split")}
    if optional["split"] not in (None, *SPLITS):
        raise unknown(f"split in {path}, row {row}:", str(optional["split"]), SPLITS)
    if optional["wrong"] == values["answer"]:
        raise PahqError(f"{path}, row {row}, column wrong: the same as in column answer")
    return Pair(row, values["clean"], values["corrupted"], values["answer"], optional["wrong"], optional["split"])
