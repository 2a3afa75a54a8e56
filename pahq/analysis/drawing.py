"""How figures are drawn: one panel a task, colour is precision, marker is method, a marker's filling is the variant."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from pahq.analysis.colours import colour_of
from pahq.analysis.names import METHODS
from pahq.analysis.summary import in_words
from pahq.config.precision import FORMATS


@dataclass(frozen=True)
class Mark:
    """How a method's circuits are drawn. Sizes differ, and the large ones are hollow, so that equal points all show."""

    marker: str
    line: str
    size: float
    hollow: bool = True


MARKS = {
    "acdc": Mark("o", "-", 11),
    "pahq": Mark("^", "-", 6.5, hollow=False),
    "pahq-changes": Mark("v", "-.", 9.5),
    "rtn-q": Mark("s", "--", 8),
    "rtn-q-changes": Mark("h", ":", 12.5),
    "eap": Mark("X", ":", 8),
    "eap-ig": Mark("*", "--", 9),
    "eap-ig-activations": Mark("P", ":", 8),
    "clean-corrupted": Mark("p", "-.", 8),
    "exact": Mark("d", "-", 9),
    "hisp": Mark("<", "--", 8),
    "sp": Mark(">", "-.", 8),
    "edge-pruning": Mark("8", "-", 9.5),
    "random": Mark("x", ":", 7),
}
OTHER = Mark("D", ":", 7)  # a method that has no mark of its own
FILLS = ("left", "bottom", "right", "top")  # half a marker; more variants than these share one look
WIDTH, HEIGHT, COLUMNS = 4.7, 3.4, 2  # inches a panel; more columns cannot be read where a page shows a figure whole
GREY = "0.3"  # of a legend's markers, whose colour says nothing
BESIDE = 1.25  # inches of a legend's entry

SHARP = 150  # dots per inch of a PNG: words are measured as they are drawn

Panel = Callable[[Axes, pd.DataFrame], None]


def panels(
    frame: pd.DataFrame,
    draw: Panel,
    title: str,
    nothing: str,
    *,
    width: float = WIDTH,
    height: float | Mapping[str, float] = HEIGHT,
) -> Figure:
    """A figure with one panel a task, of so many inches (height: by task, too); the words ``nothing`` if no row."""
    tasks = list(dict.fromkeys(frame["task"]))
    columns = min(len(tasks), COLUMNS if width <= 1.5 * WIDTH else 1) or 1
    tall = [height[task] if isinstance(height, Mapping) else height for task in tasks] or [1.7]
    lines = [max(tall[i : i + columns]) for i in range(0, len(tall), columns)]
    across = max(width * columns, 6.5)
    title = "\n".join(textwrap.fill(line, int(12.5 * across)) for line in title.splitlines())
    figure = Figure(figsize=(across, sum(lines) + 0.1 + 0.2 * len(title.splitlines())), dpi=SHARP, layout="constrained")
    figure.suptitle(title, fontsize=11)
    if not tasks:
        figure.text(0.5, 0.4, textwrap.fill(nothing, 70), ha="center", va="center")
        return figure
    grid = figure.add_gridspec(len(lines), columns, height_ratios=lines)
    for i, task in enumerate(tasks):
        axes = figure.add_subplot(grid[i])
        axes.set_title(task, fontsize=10)
        axes.tick_params(labelsize=9)
        axes.xaxis.label.set_fontsize(9.5)
        axes.yaxis.label.set_fontsize(9.5)
        draw(axes, frame[frame["task"] == task])
    return figure


