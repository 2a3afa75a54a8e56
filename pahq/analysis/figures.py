"""Figures of an evaluated experiment, PNG and PDF. A line joins two points or more, never one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pahq.analysis.blocks import on_front
from pahq.analysis.drawing import (
    HEIGHT,
    MARKS,
    OTHER,
    fills_of,
    first_row,
    legend_below,
    panels,
    plain_log,
    style_of,
    with_legend,
)
from pahq.analysis.errorfigure import errors_figure
from pahq.analysis.evaluate import FEW_POINTS_NOTE, PUBLISHED
from pahq.analysis.faithful import by_cell
from pahq.analysis.methods import method_rows
from pahq.analysis.methodsfigure import cost_figure, methods_figure
from pahq.analysis.names import FIGURES
from pahq.analysis.pairsfigure import pairs_figure
from pahq.analysis.stabilityfigures import inclusion_figure, stability_figure
from pahq.analysis.summary import Evaluation, kl_of_logits, label, summarise
from pahq.faithfulness.curve import FRACTIONS, SMALL
from pahq.files.frames import replacing

MANY = 6  # thresholds beside which a cell of the agreement has no room for its numbers in one line


def write_figures(root: str | Path, experiment: str) -> list[Path]:
    """Write every figure to ``<root>/analysis/<experiment>/figures/`` as PNG, PDF and SVG; return the paths.

    A figure without data says so in words, so that the set of files is always the same.
    Raises PahqError if the experiment was not evaluated.
    """
    found = Evaluation.read(root, experiment)
    series = summarise(found)
    made = {
        "roc": roc_figure(found.roc, series),
        "edges_kl": edges_figure(found.cells),
        "methods": methods_figure(found.cells),
        "cost": cost_figure(method_rows(found.cells, found.faithfulness)),
        "pairs": pairs_figure(found.pairs),
        "bits": bits_figure(series),
        "agreement": agreement_figure(found.agreement, found.cells),
        "errors": errors_figure(found.errors),
        "stability": stability_figure(found.stability),
        "inclusion": inclusion_figure(found.inclusion, found.stability),
        "faithfulness": faithfulness_figure(found.cells, found.faithfulness),
        "pareto": pareto_figure(found.cells),
    }
    paths = []
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pahq"}):  # words stay words, equal figures equal bytes
        for name in FIGURES:
            for suffix in ("png", "pdf", "svg"):
                path = found.folder / "figures" / f"{name}.{suffix}"
                undated = {"Date": None} if suffix == "svg" else None
                with replacing(path) as temporary:
                    made[name].savefig(temporary, dpi=150, format=suffix, metadata=undated)
                made[name].set_layout_engine("none")  # laid out by the first; it takes as long as drawing
                paths.append(path)
    return paths


def roc_figure(roc: pd.DataFrame, series: pd.DataFrame) -> Figure:
    """True against false positive rate where a circuit is published: circuits as markers, steps as lines."""
    areas = series.set_index("series")
    published = roc[roc["reference"] == PUBLISHED].sort_values(["task", "method", "bits", "precision", "variant"])
    fills = fills_of(published)

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for name, sweep in rows.groupby("series", sort=False):
            first = first_row(sweep)
            area = first_row(areas.loc[[str(name)]])
            few = "*" if FEW_POINTS_NOTE in area["area_note"] else ""
            style = style_of(first, fills) | {"label": f"{label(first)}: {area['auc_steps']:.3f}{few}"}
            front = sweep[sweep["on_front"]].drop_duplicates(["fpr", "tpr"]).sort_values(["fpr", "tpr"])
            axes.plot(sweep["fpr"], sweep["tpr"], **style | {"linestyle": "none"})
            if len(front) > 1:
                x, y = [0.0, *front["fpr"], 1.0], [0.0, *front["tpr"], 1.0]
                axes.plot(x, y, drawstyle="steps-post", color=style["color"], linestyle=style["linestyle"], lw=1)
        axes.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
        axes.set(
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.03),
            xlabel="share of all other edges found (false positives)",
            ylabel="share of its edges found (true positives)",
        )
        legend_below(axes, "area under the steps (AUC); *: rests on few points")

    title = "Edges found, against the edges of the published circuit\n"
    title += "one marker a threshold; the grey line: edges chosen by chance"
    most = published.groupby("task")["series"].nunique().max() if len(published) else 0
    height = HEIGHT + 0.4 + 0.17 * -(-most // 2)
    return panels(published, panel, title, "No task has a published circuit.", height=height)


def edges_figure(cells: pd.DataFrame) -> Figure:
    """KL to the full model against edges kept; mean squared error where outputs are no logits (Tracr)."""
    fills = fills_of(cells)

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        error = (rows["metric"] == "mse").all()
        column = "value" if error else "kl"
        for _, sweep in rows.groupby("series", sort=False):
            style = style_of(first_row(sweep), fills)
            ordered = sweep.sort_values(["threshold", "kept"], kind="stable")
            if len(ordered.drop_duplicates(["kept", column])) < 2:
                style["linestyle"] = "none"
            axes.plot(ordered["kept"], ordered[column], lw=1, **style)
        if rows["kept"].min():
            axes.set_xscale("log")
            axes.set_xlim(rows["kept"].min() / 1.25, rows["kept"].max() * 1.25)
            plain_log(axes.xaxis, whole=True)
        else:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(-0.2, max(rows["kept"].max(), 1) * 2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        # Float noise must not fill the axis: it reaches up to the empty circuit's error, or a thousandth of a nat.
        top = max(rows[column].max(), rows["corrupted"].max() if error else 1e-3)
        axes.set_ylim(bottom=min(0, rows[column].min()) - 0.03 * top, top=1.05 * top)
        if error:
            axes.axhline(rows["corrupted"].max(), color="0.7", lw=0.8, linestyle=":")
            at = (0.02, rows["corrupted"].max())
            axes.annotate(
                "the empty circuit", at, xycoords=("axes fraction", "data"), va="top", fontsize=8, color="0.4"
            )
        axes.set_xlabel(f"edges kept, of {rows['edges'].max():,}")
        axes.set_ylabel("mean squared error" if error else "KL to the full model (nats)")

    title = "Size of a circuit against its error on fresh prompts\n"
    title += "lines join the thresholds or sizes; circuits that coincide hide each other"
    return with_legend(panels(cells, panel, title, "No finished cell."), cells)


def pareto_figure(cells: pd.DataFrame) -> Figure:
    """KL on fresh prompts against seconds of the search, one marker a circuit; grey steps: what nothing else beats."""
    shown = cells.assign(kl=kl_of_logits(cells))
    shown = shown[shown["kl"].notna()]
    fills = fills_of(shown)

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, sweep in rows.groupby("series", sort=False):
            axes.plot(sweep["seconds"], sweep["kl"], **style_of(first_row(sweep), fills) | {"linestyle": "none"})
        for _, rivals in rows[on_front(rows)].groupby(["engine", "device", "threads"], sort=False):
            front = rivals.drop_duplicates(["seconds", "kl"]).sort_values("seconds")
            if len(front) > 1:
                axes.plot(front["seconds"], front["kl"], drawstyle="steps-post", color="0.7", lw=1, zorder=0)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        axes.set_xlabel("time of the search or scoring (seconds)")
        axes.set_ylabel("KL to the full model (nats)")

    title = "Time of a search against the error of its circuit on fresh prompts"
    title += "\ngrey steps pass the circuits that no other beats in both"
    nothing = "What these models put out are no logits, so there is no KL."
    return with_legend(panels(shown, panel, title, nothing), shown)


def bits_figure(series: pd.DataFrame) -> Figure:
    """Area against the published circuit, else mean Jaccard to ACDC, by width and format."""
    shown = series[series["auc_steps"].notna() | series["mean_jaccard"].notna()]
    fills = fills_of(shown)
    least = shown["auc_steps"].fillna(shown["mean_jaccard"]).min()
    bottom = max(0.0, math.floor(10 * least - 0.5) / 10) if len(shown) else 0.0

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        published = rows["auc_steps"].notna().any()
        column = "auc_steps" if published else "mean_jaccard"
        rows = rows[rows[column].notna()].sort_values(["bits", "precision"])
        places = {name: i for i, name in enumerate(dict.fromkeys(rows["precision"]))}
        bits = dict(zip(rows["precision"], rows["bits"], strict=True))
        rows = rows.assign(acdc=rows["method"] == "acdc")
        lines = list(rows.groupby(["acdc", "method", "variant"]))
        count = sum(not acdc for (acdc, *_), _ in lines)
        for i, ((acdc, method, _), line) in enumerate(lines):
            shift = 0.0 if acdc else 0.7 * ((i + 0.5) / count - 0.5)  # side by side, or they would hide each other
            x = [places[name] + shift for name in line["precision"]]
            if len(x) > 1:
                axes.plot(x, line[column], color="0.6", linestyle=MARKS.get(str(method), OTHER).line, lw=0.8, zorder=1)
            for place, row in zip(x, line.to_dict("records"), strict=True):
                axes.plot(place, row[column], **style_of(row, fills) | {"linestyle": "none"})  # type: ignore[arg-type]
        for edge in range(1, len(places)):
            axes.axvline(edge - 0.5, color="0.8", lw=0.8, zorder=0)
        axes.set_xticks(range(len(places)), [f"{name}\n{bits[name]} bits" for name in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_ylim(bottom, 1.02 + 0.03 * (1 - bottom))
        axes.set_ylabel("AUC against the published circuit" if published else "Jaccard index to ACDC's circuit")
        axes.set_xlabel("attention weights (PAHQ: save those of the head in focus)")

    title = "Agreement by number format, mean over the thresholds that were searched\n"
    title += "Jaccard index 1: the same edges; AUC 1: all published edges before any other"
    return with_legend(panels(shown, panel, title, _nothing_to_compare(series["method"])), shown)


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
    width = 0.9 + 0.06 * shown["row"].map(len).max() + (0.45 if many else 0.68) * sizes["threshold"].max()
    heights = {str(task): 0.8 + (0.32 if many else 0.2) * rows for task, rows in sizes["row"].items()}
    return panels(shown, panel, title, nothing, width=width, height=heights)


def _nothing_to_compare(methods: pd.Series[str]) -> str:
    """Why no circuit is compared with ACDC's."""
    if set(methods) == {"acdc"}:
        return "Every circuit here is ACDC's own, so there is none to compare with it."
    return "No finished search of full-precision ACDC has the task and the threshold of another one here."


