"""Pages from templates: everything put into one is escaped, but for what is marked as HTML here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from pahq.analysis.headings import HEADINGS
from pahq.analysis.table import in_cell

_PAGES = files("pahq.report") / "pages"


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page of ``pahq/report/pages``; its style and script are written into it."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    """Templates are read once, and what every page has of its own."""
    loader = jinja2.FunctionLoader(lambda name: (_PAGES / name).read_text(encoding="utf-8"))
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name, kind in (("style", "css"), ("script", "js")):
        made.globals[name] = Markup((_PAGES / f"report.{kind}").read_text(encoding="utf-8"))
    return made


def markdown(text: str) -> Markup:
    """Our own notes as HTML; HTML inside them is shown, not obeyed."""
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))


def inline(sentence: str) -> Markup:
    """The same of one sentence, without a paragraph of its own."""
    return Markup(MarkdownIt("commonmark", {"html": False}).renderInline(sentence))


def drawing(svg: str) -> Markup:
    """A drawing of our own as part of a page, without the lines that a file of its own begins with."""
    return Markup(svg[svg.index("<svg") :])


@dataclass(frozen=True)
class Field:
    """A cell of a table: what is shown, what it is sorted by, and where it leads."""

    text: str
    value: str
    right: bool
    link: str = ""


@dataclass(frozen=True)
class Rows:
    """A table: its headings, and its rows of fields."""

    heads: tuple[Field, ...]
    rows: tuple[tuple[Field, ...], ...]


def table(frame: pd.DataFrame, link: Callable[[Mapping[str, Any]], str] | None = None) -> Rows:
    """A frame's rows as tables show them; ``link``: where the first column of a row leads."""
    right = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    names = [HEADINGS.get(name, name.replace("_", " ")) for name in map(str, frame.columns)]
    heads = tuple(Field(text, text, number) for text, number in zip(names, right, strict=True))
    rows: Iterable[Mapping[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return Rows(heads, tuple(_fields(row, right, "" if link is None else link(row)) for row in rows))


def _fields(row: Mapping[str, Any], right: list[bool], link: str) -> tuple[Field, ...]:
    pairs = enumerate(zip(row.values(), right, strict=True))
    return tuple(Field(in_cell(value), _key(value), number, link if i == 0 else "") for i, (value, number) in pairs)


def _key(value: object) -> str:
    return "" if isinstance(value, float) and math.isnan(value) else str(value)
