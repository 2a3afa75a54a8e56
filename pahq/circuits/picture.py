"""A circuit as shapes: curves, rectangles, triangles and words, which any writer can draw. Pure numbers, in points.

Colours are Okabe and Ito's, safe for colour-blind readers, and each letter of an input also stands in its slot. The
width of a line is in proportion to the square root of its effect, so that the largest does not hide all others.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pahq.circuits.layout import Box, Layout, Point, Route, lay_out
from pahq.circuits.shown import EXTRA, HIT, LIMIT, MISSED, Line, Shown

COLOURS = {"q": "#D55E00", "k": "#009E73", "v": "#0072B2", "": "#4D4D4D"}
MEANINGS = {"q": "into queries", "k": "into keys", "v": "into values", "": "into an MLP or the logits"}
MARKS = {HIT: "published, found", EXTRA: "found, not published", MISSED: "published, not found"}
DASHES = {HIT: (), EXTRA: (1.5, 1.8), MISSED: (5.0, 3.0), "": ()}
INK, GREY, PALE, PAPER = "#1A1A1A", "#6B6B6B", "#C4C4C4", "#FFFFFF"
THIN, PLAIN = 0.6, 1.1  # points: of the weakest edge, and of one whose effect nobody knows
HEAD = 4.6  # length of an arrow's head
TITLE, WORDS, SMALL = 11.0, 8.0, 7.0  # sizes of letters


@dataclass(frozen=True, slots=True)
class Curve:
    """Cubic Bézier pieces, end to end: a start and three points for each piece. ``about``: a text to hover over."""

    points: tuple[Point, ...]
    colour: str
    width: float
    dash: tuple[float, ...] = ()
    opacity: float = 1.0
    about: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """A filled polygon (``points``) or, of two points, the rectangle between them with round corners."""

    points: tuple[Point, ...]
    fill: str
    line: str = "none"
    width: float = 0.0
    opacity: float = 1.0
    about: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text whose base line begins (start), has its middle (middle) or ends at ``at``."""

    text: str
    at: Point
    size: float
    colour: str = INK
    anchor: str = "start"
    bold: bool = False


Shape = Curve | Patch | Words


