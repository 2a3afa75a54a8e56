"""Figures of stability: how alike the circuits of resampled prompts are, and which edges they share."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pahq.analysis.chosen import all_named, named, short
from pahq.analysis.colours import colour_of, shade
from pahq.analysis.drawing import (
    HEIGHT,
    fills_of,
    first_row,
    panels,
    plain_log,
    style_of,
    with_legend,
)
from pahq.analysis.labels import Named, beside_points
from pahq.analysis.summary import label

NOTHING = "Of no circuit of this experiment was the stability measured."
FEW = 5  # thresholds that are told one by one at the axis
BESIDE = 1.04  # times the threshold, for the next circuit at it
APART = 0.012  # of the whole height, by which the lines of one panel are moved so that equal ones all show
LAST = 0.9  # the shade of the last circuit of a precision
CIRCUITS = 6  # lines in a panel of inclusion: more cannot be told apart


def stability_figure(stability: pd.DataFrame) -> Figure:
    """Jaccard index of the circuit to those of resampled prompts, mean over these, against the threshold."""
    shown = stability[stability["jaccard_circuit"].notna()]
    fills = fills_of(shown)
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        told = named(rows, str(rows.groupby("series", sort=False)["jaccard_circuit"].mean().idxmax()))
        count = rows["series"].nunique()
        for i, (series, sweep) in enumerate(rows.groupby("series", sort=False)):
            style, ordered = style_of(first_row(sweep), fills), sweep.sort_values("threshold")
            if len(sweep) < 2:
                style["linestyle"] = "none"
            x = ordered["threshold"] * BESIDE ** (i - (count - 1) / 2)
            axes.plot(x, ordered["jaccard_circuit"], lw=1, **style)
            axes.vlines(x, ordered["jaccard_circuit_min"], ordered["jaccard_circuit"], color=style["color"], lw=0.8)
            if series in told:
                end = float(x.iloc[-1]), float(ordered["jaccard_circuit"].iloc[-1])
                names.setdefault(axes, []).append(Named(*end, short(first_row(sweep)), style["color"]))
        axes.set_xscale("log")
        places = sorted(rows["threshold"].unique())
        if len(places) <= FEW:
            axes.set_xlim(places[0] / 2, places[-1] * 2)
            axes.set_xticks(places, [f"{value:g}" for value in places])
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            plain_log(axes.xaxis)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("threshold")
        axes.set_ylabel("Jaccard index (1: the same edges)")

    counts = sorted({int(count) for count in shown["resamples"]})
    of = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else ""
    title = f"How alike a circuit is to those found on {of} resamples of the prompts\n"
    title += "marker: mean; line: down to the least alike"
    figure = panels(shown, panel, title, NOTHING, height=0.8 * HEIGHT)
    return beside_points(with_legend(figure, shown, named=len(shown) > 0 and all_named(shown)), names)


def inclusion_figure(inclusion: pd.DataFrame, stability: pd.DataFrame) -> Figure:
    """Share of resamples that kept each edge, most often kept first; thick: edges of the circuit itself.

    Of a task's circuits those with most resamples, ACDC's first, and no more than ``CIRCUITS``.
    """
    shown = inclusion[inclusion["id"].isin(_shown(stability))]
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        circuits = [edges for _, edges in rows.groupby("id", sort=False)]
        for i, (edges, colour) in enumerate(zip(circuits, _colours(circuits), strict=True)):
            ordered = edges[edges["resamples"] > 0].sort_values(["resamples", "in_circuit"], ascending=False)
            first, y = first_row(edges), ordered["resamples"] - i * APART
            x = pd.Series(range(1, len(ordered) + 1), index=ordered.index)
            name = f"{label(first)}, threshold {first['threshold']:g}:\n{first['kept']} edges"
            line = {"color": colour, "linestyle": style_of(first)["linestyle"], "lw": 0.8, "drawstyle": "steps-mid"}
            axes.plot(x, y, **line)
            own = ordered["in_circuit"].astype(bool)
            runs = (~own | (y != y.shift())).cumsum()[own]  # one stroke each, or their seams would show
            strokes = x[own].groupby(runs).agg(["min", "max"])
            axes.hlines(y[own].groupby(runs).first(), strokes["min"] - 0.5, strokes["max"] + 0.5, color=colour, lw=3)
            named = (len(ordered) - 1) * (i + 1) // (len(circuits) + 1)  # side by side, where lines are equal
            if len(ordered):
                names.setdefault(axes, []).append(Named(x.iloc[named], y.iloc[named], name, colour))
        axes.set_ylim(-0.03 - len(circuits) * APART, 1.05)
        axes.set_xlabel("edges, most often kept first (thick: in the circuit)")
        axes.set_ylabel("share of resamples that kept the edge")

    title = "How often the same search finds an edge when prompts are resampled\nequal lines are drawn a little apart"
    return beside_points(panels(shown, panel, title, NOTHING, height=HEIGHT), names)


def _colours(circuits: Sequence[pd.DataFrame]) -> list[str]:
    """Of each circuit its precision's colour, another shade of it for every further one of that precision."""
    own = [colour_of(first["precision"], first["format"]) for first in map(first_row, circuits)]
    shares = [LAST * own[:i].count(colour) / max(own.count(colour) - 1, 1) for i, colour in enumerate(own)]
    return [shade(colour, share) for colour, share in zip(own, shares, strict=True)]


def _shown(stability: pd.DataFrame) -> list[str]:
    """Ids of the circuits whose edges a panel shows."""
    chosen: list[str] = []
    for _, rows in stability.groupby("task", sort=False):
        most = rows[rows["resamples"] == rows["resamples"].max()]
        ordered = most.sort_values(["method", "bits", "precision", "threshold"], kind="stable")
        chosen += list(ordered["id"].head(CIRCUITS))
    return chosen
