"""Names beside what they name never overlap each other, stay in the figure, and are as near as they can be."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from pahq.analysis.labels import LINE, SIZE, Named, at_ends, beside_points, spread

WORDS = ("ACDC", "PAHQ int4, changes, audited", "EAP, clean and corrupted", "EAP-IG", "exact scores", "RTN-Q int4", "x")


def panels(count: int, *, equal: bool, seed: int = 0) -> tuple[Figure, dict[Axes, list[Named]]]:
    """Two panels of so many lines, whose ends coincide or lie anywhere, and their names."""
    draw = random.Random(seed)
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    names = {}
    for axes in figure.subplots(1, 2):
        axes.set_xscale("log")
        names[axes] = [
            Named(*((100.0, 1.0) if equal else (draw.uniform(5, 100), draw.random())), WORDS[i % len(WORDS)], "#D55E00")
            for i in range(count)
        ]
        for one in names[axes]:
            axes.plot([1, one.x], [draw.random(), one.y], marker="o")
    return figure, names


def assert_apart(figure: Figure, *, inside: bool) -> None:
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations([box.padded(-0.5) for box in boxes], 2))
        frame = axes.bbox if inside else figure.bbox
        for box in boxes:
            assert frame.x0 <= box.x0 < box.x1 <= frame.x1
            assert frame.y0 <= box.y0 < box.y1 <= frame.y1


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("equal", [True, False], ids=["equal ends", "ends anywhere"])
def test_names_do_not_overlap_or_leave_the_figure(count: int, equal: bool) -> None:
    figure, names = panels(count, equal=equal)
    assert_apart(at_ends(figure, names), inside=False)
    for axes in figure.axes:
        assert len(axes.texts) == count
        assert all(Text.get_window_extent(text).x0 > axes.bbox.x1 for text in axes.texts)  # beside the panel
    figure, names = panels(count, equal=equal)
    assert_apart(beside_points(figure, names), inside=True)


def test_a_name_that_was_moved_has_a_leader_and_one_at_its_place_none() -> None:
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0.1, 0.1], [0, 1], [0.5, 0.5], [0, 1], [0.5, 0.5])
    axes.set(xlim=(0, 1), ylim=(0, 1))
    at_ends(figure, {axes: [Named(1, y, "x", "k") for y in (0.1, 0.5, 0.5)]})
    assert [text.arrow_patch is not None for text in axes.texts] == [False, True, True]
    low, *pair = (text.get_position()[1] for text in axes.texts)
    assert low == pytest.approx(0.1, abs=0.01)
    assert pair[1] - pair[0] == pytest.approx(LINE * SIZE * figure.dpi / 72 / axes.bbox.height)


def slow_spread(wanted: list[float], heights: list[float], low: float, high: float) -> list[float]:
    """The same by the max-min formula of isotonic regression (Barlow et al. 1972), over all stretches of names."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    middles = [low + sum(heights[j] for j in order[:rank]) + heights[i] / 2 for rank, i in enumerate(order)]
    rest = [wanted[i] - middle for i, middle in zip(order, middles, strict=True)]
    best = [
        max(min(sum(rest[a:b]) / (b - a) for b in range(rank + 1, len(rest) + 1)) for a in range(rank + 1))
        for rank in range(len(rest))
    ]
    above = [min(max(one, 0.0), high - low - sum(heights)) for one in best]
    return [middles[order.index(i)] + above[order.index(i)] for i in range(len(wanted))]


def test_places_are_those_of_least_squares() -> None:
    draw = random.Random(1)
    for _ in range(50):
        wanted = [draw.choice([0.0, 30.0, draw.uniform(-10, 110)]) for _ in range(draw.randint(1, 8))]
        heights = [draw.choice([10.0, 14.0]) for _ in wanted]
        found = spread(wanted, heights, 5, 120)
        assert found == pytest.approx(slow_spread(wanted, heights, 5, 120))
        boxes = sorted((middle - tall / 2, middle + tall / 2) for middle, tall in zip(found, heights, strict=True))
        assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(boxes))
        assert 5 - 1e-9 <= boxes[0][0] <= boxes[-1][1] <= 120 + 1e-9