def faithfulness_figure(cells: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Faithfulness of the best edges, mean over a series' thresholds; shaded: .1% to 5% of the edges."""
    shown = by_cell(cells, measured)
    if len(shown):
        shown = shown[shown["cmd_small"].notna()].merge(cells[["id", "format", "bits"]], on="id")
        shown = shown.sort_values(["task", "method", "bits", "precision", "threshold"], kind="stable")
    fills = fills_of(shown)

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, sweep in rows.groupby("series", sort=False):
            curves = pd.DataFrame(sweep["curve_faithfulness"].tolist()).mean()
            axes.plot(sweep["curve_fraction"].iloc[0], curves, lw=1, **_small(style_of(first_row(sweep), fills)))
        axes.axvspan(FRACTIONS[0], SMALL, color="0.95", zorder=0)
        axes.axhline(1, color="0.8", lw=0.8, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("share of all edges, those with the largest effects first")
        axes.set_ylabel("faithfulness (0: no edge, 1: all edges)")

    title = "Faithfulness by the size of the circuit on fresh prompts, mean over thresholds\n"
    title += "shaded: 0.1% to 5% of the edges, the sizes of a circuit"
    return with_legend(panels(shown, panel, title, "No circuit's faithfulness was measured."), shown)


def _small(style: dict[str, Any]) -> dict[str, Any]:
    return style | {"markersize": 0.7 * style["markersize"]}
