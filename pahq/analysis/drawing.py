"""How figures are drawn: one panel a task, colour is precision, marker is method.

Colours are Okabe and Ito's, safe for colour-blind readers: one a format, and a lighter shade for a precision that has
another name than its format (fp8-head, say).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pahq.analysis.summary import METHODS
from pahq.config.precision import FORMATS

_OKABE_ITO = ("#000000", "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#F0E442")
COLOURS = dict(zip(FORMATS, _OKABE_ITO, strict=True))
MARKERS = {"acdc": "o", "pahq": "^", "rtn-q": "s"}
LINES = {"acdc": "-", "pahq": "-", "rtn-q": "--"}
WIDTH, HEIGHT = 3.9, 3.3  # inches a panel

Panel = Callable[[Axes, pd.DataFrame], None]


def panels(frame: pd.DataFrame, draw: Panel, title: str, nothing: str) -> Figure:
    """A figure with one panel a task; the words ``nothing`` if there is no row."""
    tasks = list(dict.fromkeys(frame["task"]))
    columns = min(math.ceil(math.sqrt(max(len(tasks), 1))), 3)
    lines = -(-max(len(tasks), 1) // columns)
    figure = Figure(figsize=(max(WIDTH * columns, 5.5), HEIGHT * lines + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    if not tasks:
        figure.text(0.5, 0.5, nothing, ha="center", va="center")
        return figure
    for i, task in enumerate(tasks):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.set_title(task, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        draw(axes, frame[frame["task"] == task])
    return figure


def style_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line's settings. Colour by precision, marker and line by method; sizes differ so that equal points all show."""
    colour = colour_of(row["precision"], row["format"])
    hollow = row["method"] != "pahq"
    return {
        "color": colour,
        "marker": MARKERS.get(row["method"], "D"),
        "linestyle": LINES.get(row["method"], ":"),
        "markersize": {"acdc": 9, "rtn-q": 6.5}.get(row["method"], 4.5),
        "markerfacecolor": "none" if hollow else colour,
        "markeredgewidth": 1.0,
    }


def colour_of(precision: str, form: str) -> str:
    """A precision's colour: its format's, halfway to white if it has another name than that."""
    if precision == form:
        return COLOURS[form]
    red, green, blue = to_rgb(COLOURS[form])
    return to_hex(((1 + red) / 2, (1 + green) / 2, (1 + blue) / 2))


def with_legend(figure: Figure, frame: pd.DataFrame) -> Figure:
    """Add one legend for all panels: methods by marker, precisions by colour."""
    if frame.empty:
        return figure
    handles = []
    for method in [name for name in METHODS if name in set(frame["method"])]:
        style = style_of({"method": method, "precision": "float32", "format": "float32"}) | {"color": "0.3"}
        style["markerfacecolor"] = "0.3" if method == "pahq" else "none"
        handles.append(Line2D([], [], label=METHODS[method], **style))
    known = set(zip(frame["precision"], frame["format"], strict=True))
    for name, form in sorted(known, key=lambda pair: (FORMATS.index(pair[1]), pair[0])):
        handles.append(Line2D([], [], color=colour_of(name, form), lw=4, label=name))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False)
    return figure


def first_row(sweep: pd.DataFrame) -> dict[str, Any]:
    """The columns that are the same in all rows of a series, and whatever else its first row says."""
    return {str(name): value for name, value in sweep.iloc[0].items()}
