"""Figures of an evaluated experiment, PNG and PDF. A line joins two points or more, never one."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pahq.analysis.agreementfigures import agreement_figure, bits_figure
from pahq.analysis.blocks import on_front
from pahq.analysis.chosen import FEWER, all_named, best_of, named, short
from pahq.analysis.colours import GUIDE
from pahq.analysis.drawing import (
    SHARP,
    fills_of,
    first_row,
    panels,
    plain_log,
    style_of,
    with_legend,
)
from pahq.analysis.errorfigure import errors_figure
from pahq.analysis.evaluate import FEW_POINTS_NOTE
from pahq.analysis.faithful import by_cell
from pahq.analysis.labels import Named, at_ends, beside_points
from pahq.analysis.methods import method_rows
from pahq.analysis.methodsfigure import cost_figure, methods_figure
from pahq.analysis.names import FIGURES
from pahq.analysis.pairsfigure import pairs_figure
from pahq.analysis.stabilityfigures import inclusion_figure, stability_figure
from pahq.analysis.summary import Evaluation, kl_of_logits, label, summarise
from pahq.faithfulness.curve import FRACTIONS, SMALL
from pahq.files.frames import replacing

AREAS = 5  # different areas that a panel of roc tells
EQUAL = 1e-3  # of faithfulness: curves that differ by less are one


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
                    made[name].savefig(temporary, dpi=SHARP, format=suffix, metadata=undated)
                made[name].set_layout_engine("none")  # laid out by the first; it takes as long as drawing
                paths.append(path)
    return paths


def roc_figure(roc: pd.DataFrame, series: pd.DataFrame) -> Figure:
    """True against false positive rate where a circuit is published: circuits as markers, steps as lines."""
    areas = series.set_index("series")
    published = roc.sort_values(["task", "method", "bits", "precision", "variant"])
    fills = fills_of(published)

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, sweep in rows.groupby("series", sort=False):
            style = style_of(first_row(sweep), fills)
            front = sweep[sweep["on_front"]].drop_duplicates(["fpr", "tpr"]).sort_values(["fpr", "tpr"])
            axes.plot(sweep["fpr"], sweep["tpr"], **style | {"linestyle": "none"})
            if len(front) > 1:
                x, y = [0.0, *front["fpr"], 1.0], [0.0, *front["tpr"], 1.0]
                axes.plot(x, y, drawstyle="steps-post", color=style["color"], linestyle=style["linestyle"], lw=1)
        axes.plot([0, 1], [0, 1], color=GUIDE, lw=0.8, zorder=0)
        axes.set(
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.03),
            xlabel="share of all other edges found (false positives)",
            ylabel="share of its edges found (true positives)",
        )
        words: dict[str, Any] = {
            "transform": axes.transAxes,
            "ha": "right",
            "va": "bottom",
            "fontsize": 7.5,
            "linespacing": 1.4,
        }
        axes.text(0.97, 0.04, areas_in_words(rows, areas), **words)

    title = "Edges found, against the edges of the published circuit\n"
    title += "one marker a threshold; the grey line: edges chosen by chance"
    return with_legend(panels(published, panel, title, "No task has a published circuit."), published)


def areas_in_words(rows: pd.DataFrame, areas: pd.DataFrame) -> str:
    """The areas of one panel's series, whose rows of a table by series are ``areas``.

    Each area once, the largest first, with those that have it; where there are more than fit, the smallest ones are
    left to the tables.
    """
    told: dict[str, list[str]] = {}
    series: list[dict[str, Any]] = rows.drop_duplicates("series").to_dict("records")  # type: ignore[assignment]
    for one in sorted(series, key=lambda row: -areas.loc[row["series"], "auc_steps"]):
        area = areas.loc[one["series"]]
        few = "*" if FEW_POINTS_NOTE in area["area_note"] else ""
        told.setdefault(f"{area['auc_steps']:.3f}{few}", []).append(label(one))
    every = [
        f"{area}  {'all series' if len(told) == 1 < len(names) else ', '.join(names)}" for area, names in told.items()
    ]
    shown, left = every[:AREAS], [area for area, names in list(told.items())[AREAS:] for _ in names]
    lines = [line for words in shown for line in textwrap.wrap(words, 52, break_on_hyphens=False)]
    lines += [f"and {len(left)} more, down to {left[-1]}"] if left else []
    note = "; *: rests on few points" if any("*" in area for area in told) else ""
    return "\n".join([f"area under the steps (AUC{note})", *lines])


def edges_figure(cells: pd.DataFrame) -> Figure:
    """KL to the full model against edges kept; mean squared error where outputs are no logits (Tracr)."""
    fills = fills_of(cells)
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        error = (rows["metric"] == "mse").all()
        column = "value" if error else "kl"
        shown = named(rows, best_of(rows, ("kept", column)))
        for series, sweep in rows.groupby("series", sort=False):
            first, ordered = first_row(sweep), sweep.sort_values(["threshold", "kept"], kind="stable")
            style = style_of(first, fills)
            if series in shown:
                end = first_row(ordered.sort_values("kept", kind="stable").tail(1))
                names.setdefault(axes, []).append(Named(end["kept"], end[column], short(first), style["color"]))
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
            axes.axhline(rows["corrupted"].max(), color=GUIDE, lw=0.8, linestyle=":")
            at = (0.02, rows["corrupted"].max())
            axes.annotate(
                "the empty circuit", at, xycoords=("axes fraction", "data"), va="top", fontsize=8, color="0.4"
            )
        axes.set_xlabel(f"edges kept, of {rows['edges'].max():,}")
        axes.set_ylabel("mean squared error" if error else "KL to the full model (nats)")

    title = "Size of a circuit against its error on fresh prompts\n"
    title += "lines join the thresholds or sizes; circuits that coincide hide each other"
    figure = with_legend(panels(cells, panel, title, "No finished cell."), cells, named=all_named(cells))
    return at_ends(figure, names)


def pareto_figure(cells: pd.DataFrame) -> Figure:
    """KL on fresh prompts against seconds of the search, one marker a circuit; grey steps: what nothing else beats."""
    shown = cells.assign(kl=kl_of_logits(cells))
    shown = shown[shown["kl"].notna()]
    fills = fills_of(shown)
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        told = named(rows, best_of(rows, ("seconds", "kl")), most=FEWER, looked_for=("acdc",))
        for series, sweep in rows.groupby("series", sort=False):
            style = style_of(first_row(sweep), fills) | {"linestyle": "none"}
            axes.plot(sweep["seconds"], sweep["kl"], **style)
            if series in told:
                best = first_row(sweep.sort_values("kl", kind="stable"))
                names.setdefault(axes, []).append(Named(best["seconds"], best["kl"], short(best), style["color"]))
        for _, rivals in rows[on_front(rows)].groupby(["engine", "device", "threads"], sort=False):
            front = rivals.drop_duplicates(["seconds", "kl"]).sort_values("seconds")
            if len(front) > 1:
                axes.plot(front["seconds"], front["kl"], drawstyle="steps-post", color=GUIDE, lw=1, zorder=0)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        axes.set_xlabel("time of the search or scoring (seconds)")
        axes.set_ylabel("KL to the full model (nats)")

    title = "Time of a search against the error of its circuit on fresh prompts"
    title += "\ngrey steps pass the circuits that no other beats in both"
    nothing = "What these models put out are no logits, so there is no KL."
    figure = with_legend(panels(shown, panel, title, nothing), shown, named=all_named(shown, most=FEWER))
    return beside_points(figure, names)


def faithfulness_figure(cells: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Faithfulness of the best edges, mean over a series' thresholds; shaded: .1% to 5% of the edges."""
    shown = by_cell(cells, measured)
    if len(shown):
        shown = shown[shown["cmd_small"].notna()].merge(cells[["id", "format", "bits"]], on="id")
        shown = shown.sort_values(["task", "method", "bits", "precision", "threshold"], kind="stable")
    fills = fills_of(shown)
    names: dict[Axes, list[Named]] = {}

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        curves = {
            series: pd.DataFrame(sweep["curve_faithfulness"].tolist()).mean()
            for series, sweep in rows.groupby("series", sort=False)
        }
        best = str(rows.groupby("series", sort=False)["cmd_small"].mean().idxmin())
        told, apart = named(rows, best, looked_for=("acdc",)), _apart(pd.DataFrame(curves))
        for series, sweep in rows.groupby("series", sort=False):
            first, curve, x = first_row(sweep), curves[series], sweep["curve_fraction"].iloc[0]
            style = _small(style_of(first, fills))
            axes.plot(x, curve, lw=1, **style)
            if series in told:
                names.setdefault(axes, []).append(Named(x[apart], curve[apart], short(first), style["color"]))
        axes.axvspan(FRACTIONS[0], SMALL, color="0.95", zorder=0)
        axes.axhline(1, color=GUIDE, lw=0.8, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("share of all edges, those with the largest effects first")
        axes.set_ylabel("faithfulness (0: no edge, 1: all edges)")

    title = "Faithfulness by the size of the circuit on fresh prompts, mean over thresholds\n"
    title += "shaded: 0.1% to 5% of the edges, the sizes of a circuit"
    figure = panels(shown, panel, title, "No circuit's faithfulness was measured.")
    return beside_points(with_legend(figure, shown, named=len(shown) > 0 and all_named(shown)), names)


def _apart(curves: pd.DataFrame) -> int:
    """The point at which the curves of a panel are told apart best; of equal ones that where they are halfway up."""
    spread = curves.std(axis=1).fillna(0.0)
    return int(spread.argmax()) if spread.max() > EQUAL else int((curves.mean(axis=1) - 0.5).abs().argmin())


def _small(style: dict[str, Any]) -> dict[str, Any]:
    return style | {"markersize": 0.7 * style["markersize"]}
