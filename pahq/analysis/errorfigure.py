"""The figure of errors: how far each effect is off in low precision, against the effect itself."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pahq.analysis.colours import BLUE, GUIDE, RED
from pahq.analysis.drawing import HEIGHT, panels, plain_log
from pahq.analysis.effects import CHANGES
from pahq.analysis.summary import in_words
from pahq.config.precision import FORMATS

NOTHING = (
    "No search of this experiment measured every test in both precisions (audit=band with band.share=1), so errors are "
    "not known test by test. The experiment changes has such searches."
)
LOOKS = {"network": (RED, "x"), "changes": (BLUE, "o")}  # colour and marker
WORDS = {"network": "the whole network in low precision", "changes": "only the changes"}
SMALLEST = 1e-3  # of the threshold: effects below it are left out, for they are far from any decision
FLOOR = 1e-7  # of the largest error: what is less, or nothing, is drawn here


def errors_figure(errors: pd.DataFrame) -> Figure:
    """|error of the effect| against |effect| of single tests, one panel a precision, all tasks together."""
    shown = errors[errors["effect"] > SMALLEST * errors["threshold"]]
    shown = shown.assign(kind=["changes" if str(name).endswith(CHANGES) else "network" for name in shown["method"]])
    floor = FLOOR * shown["error"].max() if len(shown) else 0.0
    order = {name: i for i, name in enumerate(FORMATS)}
    shown = shown.assign(error=shown["error"].clip(lower=floor), place=shown["format"].map(order), task=_panel(shown))
    shown = shown.sort_values(["place", "task"], kind="stable")

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        for kind, (colour, marker) in LOOKS.items():
            own = rows[rows["kind"] == kind]
            if len(own):
                look = {"color": colour, "linestyle": "none", "marker": marker, "markersize": 3, "alpha": 0.6}
                axes.plot(own["effect"], own["error"], **look)  # type: ignore[arg-type]
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(shown["effect"].min() / 1.5, shown["effect"].max() * 1.5)
        axes.set_ylim(shown["error"].min() / 2, shown["error"].max() * 2)
        axes.axline((1e-3, 1e-3), (1, 1), color=GUIDE, lw=0.8, zorder=0)
        for threshold in sorted(rows["threshold"].unique()):
            axes.axvline(threshold, color=GUIDE, lw=0.8, linestyle=":", zorder=0)
        plain_log(axes.xaxis)
        axes.set_xlabel("size of the effect in full precision")
        axes.set_ylabel("error in low precision")

    title = "How far the effect of an edge is off in low precision, test by test\n"
    title += (
        "grey line: the error is as large as the effect; dotted: the threshold; at the bottom: no error to speak of"
    )
    figure = panels(shown, panel, title, NOTHING, height=0.8 * HEIGHT)
    if len(shown):
        handles = [handle for handle in _handles() if handle.get_label() in {WORDS[kind] for kind in shown["kind"]}]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _handles() -> list[Line2D]:
    looks = [(WORDS[kind], colour, marker) for kind, (colour, marker) in LOOKS.items()]
    return [Line2D([], [], label=name, color=colour, marker=marker, linestyle="none") for name, colour, marker in looks]


def _panel(errors: pd.DataFrame) -> list[str]:
    """Of each row its precision, with the settings that its variant says of it."""
    words = [
        " ".join(word for word in str(variant).split() if word.startswith("precision."))
        for variant in errors["variant"]
    ]
    names = zip(errors["precision"], words, strict=True)
    return [f"{name}, {in_words(settings)}" if settings else str(name) for name, settings in names]
