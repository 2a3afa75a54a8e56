"""How figures are drawn: one panel a task, colour is precision, marker is method.

Colours are Okabe and Ito's, safe for colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pahq.analysis.summary import METHODS

COLOURS = {  # by precision
    "float32": "#000000",
    "bf16": "#0072B2",
    "fp16": "#56B4E9",
    "fp8": "#E69F00",
    "int8": "#009E73",
    "int4": "#D55E00",
    "fp8-head": "#CC79A7",
    "int8-head": "#999999",
}
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
    colour = COLOURS.get(row["precision"], COLOURS.get(row["format"], "#F0E442"))
    hollow = row["method"] != "pahq"
    return {
        "color": colour,
        "marker": MARKERS.get(row["method"], "D"),
        "linestyle": LINES.get(row["method"], ":"),
        "markersize": {"acdc": 9, "rtn-q": 6.5}.get(row["method"], 4.5),
        "markerfacecolor": "none" if hollow else colour,
        "markeredgewidth": 1.0,
    }


def with_legend(figure: Figure, frame: pd.DataFrame) -> Figure:
    """Add one legend for all panels: methods by marker, precisions by colour."""
    if frame.empty:
        return figure
    handles = []
    for method in [name for name in METHODS if name in set(frame["method"])]:
        style = style_of({"method": method, "precision": "float32", "format": "float32"}) | {"color": "0.3"}
        style["markerfacecolor"] = "0.3" if method == "pahq" else "none"
        handles.append(Line2D([], [], label=METHODS[method], **style))
    for name in [name for name in COLOURS if name in set(frame["precision"])]:
        handles.append(Line2D([], [], color=COLOURS[name], lw=4, label=name))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False)
    return figure


def first_row(sweep: pd.DataFrame) -> dict[str, Any]:
    """The columns that are the same in all rows of a series, and whatever else its first row says."""
    return {str(name): value for name, value in sweep.iloc[0].items()}
