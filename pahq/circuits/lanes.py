"""Through which gutter an edge passes the rows between its ends, and in which lane of it. Pure numbers.

Gutter ``g`` lies left of column ``g``; one more lies right of the last column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CROWDED = 0.12  # columns that an edge goes out of its way rather than join one more in a gutter


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an edge may begin or end: a row and the columns that its node spans. ``shared``: by several heads."""

    row: int
    first: float
    last: float
    bar: bool = False
    letter: str = ""
    shared: bool = False

    def nearest(self, column: float) -> float:
        """The place on it, in columns, that is nearest to ``column``: on a bar anywhere, else its middle."""
        return min(max(column, self.first), self.last) if self.bar else (self.first + self.last) / 2


@dataclass(frozen=True, slots=True)
class Lane:
    """``number`` counts lanes of a gutter from the left; it passes the rows from ``first`` to ``last``."""

    gutter: int
    number: int
    first: int
    last: int


def lanes_of(ends: Sequence[tuple[Spot, Spot]], blocked: Sequence[str], right: int) -> tuple[Lane | None, ...]:
    """A lane for each edge that has a row in its way, None for the others. Earlier edges choose first.

    ``blocked`` says of every row what stands in it: ``all``, ``left`` (of column ``right``), ``right`` (that column
    alone) or ``none``.
    """
    gutters = int(max((spot.last for pair in ends for spot in pair), default=0.0) + 1) + 1
    held: list[list[tuple[int, int]]] = [[] for _ in range(gutters)]
    chosen: list[tuple[int, int, int] | None] = []
    for start, end in ends:
        low, high = sorted((start.nearest(end.nearest(right)), end.nearest(start.nearest(right))))
        kinds = {"all"} | ({"left"} if low < right else set()) | ({"right"} if high >= right else set())
        rows = [row for row in range(start.row + 1, end.row) if blocked[row] in kinds]
        if not rows:
            chosen.append(None)
            continue
        first, last = rows[0], rows[-1]

        def cost(gutter: int, start: Spot = start, end: Spot = end, first: int = first, last: int = last) -> float:
            x = gutter - 0.5
            away = abs(start.nearest(x) - x) + abs(end.nearest(x) - x)
            return away + CROWDED * sum(low <= last and first <= high for low, high in held[gutter])

        gutter = min(range(gutters), key=cost)
        held[gutter].append((first, last))
        chosen.append((gutter, first, last))
    return _numbered(ends, chosen, gutters)


def _numbered(
    ends: Sequence[tuple[Spot, Spot]], chosen: Sequence[tuple[int, int, int] | None], gutters: int
) -> tuple[Lane | None, ...]:
    """Edges of one gutter that pass no common row may share a lane; lanes lie on the side to which they turn."""
    lanes: list[Lane | None] = [None] * len(chosen)
    for gutter in range(gutters):
        here = [(i, way) for i, way in enumerate(chosen) if way is not None and way[0] == gutter]
        rows: list[list[tuple[int, tuple[int, int, int]]]] = []
        for i, way in sorted(here, key=lambda one: (_turn(ends[one[0]], gutter), one[0])):
            free = next((lane for lane in rows if all(way[2] < w[1] or w[2] < way[1] for _, w in lane)), None)
            if free is None:
                rows.append([(i, way)])
            else:
                free.append((i, way))
        rows.sort(key=lambda lane: sum(_turn(ends[i], gutter) for i, _ in lane) / len(lane))
        for number, lane in enumerate(rows):
            for i, (_, first, last) in lane:
                lanes[i] = Lane(gutter, number, first, last)
    return tuple(lanes)


def _turn(ends: tuple[Spot, Spot], gutter: int) -> float:
    """To which side of a gutter an edge turns at its ends: negative to the left."""
    x = gutter - 0.5
    return sum(spot.nearest(x) - x for spot in ends)