def plain_log(axis: Axis, *, whole: bool = False) -> None:
    """Numbers as one writes them at a log axis, a few of them however narrow it is; call when all is drawn."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 0.8:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def fills_of(frame: pd.DataFrame) -> dict[str, str]:
    """Which half of a marker each variant of a figure fills; ``none`` for those that share the look that is left."""
    names = sorted({name for name in frame["variant"] if name})
    return {name: FILLS[i] if i < len(FILLS) else "none" for i, name in enumerate(names)}


def style_of(row: Mapping[str, Any], fills: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A line's settings. Colour by precision, marker and line by method, filling by variant."""
    colour, mark = colour_of(row["precision"], row["format"]), MARKS.get(row["method"], OTHER)
    fill = (fills or {}).get(row.get("variant", ""), "full")
    half = fill in FILLS
    return {
        "color": colour,
        "marker": mark.marker,
        "linestyle": mark.line,
        "markersize": mark.size + (half and not mark.hollow),
        "fillstyle": fill if half else "full",
        "markerfacecolor": colour if half or mark.hollow == (fill == "none") else "none",
        "markerfacecoloralt": "white",
        "markeredgewidth": 1.0,
    }


def with_legend(figure: Figure, frame: pd.DataFrame, *, named: bool = False, precisions: bool = True) -> Figure:
    """Add one legend for all panels: a line of methods by marker, of precisions by colour, of variants by filling.

    None if all is ``named`` in the panels, and no line of ``precisions`` where the axis says them.
    """
    if frame.empty or named:
        return figure
    width, variants = figure.get_figwidth(), list(_variants(frame))
    wide = max([2 * BESIDE, *(0.55 + 0.065 * len(str(one.get_label())) for one in variants)])
    beside = max(min(len(variants), int(width / wide)), 1 if variants else 0)
    across = max(beside + int((width - beside * wide) / BESIDE), 1)  # the columns of variants are as wide as these
    colours = list(_precisions(frame)) if precisions else []
    lines = _lines(_methods(frame), across) + _lines(colours, across) + _lines(variants, beside or 1)
    columns = max(map(len, lines))
    nothing = Line2D([], [], linestyle="none", label=" ")
    handles = [line[i] if i < len(line) else nothing for i in range(columns) for line in lines]  # column by column
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    figure.set_figheight(figure.get_figheight() + 0.18 * len(lines))
    return figure


def _lines(handles: Iterable[Line2D], length: int) -> list[list[Line2D]]:
    known = list(handles)
    return [known[i : i + length] for i in range(0, len(known), length)]


def _methods(frame: pd.DataFrame) -> Iterable[Line2D]:
    found = set(frame["method"])
    for method in [*(name for name in METHODS if name in found), *sorted(found - set(METHODS))]:
        yield _grey({"method": method}, METHODS.get(method, method))


def _precisions(frame: pd.DataFrame) -> Iterable[Line2D]:
    known = set(zip(frame["precision"], frame["format"], strict=True))
    for name, form in sorted(known, key=lambda pair: (FORMATS.index(pair[1]), pair[0])):
        yield Line2D([], [], color=colour_of(name, form), lw=4, label=name)


def _variants(frame: pd.DataFrame) -> Iterable[Line2D]:
    """One entry a filling, on the marker of the first method that has it."""
    fills = fills_of(frame)
    first = frame[frame["variant"].isin(fills)].drop_duplicates("variant").set_index("variant")["method"]
    for variant in [name for name, fill in fills.items() if fill != "none"]:
        yield _grey({"method": first[variant], "variant": variant}, in_words(variant), fills, linestyle="none")
    rest = [name for name, fill in fills.items() if fill == "none"]
    if rest:
        yield _grey({"method": first[rest[0]], "variant": rest[0]}, "other settings", fills, linestyle="none")


def _grey(row: Mapping[str, Any], label: str, fills: Mapping[str, str] | None = None, **more: str) -> Line2D:
    style = style_of({"precision": "float32", "format": "float32"} | dict(row), fills) | {"color": GREY} | more
    if style["markerfacecolor"] != "none":
        style["markerfacecolor"] = GREY
    return Line2D([], [], label=label, **style)


def first_row(sweep: pd.DataFrame) -> dict[str, Any]:
    """The columns that are the same in all rows of a series, and whatever else its first row says."""
    return {str(name): value for name, value in sweep.iloc[0].items()}
