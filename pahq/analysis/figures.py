"""Figures of an evaluated experiment, PNG and PDF. A line joins two points or more, never one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pahq.analysis.blocks import on_front
from pahq.analysis.drawing import LINES, first_row, panels, style_of, with_legend
from pahq.analysis.evaluate import FEW_POINTS_NOTE, PUBLISHED
from pahq.analysis.faithful import by_cell
from pahq.analysis.names import FIGURES
from pahq.analysis.stabilityfigures import inclusion_figure, stability_figure
from pahq.analysis.summary import Evaluation, kl_of_logits, label, summarise
from pahq.config.arguments import Arguments
from pahq.errors import PahqError
from pahq.faithfulness.curve import FRACTIONS, SMALL
from pahq.files.frames import replacing


def write_figures(root: str | Path, experiment: str) -> list[Path]:
    """Write every figure to ``<root>/analysis/<experiment>/figures/`` as PNG and PDF; return the paths.

    A figure without data says so in words, so that the set of files is always the same.
    Raises PahqError if the experiment was not evaluated.
    """
    found = Evaluation.read(root, experiment)
    series = summarise(found)
    made = {
        "roc": roc_figure(found.roc, series),
        "edges_kl": edges_figure(found.cells),
        "bits": bits_figure(series),
        "agreement": agreement_figure(found.agreement),
        "stability": stability_figure(found.stability),
        "inclusion": inclusion_figure(found.inclusion, found.stability),
        "faithfulness": faithfulness_figure(found.cells, found.faithfulness),
        "pareto": pareto_figure(found.cells),
    }
    paths = []
    for name in FIGURES:
        for suffix in ("png", "pdf"):
            path = found.folder / "figures" / f"{name}.{suffix}"
            with replacing(path) as temporary:
                made[name].savefig(temporary, dpi=150, format=suffix)
            paths.append(path)
    return paths


def roc_figure(roc: pd.DataFrame, series: pd.DataFrame) -> Figure:
    """True against false positive rate where a circuit is published: circuits as markers, steps as lines."""
    areas = series.set_index("series")

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for name, sweep in rows.groupby("series", sort=False):
            first = first_row(sweep)
            area = first_row(areas.loc[[str(name)]])
            few = "*" if FEW_POINTS_NOTE in area["area_note"] else ""
            style = style_of(first) | {"label": f"{label(first)}: {area['auc_steps']:.3f}{few}"}
            front = sweep[sweep["on_front"]].drop_duplicates(["fpr", "tpr"]).sort_values(["fpr", "tpr"])
            axes.plot(sweep["fpr"], sweep["tpr"], **style | {"linestyle": "none"})
            if len(front) > 1:
                x, y = [0.0, *front["fpr"], 1.0], [0.0, *front["tpr"], 1.0]
                axes.plot(x, y, drawstyle="steps-post", color=style["color"], linestyle=style["linestyle"], lw=1)
        axes.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(title="AUC (steps), * few points", fontsize=6, title_fontsize=6, loc="lower right", framealpha=0.9)

    published = roc[roc["reference"] == PUBLISHED].sort_values(["task", "method", "bits", "precision", "variant"])
    return panels(published, panel, "Edges against the published circuit", "No task has a published circuit.")


def edges_figure(cells: pd.DataFrame) -> Figure:
    """KL to the full model against edges kept; mean squared error where outputs are no logits (Tracr)."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        error = (rows["metric"] == "mse").all()
        column = "value" if error else "kl"
        for _, sweep in rows.groupby("series", sort=False):
            style = style_of(first_row(sweep))
            ordered = sweep.sort_values("threshold")
            if len(ordered.drop_duplicates(["kept", column])) < 2:
                style["linestyle"] = "none"
            axes.plot(ordered["kept"], ordered[column], lw=1, **style)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=min(rows["kept"].min() * 0.8, 0.8), right=rows["edges"].max() * 1.3)
        axes.axvline(rows["edges"].max(), color="0.7", lw=0.8, linestyle=":")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        # Float noise must not fill the axis: it reaches up to the empty circuit's error, or a thousandth of a nat.
        top = max(rows[column].max(), rows["corrupted"].max() if error else 1e-3)
        axes.set_ylim(bottom=min(0, rows[column].min()) - 0.03 * top, top=1.05 * top)
        if error:
            axes.axhline(rows["corrupted"].max(), color="0.7", lw=0.8, linestyle=":")
        axes.set_xlabel("edges kept (dotted: all edges" + ("; error of the empty circuit)" if error else ")"))
        axes.set_ylabel("mean squared error" if error else "KL to the full model (nats)")

    figure = panels(cells, panel, "Size of the circuit against its error on fresh prompts", "No finished cell.")
    return with_legend(figure, cells)