@dataclass(frozen=True)
class Picture:
    """Shapes in the order in which they are painted, on paper of this size."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def draw(shown: Shown, *, limit: int = LIMIT) -> Picture:
    """The picture of a circuit: title, lines, nodes, and a legend of what is in it."""
    lines, single, note = shown.lines(limit=limit)
    layout = lay_out(shown.circuit.graph, [line.wire for line in lines], letters=single)
    pen = _Pen(lines, layout)
    above = list(_title(shown, note, layout.width))
    down = above[-1].at[1] + 10 if above else 4.0
    below = list(_legend(shown, lines, single, pen, layout.width, down + layout.height))
    moved = [_moved(shape, down) for shape in _body(shown, lines, layout, pen)]
    foot = max((_foot(shape) for shape in below), default=down + layout.height)
    paper = Patch(((0.0, 0.0), (layout.width, foot + 6)), PAPER)
    return Picture(layout.width, foot + 6, (paper, *above, *moved, *below))


def stacked(pictures: Sequence[Picture]) -> Picture:
    """Pictures one below the other, as one."""
    shapes: list[Shape] = []
    down = 0.0
    for picture in pictures:
        shapes += [_moved(shape, down) for shape in picture.shapes]
        down += picture.height
    return Picture(max(picture.width for picture in pictures), down, tuple(shapes))


class _Pen:
    """How wide and how strong lines are: thinner where there are many."""

    def __init__(self, lines: Sequence[Line], layout: Layout) -> None:
        self.largest = max((line.wire.weight for line in lines), default=0.0)
        few, some = len(lines) <= 80, len(lines) <= 200
        self.widest, self.opacity = (4.5, 0.85) if few else (3.5, 0.7) if some else (2.6, 0.55)

    def width(self, weight: float) -> float:
        if not self.largest:
            return PLAIN
        return THIN + (self.widest - THIN) * math.sqrt(weight / self.largest)


def _body(shown: Shown, lines: Sequence[Line], layout: Layout, pen: _Pen) -> Iterator[Shape]:
    for text, (x, y) in layout.labels:
        yield Words(text, (x, y + 0.35 * WORDS), WORDS, GREY)
    pairs = list(zip(lines, layout.routes, strict=True))
    for line, route in reversed(pairs):  # the strongest last, on top
        yield from _edge(shown, line, route, pen)
    for box in layout.boxes:
        yield from _node(box)
    for slot in layout.slots:
        yield from _slot(slot)


def _edge(shown: Shown, line: Line, route: Route, pen: _Pen) -> Iterator[Shape]:
    missed = line.mark == MISSED
    width = 1.0 if missed else pen.width(line.wire.weight)
    colour, opacity, about = COLOURS[line.letter], 0.6 if missed else pen.opacity, _about(shown, line)
    size = HEAD + 0.8 * width
    x, y = route.end
    yield Curve(way(route, size * 0.8), colour, width, DASHES[line.mark], opacity, about)
    half = 0.42 * size
    yield Patch(((x, y), (x - half, y + size), (x + half, y + size)), colour, opacity=max(opacity, 0.8), about=about)


def way(route: Route, short: float = 0.0) -> tuple[Point, ...]:
    """A route as Bézier pieces that stand upright at every end, ``short`` of its end by so much."""
    stop = (route.end[0], route.end[1] + short)
    if route.enter is None or route.leave is None:
        return (route.start, *_piece(route.start, stop))
    straight = (route.enter, route.leave, route.leave)
    return (route.start, *_piece(route.start, route.enter), *straight, *_piece(route.leave, stop))


def _piece(start: Point, end: Point) -> tuple[Point, Point, Point]:
    bend = 0.55 * (end[1] - start[1])
    return (start[0], start[1] + bend), (end[0], end[1] - bend), end


def _about(shown: Shown, line: Line) -> str:
    if len(line.edges) > 1:
        return f"{line.wire.sender} to {line.wire.receiver}: {len(line.edges)} edges"
    [edge] = line.edges
    told, fact = [str(shown.circuit.graph.edges[edge])], shown.facts.get(edge)
    if fact is not None:
        told.append(f"{shown.measure} {fact.effect:.4g}")
    if line.mark:
        told.append(MARKS[line.mark])
    return ", ".join(told)


def _node(box: Box) -> Iterator[Shape]:
    if not box.label:  # the bar that heads share
        yield Patch(_corners(box), GREY)
        return
    yield Patch(_corners(box), PAPER, INK if box.used else "#E3E3E3", 1.1 if box.used else 0.6, about=box.name)
    colour = INK if box.used else PALE
    yield Words(box.label, (box.x, box.y + 0.35 * WORDS), WORDS, colour, "middle")


def _slot(box: Box) -> Iterator[Shape]:
    colour = COLOURS[box.letter]
    yield Patch(_corners(box), colour if box.used else "#F4F4F4", colour if box.used else "#D0D0D0", 0.6)
    yield Words(box.label, (box.x, box.y + 2.2), SMALL - 0.5, PAPER if box.used else PALE, "middle", bold=box.used)


def _corners(box: Box) -> tuple[Point, Point]:
    across, down = box.width / 2, box.height / 2
    return (box.x - across, box.y - down), (box.x + across, box.y + down)


def _title(shown: Shown, note: str, width: float) -> Iterator[Words]:
    y = 6.0
    for text, size, bold in ((shown.title, TITLE, True), *((n, WORDS, False) for n in (*shown.notes, note))):
        for line in textwrap.wrap(text, max(int((width - 16) / ((0.66 if bold else 0.56) * size)), 20)):
            y += 1.35 * size
            yield Words(line, (8.0, y), size, INK if bold else GREY, bold=bold)


def _legend(shown: Shown, lines: Sequence[Line], single: bool, pen: _Pen, width: float, top: float) -> Iterator[Shape]:
    """Rows of samples, each with its words: letters, what widths mean, how lines stand to the published circuit.

    ``single``: whether lines were drawn edge by edge, and not from node to node.
    """
    samples: list[tuple[str, str, float, tuple[float, ...]]] = []
    letters = {line.letter for line in lines}
    for letter, colour in COLOURS.items():
        if letter in letters:
            samples.append((MEANINGS[letter] if single else "from node to node", colour, 2.0, ()))
    for mark in MARKS:
        if any(line.mark == mark for line in lines):
            samples.append((MARKS[mark], INK, 1.4, DASHES[mark]))
    if pen.largest:
        for weight in (pen.largest, pen.largest / 10):
            text = f"{shown.measure} {weight:.2g}"
            samples.append((text, GREY, pen.width(weight), ()))
    x, y = 8.0, top + 8
    for text, colour, thick, dash in samples:
        long = 28 + 0.56 * WORDS * len(text) + 14
        if x + long > width and x > 8:
            x, y = 8.0, y + 13
        points = ((x, y), (x + 7, y), (x + 15, y), (x + 22, y))
        yield Curve(points, colour, thick, dash)
        yield Words(text, (x + 27, y + 0.35 * WORDS), WORDS, INK)
        x += long


def _moved(shape: Shape, down: float) -> Shape:
    if isinstance(shape, Words):
        return Words(shape.text, (shape.at[0], shape.at[1] + down), shape.size, shape.colour, shape.anchor, shape.bold)
    points = tuple((x, y + down) for x, y in shape.points)
    if isinstance(shape, Curve):
        return Curve(points, shape.colour, shape.width, shape.dash, shape.opacity, shape.about)
    return Patch(points, shape.fill, shape.line, shape.width, shape.opacity, shape.about)


def _foot(shape: Shape) -> float:
    return shape.at[1] if isinstance(shape, Words) else max(y for _, y in shape.points)
