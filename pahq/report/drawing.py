"""A picture on paper: PNG and PDF by matplotlib, SVG by our own writer, and DOT as a format for other tools."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Way
from PIL import Image

from pahq.circuits.picture import Curve, Patch, Picture, Words, draw
from pahq.circuits.shown import LIMIT, Shown
from pahq.circuits.svg import corner, to_svg
from pahq.errors import PahqError
from pahq.files.text import write_atomic
from pahq.report.dot import to_dot

INCH = 72.0
SHARP = 200  # dots per inch of a PNG
COLOURS = 128  # of a PNG, shades of smooth edges among them
FONT = "DejaVu Sans"  # matplotlib brings it, so that a picture is the same everywhere


def save(shown: Shown, out: Path, *, limit: int = LIMIT) -> None:
    """Write the picture in the format that the file's name ends in; PahqError for another ending."""
    write_atomic(out, WRITERS[ending(out, WRITERS)](shown, limit))


def ending(out: Path, known: Mapping[str, object]) -> str:
    """A file's ending, once it is one of those known; PahqError that lists them, and for a folder."""
    found = out.suffix.removeprefix(".").lower()
    if found not in known:
        raise PahqError(f"--out {out}: a circuit is written as {', '.join(known)}; end the file's name in one of them")
    if out.is_dir():
        raise PahqError(f"--out {out} is a folder; name a file in it")
    return found


def figure_of(picture: Picture) -> Figure:
    """The picture as a figure of its own size, one unit a point."""
    figure = Figure(figsize=(picture.width / INCH, picture.height / INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, picture.width)
    axes.set_ylim(picture.height, 0)
    axes.axis("off")
    for level, shape in enumerate(picture.shapes):
        if isinstance(shape, Words):
            _write(axes, shape, level)
        elif isinstance(shape, Curve):
            _curve(axes, shape, level)
        else:
            _patch(axes, shape, level)
    return figure


def _write(axes: Axes, words: Words, level: int) -> None:
    side = {"start": "left", "middle": "center", "end": "right"}[words.anchor]
    weight = "bold" if words.bold else "normal"
    style: dict[str, Any] = {"fontsize": words.size, "fontweight": weight, "fontfamily": FONT, "color": words.colour}
    axes.text(*words.at, words.text, ha=side, va="baseline", zorder=level, parse_math=False, **style)


def _curve(axes: Axes, curve: Curve, level: int) -> None:
    codes = [Way.MOVETO, *[Way.CURVE4] * (len(curve.points) - 1)]
    dash = (0, tuple(one / curve.width for one in curve.dash)) if curve.dash else "solid"
    axes.add_patch(
        PathPatch(
            Way(curve.points, codes),
            fill=False,
            edgecolor=curve.colour,
            linewidth=curve.width,
            linestyle=dash,
            alpha=curve.opacity,
            capstyle="butt",
            zorder=level,
        )
    )


def _patch(axes: Axes, patch: Patch, level: int) -> None:
    style: dict[str, Any] = {
        "facecolor": patch.fill,
        "edgecolor": patch.line,
        "linewidth": patch.width,
        "alpha": patch.opacity,
    }
    if len(patch.points) > 2:
        axes.add_patch(Polygon(patch.points, closed=True, zorder=level, **style))
        return
    (x, y), (right, foot) = patch.points
    if not corner(patch):
        axes.add_patch(Rectangle((x, y), right - x, foot - y, zorder=level, **style))
        return
    round_box = f"round,pad=0,rounding_size={corner(patch)}"
    axes.add_patch(FancyBboxPatch((x, y), right - x, foot - y, boxstyle=round_box, zorder=level, **style))


def _printed(shown: Shown, limit: int, form: str) -> bytes:
    held = io.BytesIO()
    unsaid: dict[str, None] = {"Software": None} if form == "png" else {"CreationDate": None, "Producer": None}
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure_of(draw(shown, limit=limit)).savefig(held, format=form, dpi=SHARP, metadata=unsaid)
    return held.getvalue() if form == "pdf" else _few_colours(held)


def _few_colours(picture: io.BytesIO) -> bytes:
    """A PNG with a palette, half as large: a circuit has few colours, and they stay what they are."""
    held = io.BytesIO()
    Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(held, "png", optimize=True)
    return held.getvalue()


WRITERS: dict[str, Callable[[Shown, int], str | bytes]] = {
    "svg": lambda shown, limit: to_svg(draw(shown, limit=limit)),
    "png": lambda shown, limit: _printed(shown, limit, "png"),
    "pdf": lambda shown, limit: _printed(shown, limit, "pdf"),
    "dot": lambda shown, _: to_dot(shown),
}
