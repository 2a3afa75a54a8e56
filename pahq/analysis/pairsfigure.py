"""The figure of pairs: how far any two methods agree on a circuit's edges, and on the order of all edges."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pahq.analysis.drawing import panels
from pahq.analysis.labels import LONG
from pahq.analysis.names import METHODS
from pahq.analysis.pairs import SHARE
from pahq.analysis.summary import in_words

NOTHING = "No method of this experiment scores edges. The experiment compare has such methods."


def pairs_figure(pairs: pd.DataFrame) -> Figure:
    """A matrix a task: below the diagonal Jaccard indices of circuits, above it rank correlations of all edges."""
    named = pairs.assign(
        one=[_label(row["first"], row["first_variant"]) for row in pairs.to_dict("records")],
        other=[_label(row["second"], row["second_variant"]) for row in pairs.to_dict("records")],
    )

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        names = list(dict.fromkeys([*rows["one"], *rows["other"]]))
        broken = [textwrap.fill(name, LONG) for name in names]
        grid = np.full((len(names), len(names)), np.nan)
        for row in rows.to_dict("records"):
            one, other = sorted((names.index(row["one"]), names.index(row["other"])))
            grid[other, one], grid[one, other] = row["jaccard"], row["rank_correlation"]
        axes.set_facecolor("0.9")
        axes.imshow(grid, cmap="cividis", vmin=0, vmax=1)
        for (down, across), value in np.ndenumerate(grid):
            if np.isfinite(value):
                colour = "white" if value < 0.55 else "black"
                axes.text(across, down, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(names)), broken, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), broken)

    title = "How far methods agree. Below the diagonal: Jaccard index of two circuits of one size, the size that both\n"
    title += f"have nearest to {SHARE:.0%} of the edges; above it: rank correlation of all edges; grey: no such size"
    most = 1 + named.groupby("task").size().pow(0.5).max() * 1.5 if len(named) else 1.0
    width = min(7.0, 2.2 + 0.42 * most)
    return panels(named, panel, title, NOTHING, width=width, height=0.8 * width)


def _label(method: str, variant: str) -> str:
    name = METHODS.get(method, method)
    more = in_words(variant.replace("select=top", "").strip())
    return f"{name}, {more}" if more else name
