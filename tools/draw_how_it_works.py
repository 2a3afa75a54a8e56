"""Draws the pictures of docs/how-it-works.md.

    python tools/draw_how_it_works.py results/cells/nano-ioi/acdc-float32-t0.1-... docs/images

``search.png`` shows the tests of that cell as its journal holds them. The others are diagrams without data: what an
edge is, which nodes a test computes, and which weights are in full precision while a head is in focus.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from pahq.cell.files import read_result
from pahq.cell.journal import read_journal
from pahq.errors import PahqError

KEPT, REMOVED, COMPUTED, REUSED, TESTED = "#0072B2", "#BBBBBB", "#56B4E9", "#EEEEEE", "#D55E00"  # Okabe and Ito's


def empty(width: float, height: float, *, inches: float = 0.62) -> tuple[Figure, Axes]:
    """A figure without axes, in units of which one is ``inches`` wide and high."""
    figure = Figure(figsize=(width * inches, height * inches), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def box(
    axes: Axes, x: float, y: float, words: str, *, face: str = "white", width: float = 1.5, line: str = "black"
) -> None:
    """A node: a box with its middle at ``x``, ``y``."""
    axes.add_patch(Rectangle((x - width / 2, y - 0.36), width, 0.72, facecolor=face, edgecolor=line, linewidth=1.2))
    axes.text(x, y, words, ha="center", va="center", fontsize=9)


def key(axes: Axes, x: float, y: float, words: str, colour: str) -> None:
    """What a colour means, below a picture."""
    axes.add_patch(Rectangle((x, y), 0.4, 0.3, facecolor=colour, edgecolor="black", linewidth=0.6))
    axes.text(x + 0.55, y + 0.15, words, fontsize=8, va="center")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str = "-") -> None:
    tip: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9}
    tip |= {"linewidth": 1.5, "color": colour, "linestyle": style}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **tip))


def graph_picture() -> Figure:
    """One layer of a small model: senders, the three inputs of a head, and an edge that was removed."""
    figure, axes = empty(13.5, 7.2)
    for x, words in ((2.0, "embed"), (5.0, "a0.h0"), (7.5, "a0.h1"), (10.5, "m0")):
        box(axes, x, 1.0, words)
    for x, letter in ((3.5, "q"), (5.5, "k"), (7.5, "v")):
        box(axes, x, 3.6, f"a1.h0<{letter}>", width=1.6, face="#F7F7F7")
        arrow(axes, (x, 3.96), (5.5 + 0.3 * (x - 5.5) / 2, 4.84), "#777777")
    box(axes, 5.5, 5.2, "a1.h0", width=2.4)
    box(axes, 11.0, 6.4, "logits", face="#F7F7F7")
    axes.text(0.1, 1.0, "senders", fontsize=8, va="center", color="#777777")
    axes.text(0.1, 3.6, "inputs of\na head", fontsize=8, va="center", color="#777777")
    arrow(axes, (2.0, 1.36), (3.2, 3.24), KEPT)
    arrow(axes, (5.0, 1.36), (5.3, 3.24), KEPT)
    arrow(axes, (7.5, 1.36), (7.5, 3.24), KEPT)
    arrow(axes, (10.5, 1.36), (7.9, 3.24), TESTED, "--")
    arrow(axes, (10.5, 1.36), (11.0, 6.04), KEPT)
    arrow(axes, (6.3, 5.56), (10.25, 6.3), KEPT)
    note = "the edge m0->a1.h0<v> is removed: this input\nreceives what m0 says in the corrupted run"
    axes.text(0.1, 6.6, note, fontsize=8, color=TESTED, va="center")
    axes.text(3.15, 4.5, "Direct edges", fontsize=8, color="#777777", va="center", ha="center")
    return figure


def search_picture(folder: Path) -> Figure:
    """Every test of a search in its order: the effect of removing the edge, and whether the edge was kept."""
    lines = read_journal(folder / "decisions.jsonl")
    config = read_result(folder).config
    threshold = config.search_threshold
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for removed, colour, label in ((True, REMOVED, "removed"), (False, KEPT, "kept")):
        some = [(line.i, line.after - line.before) for line in lines if line.removed == removed]
        axes.vlines([i for i, _ in some], 0, [effect for _, effect in some], color=colour, linewidth=1.6)
        axes.plot(
            [i for i, _ in some], [e for _, e in some], "o", color=colour, markersize=3, label=f"{label}: {len(some)}"
        )
    axes.axhline(threshold, color=TESTED, linewidth=1, label=f"threshold: {threshold:g}")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.margins(y=0.08)  # or the largest effects would be cut off
    axes.set_xlabel("test, from the logits down to the embedding")
    axes.set_ylabel("effect: KL divergence gained, nats")
    axes.set_title(f"{config.task.name}, {config.method.name}: {len(lines)} tests", fontsize=10)
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return figure


def engine_picture() -> Figure:
    """What one test computes in the reference engine and in the suffix engine."""
    figure, axes = empty(14.5, 8.6)
    rows = ["embed", *(f"layer {layer}" for layer in range(5)), "logits"]
    everything = {(row, i) for row in range(len(rows)) for i in range(5)}
    behind = {(3, 2), (4, 0), (4, 2), (4, 4), (5, 1), (5, 2), (5, 4), (6, 0)}  # (row, place) from the tested head on
    halves = (
        (0.3, "reference engine: the whole forward pass", everything),
        (7.6, "suffix engine: what lies behind the edge", behind),
    )
    for left, title, computed in halves:
        axes.text(left + 3.1, 8.35, title, ha="center", fontsize=9)
        for row, words in enumerate(rows):
            single = words in ("embed", "logits")
            for i in range(1 if single else 5):
                x = left + 3.1 if single else left + 0.9 + 1.1 * i
                name = words if single else ("MLP" if i == 4 else f"h{i}")
                face, line = (COMPUTED, "black") if (row, i) in computed else (REUSED, "#AAAAAA")
                box(axes, x, 1.0 + 1.1 * row, name, width=1.5 if single else 0.9, face=face, line=line)
        arrow(axes, (left + 3.1, 1.36), (left + 3.1, 3.94), TESTED)
    key(axes, 1.0, 0.02, "computed for this test", COMPUTED)
    key(axes, 6.0, 0.02, "known already, or nothing has changed there", REUSED)
    axes.text(12.0, 0.17, "the edge under test", fontsize=8, va="center", color=TESTED)
    return figure


def precision_picture() -> Figure:
    """Which weights are in full precision while a head is in focus, and how near to the threshold who decides."""
    figure, axes = empty(14.5, 5.9)
    axes.text(3.4, 5.5, "PAHQ: the head under test is in focus", ha="center", fontsize=9)
    for row in range(3):
        y = 1.6 + 1.3 * row
        for head in range(4):
            focus = (row, head) == (1, 2)
            box(
                axes,
                1.3 + 1.1 * head,
                y,
                f"h{head}",
                width=0.9,
                face=COMPUTED if focus else "#FCE5CD",
                line="black" if focus else "#AAAAAA",
            )
        box(axes, 5.9, y, "MLP", width=0.9, face="#E2EFDA", line="#AAAAAA")
        axes.text(0.1, y, f"layer {row}", fontsize=8, color="#777777", va="center", rotation=90)
    for x, words, colour in ((0.5, "float32", COMPUTED), (2.5, "8 or 4 bits", "#FCE5CD"), (4.9, "bf16", "#E2EFDA")):
        key(axes, x, 0.3, words, colour)
    axes.text(11.0, 5.5, "who decides a test, by its effect", ha="center", fontsize=9)
    spans = (
        (7.6, 9.2, REUSED),
        (9.2, 10.7, "#CFE2F3"),
        (10.7, 11.3, "#F9CB9C"),
        (11.3, 12.8, "#CFE2F3"),
        (12.8, 14.4, REUSED),
    )
    for left, right, colour in spans:
        axes.add_patch(Rectangle((left, 2.6), right - left, 0.9, facecolor=colour, edgecolor="#777777", linewidth=0.8))
    axes.plot([11.0, 11.0], [2.3, 3.8], color=TESTED, linewidth=1.6)
    axes.text(11.0, 4.0, "threshold", ha="center", fontsize=8, color=TESTED)
    for x in (8.4, 13.6):
        axes.text(x, 3.05, "low\nprecision", ha="center", va="center", fontsize=8)
    for x in (9.95, 12.05):
        axes.text(x, 3.05, "full\nprecision", ha="center", va="center", fontsize=8)
    axes.text(9.0, 1.5, "within the band of\naudit=band", ha="center", va="center", fontsize=8)
    arrow(axes, (9.4, 1.9), (9.9, 2.58), "#777777")
    axes.text(12.2, 1.5, "within float32's noise:\nfloat64 decides", ha="center", va="center", fontsize=8)
    arrow(axes, (11.9, 1.9), (11.05, 2.58), "#777777")
    axes.text(7.6, 4.3, "edge goes", fontsize=8, color="#777777")
    axes.text(14.4, 4.3, "edge stays", fontsize=8, color="#777777", ha="right")
    return figure


def main(argv: Sequence[str]) -> int:
    """``FOLDER-OF-A-CELL FOLDER``: write the four pictures below FOLDER. 0, or 2 on bad input."""
    if len(argv) != 2:
        print("usage: python tools/draw_how_it_works.py FOLDER-OF-A-CELL FOLDER", file=sys.stderr)
        return 2
    pictures: dict[str, Callable[[], Figure]] = {
        "graph": graph_picture,
        "search": lambda: search_picture(Path(argv[0])),
        "engine": engine_picture,
        "precision": precision_picture,
    }
    try:
        Path(argv[1]).mkdir(parents=True, exist_ok=True)
        for name, draw in pictures.items():
            draw().savefig(Path(argv[1]) / f"{name}.png", dpi=110, metadata={"Software": None})
    except (PahqError, OSError) as error:
        print(f"draw_how_it_works: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
