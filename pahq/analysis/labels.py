"""Names beside what they name: at the ends of lines or beside points, moved apart, with a thin leader when moved.

A figure is laid out once before its names are placed: how tall a word is in a panel is known only then.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from pahq.analysis.colours import words_in

SIZE = 8.5  # points: of a figure as wide as a page some 9 pixels
LINE = 1.2  # of a name's height: from one line to the next in a column
LONG, LONGER = 19, 24  # letters of a name in a column, and beside a point, from which on it is broken
GAP = 0.025  # of a panel's width: from it to the names of its lines' ends
NEAR, FAR, STEP = 8.0, 160.0, 8.0  # points from a point to its name: at first, at most, and further at each try
CLOSE = 18.0  # points from a line's end to a name that needs no leader
MOVED = 4.0  # points by which a name at a line's end may be moved without a leader
AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # right and up; the right side first
BESIDE = {1: "left", 0: "center", -1: "right"}  # which side of a name is at its place, by where it stands
ABOVE = {1: "bottom", 0: "center", -1: "top"}
OWN = 8.0  # points from a point to the end of its marker
AIR = np.array([6.0, 3.0])  # points between a name and what else is drawn, across and up
ON_NAME, OUTSIDE, ON_DATA = 1000.0, 1000.0, 10.0  # what a place costs, in points of distance: of data, a sample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Named:
    """A point of the data, what stands beside it, and its colour."""

    x: float
    y: float
    text: str
    colour: str


def at_ends(figure: Figure, names: Mapping[Axes, Sequence[Named]]) -> Figure:
    """The figure with the names of lines in a column at the right of each panel, as high as the lines end."""
    held = [
        axes.text(1 + GAP, 0.5, _broken(one.text, LONG), fontsize=SIZE, transform=axes.transAxes)
        for axes, found in names.items()
        for one in found
    ]
    if held:
        _lay_out(figure)  # with the names, so that they have their room
    for word in held:
        word.remove()
    for axes, found in names.items():
        _stack(axes, found)
    return figure


def beside_points(figure: Figure, names: Mapping[Axes, Sequence[Named]]) -> Figure:
    """The figure with names beside their points, inside the panels: where they hide least, and never each other."""
    if any(names.values()):
        _lay_out(figure)
    for axes, found in names.items():
        _scatter(axes, found)
    return figure


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Middles of boxes of these heights, one above the other from ``low`` to ``high``, as near as can be to ``wanted``.

    In the least squares' sense, and in the order of ``wanted``; of equal ones the first comes first. What has no room
    stands on beyond ``high``.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    below, middles = low, {}  # where each would stand if all stood at the bottom
    for i in order:
        middles[i], below = below + heights[i] / 2, below + heights[i]
    blocks: list[tuple[float, int]] = []  # sum and count of how far above that they want to be: pool adjacent violators
    for i in order:
        total, count = wanted[i] - middles[i], 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            before, many = blocks.pop()
            total, count = total + before, count + many
        blocks.append((total, count))
    flat = [total / count for total, count in blocks for _ in range(count)]
    found = [0.0] * len(wanted)
    for i, above in zip(order, flat, strict=True):
        found[i] = middles[i] + min(max(above, 0.0), max(high - below, 0.0))
    return found


def _broken(text: str, letters: int) -> str:
    """A name in lines of no more letters than that, unless a word has more."""
    return "\n".join(textwrap.fill(line, letters) for line in text.splitlines())


def _lay_out(figure: Figure) -> None:
    """Settle where the panels lie: for good, since names stand by it, and since it takes as long as drawing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _stack(axes: Axes, names: Sequence[Named]) -> None:
    box, point = axes.get_window_extent(), _point(axes)
    ends: Sequence[Floats] = [axes.transData.transform((one.x, one.y)) for one in names]
    texts = [_broken(one.text, LONG) for one in names]
    tall = [LINE * SIZE * point * len(text.splitlines()) for text in texts]
    places = spread([float(y - box.y0) for _, y in ends], tall, 0.0, box.height)
    for one, text, (x, y), place in zip(names, texts, ends, places, strict=True):
        near = abs(place - (y - box.y0)) < MOVED * point and box.x1 - x < CLOSE * point
        axes.annotate(
            text,
            (one.x, one.y),
            xytext=(1 + GAP, place / box.height),
            textcoords="axes fraction",
            ha="left",
            va="center",
            fontsize=SIZE,
            linespacing=1.0,
            color=words_in(one.colour),
            arrowprops=None if near else _leader(one, (0, 0.5)),
            annotation_clip=False,
        )


