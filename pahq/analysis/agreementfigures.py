"""Figures of agreement: by number format, and with full-precision ACDC at each threshold."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pahq.analysis.chosen import FEWER, all_named
from pahq.analysis.colours import GUIDE
from pahq.analysis.drawing import GREY, MARKS, OTHER, fills_of, panels, style_of, with_legend
from pahq.analysis.labels import Named, at_ends
from pahq.analysis.names import METHODS
from pahq.analysis.summary import in_words, label

MANY = 6  # thresholds beside which a cell of the agreement has no room for its numbers in one line


def bits_figure(series: pd.DataFrame) -> Figure:
    """Area against the published circuit, else mean Jaccard to ACDC, by width and format."""
    shown = series[series["auc_steps"].notna() | series["mean_jaccard"].notna()]
    fills = fills_of(shown)
    least = shown["auc_steps"].fillna(shown["mean_jaccard"]).min()
    bottom = max(0.0, math.floor(10 * least - 0.5) / 10) if len(shown) else 0.0
    names: dict[Axes, list[Named]] = {}
    few = all_named(shown.assign(series=shown["method"] + " " + shown["variant"]), most=FEWER)

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        published = rows["auc_steps"].notna().any()
        column = "auc_steps" if published else "mean_jaccard"
        rows = rows[rows[column].notna()].sort_values(["bits", "precision"])
        places = {name: i for i, name in enumerate(dict.fromkeys(rows["precision"]))}
        bits = dict(zip(rows["precision"], rows["bits"], strict=True))
        rows = rows.assign(acdc=rows["method"] == "acdc")
        lines = list(rows.groupby(["acdc", "method", "variant"]))
        count = sum(not acdc for (acdc, *_), _ in lines)
        for i, ((acdc, method, variant), line) in enumerate(lines):
            shift = 0.0 if acdc else 0.7 * ((i + 0.5) / count - 0.5)  # side by side, or they would hide each other
            x = [places[name] + shift for name in line["precision"]]
            if len(x) > 1:
                axes.plot(x, line[column], color=GUIDE, linestyle=MARKS.get(str(method), OTHER).line, lw=0.8, zorder=1)
            for place, row in zip(x, line.to_dict("records"), strict=True):
                axes.plot(place, row[column], **style_of(row, fills) | {"linestyle": "none"})  # type: ignore[arg-type]
            if few:
                words = ", ".join(
                    [METHODS.get(str(method), str(method)), *([in_words(str(variant))] if variant else [])]
                )
                names.setdefault(axes, []).append(Named(x[-1], line[column].iloc[-1], words, GREY))
        for edge in range(1, len(places)):
            axes.axvline(edge - 0.5, color="0.8", lw=0.8, zorder=0)
        axes.set_xticks(range(len(places)), [f"{name}\n{bits[name]} bits" for name in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_ylim(bottom, 1.02 + 0.03 * (1 - bottom))
        axes.set_ylabel("AUC against the published circuit" if published else "Jaccard index to ACDC's circuit")
        axes.set_xlabel("attention weights (PAHQ: save those of the head in focus)")

    title = "Agreement by number format, mean over the thresholds that were searched\n"
    title += "Jaccard index 1: the same edges; AUC 1: all published edges before any other"
    figure = panels(shown, panel, title, _nothing_to_compare(series["method"]))
    return at_ends(with_legend(figure, shown, named=few, precisions=False), names)


def agreement_figure(agreement: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Jaccard index to full-precision ACDC at the same threshold, and how many edges differ."""
    shown = agreement[agreement["jaccard"].notna()].sort_values(
        ["task", "method", "bits", "precision", "variant"], kind="stable"
    )
    shown = shown.assign(row=[label(row) for row in shown.to_dict("records")])  # type: ignore[arg-type]
    sizes = shown.groupby("task")[["row", "threshold"]].nunique()
    gaps = len(shown) < sizes.prod(axis=1).sum()
    many = sizes["threshold"].max() > MANY

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        names, thresholds = list(dict.fromkeys(rows["row"])), sorted(rows["threshold"].unique())
        values = rows.pivot_table(index="row", columns="threshold", values="jaccard", dropna=False)
        grid = values.reindex(index=names, columns=thresholds).to_numpy(dtype=float)
        axes.set_facecolor("0.9")
        axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for lines, count in ((axes.axvline, len(thresholds)), (axes.axhline, len(names))):
            for edge in range(1, count):
                lines(edge - 0.5, color="white", lw=0.8)
        for row in rows.to_dict("records"):
            dark = row["jaccard"] < 0.55
            text = f"{row['jaccard']:.2f}{chr(10) if many else ' '}({row['differing']:.0f})"
            at = (thresholds.index(row["threshold"]), names.index(row["row"]))
            axes.text(*at, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_xticks(range(len(thresholds)), [f"{value:g}" for value in thresholds], rotation=90 if many else 0)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("threshold")

    title = "How alike a circuit is to full-precision ACDC's at the same threshold\n"
    title += "Jaccard index, 1: the same edges; in brackets: edges that differ" + (
        "; grey: not searched" if gaps else ""
    )
    nothing = _nothing_to_compare(cells["method"])
    if shown.empty:
        return panels(shown, panel, title, nothing)
    width = 0.9 + 0.067 * shown["row"].map(len).max() + (0.45 if many else 0.68) * sizes["threshold"].max()
    heights = {str(task): 0.8 + (0.32 if many else 0.2) * rows for task, rows in sizes["row"].items()}
    return panels(shown, panel, title, nothing, width=width, height=heights)


def _nothing_to_compare(methods: pd.Series[str]) -> str:
    """Why no circuit is compared with ACDC's."""
    if set(methods) == {"acdc"}:
        return "Every circuit here is ACDC's own, so there is none to compare with it."
    return "No finished search of full-precision ACDC has the task and the threshold of another one here."
