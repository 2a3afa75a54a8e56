"""Figures of methods: how good the circuits of a size are that searches and scores find, and what they cost."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pahq.analysis.chosen import FEW, best_of
from pahq.analysis.colours import BLACK, BLUE, BROWN, GREEN, PINK, RANDOM, RED, SLATE, VIOLET
from pahq.analysis.drawing import HEIGHT, MARKS, OTHER, panels, plain_log
from pahq.analysis.labels import Named, at_ends, beside_points
from pahq.analysis.names import METHODS
from pahq.analysis.pairs import compared

NOTHING = "No method of this experiment scores edges. The experiment compare has such methods."
LINES = {"top": "-", "greedy": "--", "threshold": ":"}  # by how edges are chosen of scores
_COLOURS = (BLACK, BLUE, RED, GREEN, PINK, BROWN, VIOLET, SLATE)


def methods_figure(cells: pd.DataFrame) -> Figure:
    """KL on fresh prompts against edges kept, one colour a method; edges grown from the logits are dashed."""
    shown = compared(cells)
    colour = _colours(shown["method"])
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        told = _named(rows[rows["kept_cleaned"] > 0])
        for series, sweep in rows.groupby("series", sort=False):
            first, ordered = sweep.iloc[0], sweep[sweep["kept_cleaned"] > 0].sort_values("kept_cleaned")
            select = next((word for word in LINES if f"select={word}" in str(first["variant"])), "top")
            marker = MARKS.get(str(first["method"]), OTHER).marker
            look = {
                "color": colour[str(first["method"])],
                "linestyle": LINES[select],
                "marker": marker,
                "markersize": 5,
            }
            axes.plot(ordered["kept_cleaned"], ordered["kl"], lw=1.2, **look)  # type: ignore[arg-type]
            if series in told:
                end, name = ordered.iloc[-1], str(first["method"])
                at = float(end["kept_cleaned"]), float(end["kl"])
                names.setdefault(axes, []).append(Named(*at, METHODS.get(name, name), colour[name]))
        axes.set_xscale("log")
        axes.set_ylim(-0.03 * rows["kl"].max(), 1.05 * rows["kl"].max())
        plain_log(axes.xaxis, whole=True)
        axes.set_xlabel(f"edges that can change an output, of {rows['edges'].max():,}")
        axes.set_ylabel("KL to the full model (nats)")

    title = "Which method finds the better circuit of a size? Full precision, fresh prompts\n"
    title += (
        "lower is better; dashed: edges grown from the logits, dotted: all from a score on, else the highest scores"
    )
    figure = panels(shown, panel, title, NOTHING, height=HEIGHT)
    return at_ends(_with_methods(figure, colour), names)


def cost_figure(rows: pd.DataFrame) -> Figure:
    """CMD, the mean distance of faithfulness to 1, against seconds: one marker a method of ``method_rows``."""
    shown = rows[rows["cmd_small"].notna() & ~rows["variant"].str.contains("select=greedy|select=threshold")]
    colour = _colours(shown["method"])
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for row in rows.to_dict("records"):
            name = str(row["method"])
            marker = MARKS.get(name, OTHER).marker
            axes.plot(row["seconds"], row["cmd_small"], color=colour[name], marker=marker, markersize=8)
            at = float(row["seconds"]), float(row["cmd_small"])
            names.setdefault(axes, []).append(Named(*at, METHODS.get(name, name), colour[name]))
        axes.set_xscale("log")
        axes.margins(0.1, 0.15)
        plain_log(axes.xaxis)
        axes.set_xlabel("time of a search, scoring or training (seconds)")
        axes.set_ylabel("distance of faithfulness to 1 (CMD)")

    title = "What does quality cost? Mean distance of faithfulness to 1 over 0.1% to 5% of the edges, full precision\n"
    title += "lower and further left is better; a scoring gives circuits of every size, a search or training one"
    nothing = "No method of this experiment scores edges, or faithfulness was not measured."
    return beside_points(_with_methods(panels(shown, panel, title, nothing, height=HEIGHT), colour), names)


def _named(rows: pd.DataFrame) -> list[str]:
    """One series a method, the plain one first: of all methods if they are few, else ACDC's and the best one's."""
    by_method = rows.sort_values("variant", kind="stable").drop_duplicates("method")
    if len(by_method) > FEW:
        best = rows.loc[rows["series"] == best_of(rows, ("kept_cleaned", "kl")), "method"].iloc[0]
        by_method = by_method[by_method["method"].isin(["acdc", best])]
    return list(by_method["series"])


def _colours(methods: pd.Series[str]) -> dict[str, str]:
    """A colour a method, in the order in which methods are shown; random scores are grey."""
    found = sorted(
        set(methods), key=lambda name: (list(METHODS).index(name) if name in METHODS else len(METHODS), name)
    )
    return {name: _COLOURS[i % len(_COLOURS)] if name != "random" else RANDOM for i, name in enumerate(found)}


def _with_methods(figure: Figure, colour: dict[str, str]) -> Figure:
    """The figure with a legend of its methods below it, unless they are few and named in the panels."""
    if len(colour) > FEW:
        looks = [(METHODS.get(name, name), look, MARKS.get(name, OTHER).marker) for name, look in colour.items()]
        handles = [Line2D([], [], label=name, color=look, marker=marker) for name, look, marker in looks]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(handles) // 3))
    return figure