def pareto_figure(cells: pd.DataFrame) -> Figure:
    """KL on fresh prompts against seconds of the search, one marker a circuit; grey steps: what nothing else beats."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, sweep in rows.groupby("series", sort=False):
            axes.plot(sweep["seconds"], sweep["kl"], **style_of(first_row(sweep)) | {"linestyle": "none"})
        for _, rivals in rows[on_front(rows)].groupby(["engine", "device", "threads"], sort=False):
            front = rivals.drop_duplicates(["seconds", "kl"]).sort_values("seconds")
            if len(front) > 1:
                axes.plot(front["seconds"], front["kl"], drawstyle="steps-post", color="0.7", lw=1, zorder=0)
        axes.set_xscale("log")
        axes.set_xlabel("seconds of the search")
        axes.set_ylabel("KL to the full model (nats)")

    shown = cells.assign(kl=kl_of_logits(cells))
    shown = shown[shown["kl"].notna()]
    figure = panels(shown, panel, "Seconds of a search against the KL of its circuit", "No cell has logits.")
    return with_legend(figure, shown)


def bits_figure(series: pd.DataFrame) -> Figure:
    """Area against the published circuit, else mean Jaccard to ACDC, by width and format."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        published = rows["auc_steps"].notna().any()
        column = "auc_steps" if published else "mean_jaccard"
        rows = rows[rows[column].notna()].sort_values(["bits", "precision"])
        places = {name: i for i, name in enumerate(dict.fromkeys(rows["precision"]))}
        bits = dict(zip(rows["precision"], rows["bits"], strict=True))
        for (method, _), line in rows.groupby(["method", "variant"], sort=False):
            shift = {"pahq": -0.08, "rtn-q": 0.08}.get(str(method), 0.0)
            x = [places[name] + shift for name in line["precision"]]
            if len(x) > 1:
                axes.plot(x, line[column], color="0.6", linestyle=LINES.get(str(method), "-"), lw=0.8, zorder=1)
            for place, row in zip(x, line.to_dict("records"), strict=True):
                axes.plot(place, row[column], **style_of(row) | {"linestyle": "none"})  # type: ignore[arg-type]
        axes.set_xticks(range(len(places)), [f"{name}\n{bits[name]} bits" for name in places], fontsize=7)
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_ylim(-0.03, 1.05)
        axes.set_ylabel("AUC (steps), published circuit" if published else "Jaccard to ACDC (mean)")
        axes.set_xlabel("attention weights out of focus")

    shown = series[series["auc_steps"].notna() | series["mean_jaccard"].notna()]
    figure = panels(shown, panel, "Bit widths", "No circuit of ACDC or of a publication to compare with.")
    return with_legend(figure, shown)


def agreement_figure(agreement: pd.DataFrame) -> Figure:
    """Jaccard index to full-precision ACDC at the same threshold, and how many edges differ."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        rows = rows.assign(row=[label(row) for row in rows.to_dict("records")])  # type: ignore[arg-type]
        rows = rows.sort_values(["method", "bits", "precision", "variant"], kind="stable")
        names, thresholds = list(dict.fromkeys(rows["row"])), sorted(rows["threshold"].unique())
        values = rows.pivot_table(index="row", columns="threshold", values="jaccard", dropna=False)
        grid = values.reindex(index=names, columns=thresholds).to_numpy(dtype=float)
        axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for row in rows.to_dict("records"):
            dark = row["jaccard"] < 0.55
            text = f"{row['jaccard']:.2f} ({row['differing']:.0f})"
            at = (thresholds.index(row["threshold"]), names.index(row["row"]))
            axes.text(*at, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
        axes.set_xticks(range(len(thresholds)), [f"{value:g}" for value in thresholds], fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_xlabel("threshold")

    title = "Jaccard index to full-precision ACDC at the same threshold (in brackets: edges that differ)"
    return panels(agreement[agreement["jaccard"].notna()], panel, title, "No ACDC cell to compare with.")


def faithfulness_figure(cells: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Faithfulness of the best edges, mean over a series' thresholds; shaded: .1% to 5% of the edges."""

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for _, sweep in rows.groupby("series", sort=False):
            curves = pd.DataFrame(sweep["curve_faithfulness"].tolist()).mean()
            style = style_of(first_row(sweep)) | {"lw": 1}
            distances = f"{sweep['cmd_small'].mean():.3f}, {sweep['cmd'].mean():.3f}"
            axes.plot(sweep["curve_fraction"].iloc[0], curves, **style, label=distances)
        axes.axvspan(FRACTIONS[0], SMALL, color="0.95", zorder=0)
        axes.axhline(1, color="0.8", lw=0.8, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("fraction of edges, best first")
        axes.set_ylabel("faithfulness")
        axes.legend(title="distance to 1: .1% to 5%, CMD", fontsize=5, title_fontsize=5, loc="upper left")

    shown = by_cell(cells, measured)
    if len(shown):
        order = cells[["id", "format", "bits"]]
        shown = shown[shown["cmd_small"].notna()].merge(order, on="id")
        shown = shown.sort_values(["task", "method", "bits", "precision", "threshold"], kind="stable")
    figure = panels(
        shown, panel, "Faithfulness over circuit sizes, on fresh prompts", "No cell's faithfulness was measured."
    )
    return with_legend(figure, shown)


def main(argv: Sequence[str]) -> int:
    """``EXPERIMENT [--root results]``: draw the figures, say where they lie. 0, or 2 on bad input."""
    parser = Arguments(prog="pahq figures", description="figures of an evaluated experiment")
    parser.add_argument("experiment", nargs="?", default="default")
    parser.add_argument("--root", type=Path, default=Path("results"))
    given = parser.parse_args(argv)
    try:
        paths = write_figures(given.root, given.experiment)
    except PahqError as error:
        sys.stderr.write(f"pahq: error: {error}\n")
        return 2
    sys.stdout.write(f"{paths[0].parent}\n")
    return 0