def _scatter(axes: Axes, names: Sequence[Named]) -> None:
    point, data = _point(axes), _samples(axes)
    inside = np.array(axes.get_window_extent().padded(-2 * point).extents)
    taken: list[Floats] = []
    for one in names:
        at = axes.transData.transform((one.x, one.y))
        text = _broken(one.text, LONGER)
        measured = axes.text(one.x, one.y, text, fontsize=SIZE, linespacing=1.0)
        extent = measured.get_window_extent()
        measured.remove()
        size = np.array([extent.width, extent.height])
        others = data[np.hypot(*(data - at).T) > OWN * point]
        tried = [(*where, _box(at, size, where, point), _way(at, where, point)) for where in _places()]
        away, right, up, box, way = min(
            tried, key=lambda place: place[0] + _cost(place[3], place[4], taken, inside, others, point)
        )
        taken.append(box)
        data = np.concatenate([data, way])  # nor does a later name hide this one's leader
        axes.annotate(
            text,
            (one.x, one.y),
            xytext=(away * right, away * up),
            textcoords="offset points",
            ha=BESIDE[right],
            va=ABOVE[up],
            fontsize=SIZE,
            linespacing=1.0,
            color=words_in(one.colour),
            arrowprops=_leader(one, ((1 - right) / 2, (1 - up) / 2)) if away > NEAR else None,
            annotation_clip=False,
        ).set_in_layout(False)


def _leader(one: Named, side: tuple[float, float]) -> dict[str, Any]:
    """A thin line from a point to a side of its name."""
    look = {"arrowstyle": "-", "color": one.colour, "lw": 0.5, "alpha": 0.7}
    return look | {"relpos": side, "shrinkA": 1, "shrinkB": 4}


def _point(axes: Axes) -> float:
    """Pixels of a point."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(figure.dpi) / 72


def _places() -> Iterator[tuple[float, int, int]]:
    """How far from its point a name may stand, and on which side, right and up; the nearest first."""
    for away in np.arange(NEAR, FAR, STEP):
        for right, up in AROUND:
            yield float(away), right, up


def _box(at: Floats, size: Floats, where: tuple[float, int, int], point: float) -> Floats:
    """The corners in pixels of a name that stands there."""
    away, *side = where
    low = at + np.array(side) * away * point - size * (1 - np.array(side)) / 2
    return np.concatenate([low, low + size])


def _way(at: Floats, where: tuple[float, int, int], point: float) -> Floats:
    """Pixels on the way of a leader to a name that stands there, none where it needs no leader."""
    away, *side = where
    steps = np.linspace(NEAR, away, 8) if away > NEAR else np.empty(0)
    found: Floats = at + steps[:, None] * point * np.array(side)
    return found


def _cost(box: Floats, way: Floats, taken: Iterable[Floats], inside: Floats, data: Floats, point: float) -> float:
    """How bad it is for a name to stand there, in points of distance."""
    over = sum(
        one[0] < box[2] + 2 * point and box[0] < one[2] + 2 * point and one[1] < box[3] and box[1] < one[3]
        for one in taken
    )
    over += sum(((way > one[:2]) & (way < one[2:])).all(axis=1).any() for one in taken)
    out = (box[:2] < inside[:2]).any() or (box[2:] > inside[2:]).any()
    hit = ((data > box[:2] - AIR * point) & (data < box[2:] + AIR * point)).all(axis=1)
    return float(ON_NAME * over + OUTSIDE * out + ON_DATA * hit.sum())


def _samples(axes: Axes) -> Floats:
    """Points of a panel's lines and markers in pixels, a few points apart."""
    found: list[Floats] = [np.empty((0, 2))]
    half = 0.5 * _point(axes)
    for line in axes.lines:
        if line.get_marker() not in ("None", "", None):
            at = line.get_transform().transform(line.get_xydata())
            steps = np.linspace(-1, 1, 5) * half * line.get_markersize()
            found += [at + np.array([dx, dy]) for dx in steps for dy in steps]
        if line.get_linestyle() not in ("None", "", " "):
            stepped = STEP_LOOKUP_MAP[line.get_drawstyle()](*np.asarray(line.get_xydata()).T)
            found += _along(line.get_transform().transform(np.transpose(stepped)), 6 * half)
    for lines in axes.collections:
        if isinstance(lines, LineCollection):
            for segment in lines.get_segments():
                found += _along(lines.get_transform().transform(segment), 6 * half)
    points = np.concatenate(found)
    finite: Floats = points[np.isfinite(points).all(axis=1)]
    return finite


def _along(corners: Floats, every: float) -> Iterator[Floats]:
    """Points of a line, no further from each other than that."""
    for one, other in pairwise(corners[np.isfinite(corners).all(axis=1)]):
        yield np.linspace(one, other, 2 + int(np.hypot(*(other - one)) / every))
