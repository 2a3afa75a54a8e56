"""Figures of stability: how alike the circuits of resampled prompts are, and which edges they share."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pahq.analysis.drawing import first_row, panels, style_of, with_legend
from pahq.analysis.summary import label

CIRCUITS = 6  # lines in a panel of inclusion: more cannot be told apart


def stability_figure(stability: pd.DataFrame) -> Figure:
    """Jaccard index of the circuit to those of resampled prompts, mean over these, against the threshold."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, sweep in rows.groupby("series", sort=False):
            style, ordered = style_of(first_row(sweep)), sweep.sort_values("threshold")
            if len(sweep) < 2:
                style["linestyle"] = "none"
            axes.plot(ordered["threshold"], ordered["jaccard_circuit"], lw=1, **style)
        axes.set_xscale("log")
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("threshold")
        axes.set_ylabel("Jaccard to circuits of resampled prompts")

    title = "How alike a circuit is to those of resampled prompts (1: the same edges)"
    shown = stability[stability["jaccard_circuit"].notna()]
    return with_legend(panels(shown, panel, title, "No cell of this experiment has its stability measured."), shown)


def inclusion_figure(inclusion: pd.DataFrame, stability: pd.DataFrame) -> Figure:
    """Share of resamples that kept each edge, most often kept first; crosses: edges of the circuit itself.

    Of a task's circuits those with most resamples, ACDC's first, and no more than ``CIRCUITS``.
    """
    shown = inclusion[inclusion["id"].isin(_shown(stability))]

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, edges in rows.groupby("id", sort=False):
            ordered = edges[edges["resamples"] > 0].sort_values("resamples", ascending=False, kind="stable")
            style, first = style_of(first_row(edges)), first_row(edges)
            x = range(1, len(ordered) + 1)
            name = f"{label(first)}, t={first['threshold']:g}: {first['kept']} kept"
            line = {"color": style["color"], "linestyle": style["linestyle"], "lw": 1, "drawstyle": "steps-mid"}
            axes.plot(x, ordered["resamples"], label=name, **line)
            own = ordered["in_circuit"].to_numpy(dtype=bool)
            at = [place for place, kept in zip(x, own, strict=True) if kept]
            axes.plot(at, ordered["resamples"][own], color=style["color"], linestyle="none", marker="x", markersize=3)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("edges, most often kept first (x: in the circuit)")
        axes.set_ylabel("share of resamples that kept it")
        axes.legend(fontsize=6, loc="lower left")

    title = "How often an edge is found when prompts are resampled"
    return panels(shown, panel, title, "No cell of this experiment has its stability measured.")


def _shown(stability: pd.DataFrame) -> list[str]:
    """Ids of the circuits whose edges a panel shows."""
    chosen: list[str] = []
    for _, rows in stability.groupby("task", sort=False):
        most = rows[rows["resamples"] == rows["resamples"].max()]
        ordered = most.sort_values(["method", "bits", "precision", "threshold"], kind="stable")
        chosen += list(ordered["id"].head(CIRCUITS))
    return chosen
