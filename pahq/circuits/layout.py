"""Where a circuit is drawn: layers up, heads across, MLPs in the column on the right. Pure numbers.

Lengths are in points (1/72 inch), from the top left corner, y downwards. The embedding and the logits are bars as wide
as the picture, so that an edge leaves and enters them wherever it would be straight. Below a head are slots for its
inputs q, k and v; with grouped-query attention k and v are slots of a bar below the heads that share them.

An edge that passes a row of nodes goes through the gutter between two columns, in a lane of its own; gutters and the
gaps between rows are as wide as their lanes need (``pahq.circuits.lanes``). So no line runs through a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pahq.circuits.graph import Graph
from pahq.circuits.grid import Grid, Row, Wire, numbers_of, used_by
from pahq.circuits.lanes import Lane, Spot, lanes_of

BOX = (34.0, 17.0)  # of a node
SLOT = 10.0  # width and height of a slot
BAR = 18.0  # height of the embedding and the logits
LEFT, RIGHT, EDGE = 62.0, 14.0, 8.0  # margins: left with the names of layers
GUTTER, WIDEST = 10.0, 60.0  # between two columns, from none to many lanes
LANE, FREE, FEW = 2.8, 5.0, 80  # from one lane to the next, where there is room; the same of few wires, and how many
GAP, TALLEST, SHORT = 38.0, 130.0, 15.0  # above a row of heads, from few to many edges; above a row without edges
DEEP = 12  # layers with an edge from which on gaps are lower
NARROWEST = 340.0  # of all columns together

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle by its middle: of a node, a slot (``letter``), or the bar that heads share (no label)."""

    name: str
    label: str
    x: float
    y: float
    width: float
    height: float
    used: bool
    letter: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one wire, upwards: from ``start``, perhaps along the lane from ``enter`` to ``leave``, to ``end``."""

    start: Point
    end: Point
    enter: Point | None = None
    leave: Point | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything's place. ``routes`` stand in the order of the wires; ``labels`` are the names of layers."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    slots: tuple[Box, ...]
    labels: tuple[tuple[str, Point], ...]
    routes: tuple[Route, ...]


def lay_out(graph: Graph, wires: Sequence[Wire], *, letters: bool = True) -> Layout:
    """Places for these wires. Without ``letters`` no head has slots."""
    return _Plan(Grid(graph.shape, wires), wires, letters).layout()


class _Plan:
    """Lengths of a grid, which depend on how many lanes there are."""

    def __init__(self, grid: Grid, wires: Sequence[Wire], letters: bool) -> None:
        self.grid, self.wires, self.letters = grid, wires, letters
        self.shape, self.shared, self.last = grid.shape, grid.shared, grid.last
        self.rows, self.spots = grid.rows, grid.spots
        self.lanes = lanes_of([(self.spots[w.sender], self.spots[w.receiver]) for w in wires], grid.blocked(), grid.mlp)
        self.pairs = tuple(zip(wires, self.lanes, strict=True))

    def layout(self) -> Layout:
        lane = FREE if len(self.wires) <= FEW else LANE
        count = Counter((one.gutter, one.number) for one in self.lanes if one)
        lanes = Counter(gutter for gutter, _ in count)
        gutters = [min(WIDEST, max(GUTTER, 5 + lane * lanes[i])) for i in range(self.last + 2)]
        *_, taken = _left_of(gutters)
        columns = taken + BOX[0] * (self.last + 1)
        spare = max(0.0, NARROWEST - columns) / len(gutters)
        gutters = [gutter + spare for gutter in gutters]
        self.pitch = [min(lane, (gutters[i] - 4) / max(lanes[i], 1)) for i in range(len(gutters))]
        self.wide = dict(lanes)
        self.left = [LEFT + i * BOX[0] + left for i, left in enumerate(_left_of(gutters)[:-1])]  # of each gutter
        self.middles = [self.left[i] + gutters[i] + BOX[0] / 2 for i in range(self.last + 1)]
        self.gutter = [self.left[i] + gutters[i] / 2 for i in range(len(gutters))]
        self.right = self.left[self.last + 1] + gutters[-1]
        self._heights()
        boxes, slots = self._boxes()
        routes = self._routes()
        width, height = self.right + RIGHT, self.bottom[0] + EDGE
        return Layout(width, height, boxes, slots, tuple(self._labels()), routes)

    def _heights(self) -> None:
        """Top and bottom of every row, the logits at the top; a gap is as tall as the edges that turn in it need."""
        turning = Counter[int]()  # by the row below the gap
        for wire, lane in self.pairs:
            low, high = self.spots[wire.sender].row, self.spots[wire.receiver].row
            turning.update({low, lane.last if lane else high - 1})
        y = EDGE
        self.top, self.bottom = dict[int, float](), dict[int, float]()
        for row in reversed(range(len(self.rows))):
            line = self.rows[row]
            self.top[row] = y
            self.bottom[row] = y = y + self._height(line)
            if row:
                y += self._gap(row - 1, turning)

    def _height(self, row: Row) -> float:
        if row.kind in ("embed", "logits"):
            return BAR
        slots = (SLOT if self.letters else 0) + (SLOT + 3 if self.shared else 0)
        return BOX[1] + (slots if row.kind == "head" and row.used else 0)

    def _gap(self, row: int, turning: Mapping[int, int]) -> float:
        below, above = self.rows[row], self.rows[row + 1]
        if not (below.used and above.used) and not turning[row]:
            return SHORT * (0.5 if "mlp" in (below.kind, above.kind) else 1)
        half = 0.5 if "mlp" in (below.kind, above.kind) else 1.0
        least = GAP if len({line.layer for line in self.rows if line.used}) <= DEEP else 0.7 * GAP
        return half * min(TALLEST, least + 0.9 * turning[row])

    def _extent(self, spot: Spot) -> tuple[float, float]:
        """Left and right of what a spot spans."""
        if spot.bar:
            return self._across(spot.first), self._across(spot.last)
        return self.middles[int(spot.first)] - BOX[0] / 2, self.middles[int(spot.last)] + BOX[0] / 2

    def _across(self, column: float) -> float:
        """The border between columns as a length: -0.5 is the left end; with a fraction between two borders."""
        share = (column + 0.5) / (self.last + 1)
        return self.left[0] - 4 + share * (self.right - self.left[0] + 8)

    def _middle(self, spot: Spot) -> float:
        left, right = self._extent(spot)
        shift = {"q": -SLOT, "k": 0.0, "v": SLOT}.get(spot.letter, 0.0)
        if self.shared and spot.letter:
            shift = {"q": 0.0, "k": -SLOT / 2, "v": SLOT / 2}[spot.letter]
        return (left + right) / 2 + shift

    def _boxes(self) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
        boxes, slots = [], []
        arriving = {wire.receiver for wire in self.wires if wire.kept}
        used = used_by(self.shape, (wire for wire in self.wires if wire.kept))
        for name, spot in self.spots.items():
            top, (left, right), row = self.top[spot.row], self._extent(spot), self.rows[spot.row]
            if spot.bar:
                width = right - left - (4 if self.shape.split_embed and name != "logits" else 0)
                boxes.append(Box(name, name, (left + right) / 2, top + BAR / 2, width, BAR, True))
            elif spot.letter:
                if not (row.used and self._slotted(name, spot)):
                    continue
                slots.append(self._slot(name, spot, name in arriving))
            elif spot.shared:
                if any(wire.receiver in self._of_group(name) for wire in self.wires):
                    y = top + BOX[1] + (SLOT if self.letters else 0) + 1.5
                    boxes.append(Box(name, "", (left + right) / 2, y, right - left, 1.2, True))
            elif name in self.grid.used or self.grid.whole:
                label = name.partition(".")[2] or name
                boxes.append(Box(name, label, self._middle(spot), top + BOX[1] / 2, *BOX, name in used))
        return tuple(boxes), tuple(slots)

    def _of_group(self, name: str) -> list[str]:
        layer, head = numbers_of(name)
        return [name, *(f"a{layer}.h{head}<{letter}>" for letter in "kv")]

    def _slotted(self, name: str, spot: Spot) -> bool:
        """Whether an input has a slot: all three of a head with an edge do; of a shared bar those with an edge."""
        if not self.letters:
            return False
        if spot.shared:
            return any(wire.receiver == name for wire in self.wires)
        return name.split("<")[0] in self.grid.used

    def _slot(self, name: str, spot: Spot, used: bool) -> Box:
        middle = self._foot(spot) - SLOT / 2
        return Box(name, spot.letter, self._middle(spot), middle, SLOT, SLOT, used, spot.letter)

    def _labels(self) -> Iterator[tuple[str, Point]]:
        before = -1
        for row, line in enumerate(self.rows):
            if line.kind == "head" or (line.kind == "mlp" and line.layer != before):
                yield f"layer {line.layer}", (EDGE, self.top[row] + BOX[1] / 2)
                before = line.layer

    def _routes(self) -> tuple[Route, ...]:
        ways = [self._lane_x(lane) if lane else self._middle(self.spots[wire.receiver]) for wire, lane in self.pairs]
        leaving = _spread([wire.sender for wire in self.wires], ways)
        froms = [self._lane_x(lane) if lane else self._middle(self.spots[wire.sender]) for wire, lane in self.pairs]
        arriving = _spread([wire.receiver for wire in self.wires], froms)
        return tuple(self._route(i, ways[i], froms[i], leaving[i], arriving[i]) for i in range(len(self.wires)))

    def _route(self, number: int, way: float, back: float, leaving: float, arriving: float) -> Route:
        wire, lane = self.pairs[number]
        sender, receiver = self.spots[wire.sender], self.spots[wire.receiver]
        start = self._at(sender, way, leaving), self.top[sender.row]
        end = self._at(receiver, back, arriving), self._foot(receiver)
        if lane is None:
            return Route(start, end)
        x = self._lane_x(lane)
        return Route(start, end, (x, self.bottom[lane.first] + 2), (x, self.top[lane.last] - 2))

    def _at(self, spot: Spot, toward: float, share: float) -> float:
        """Where a wire leaves or enters: a bar where it is straight, a slot in its middle, a node in its own place."""
        if spot.bar:
            left, right = self._extent(spot)
            return min(max(toward, left + 5), right - 5)
        if spot.letter:
            return self._middle(spot)
        return self._middle(spot) + (share - 0.5) * 0.7 * BOX[0]

    def _foot(self, spot: Spot) -> float:
        """Where wires enter: the lower end of a bar, a node or a slot; below the line that heads share."""
        below = self.top[spot.row] + (BAR if spot.bar else BOX[1])
        if spot.letter:
            return below + SLOT + (SLOT + 3 if spot.shared else 0)
        return below + 3 if spot.shared else below

    def _lane_x(self, lane: Lane) -> float:
        lanes = self.wide[lane.gutter]
        return self.gutter[lane.gutter] + (lane.number - (lanes - 1) / 2) * self.pitch[lane.gutter]


def _left_of(gutters: Sequence[float]) -> list[float]:
    """What those left of each take, and last what all do; added one by one, as ``sum`` is not from Python 3.12 on."""
    return list(accumulate(gutters, initial=0.0))


def _spread(ends: Sequence[str], toward: Sequence[float]) -> list[float]:
    """For each wire its share (0 to 1) of the border of the node at its end, so that neighbours do not cross there."""
    share: dict[int, float] = {}
    members: dict[str, list[int]] = {}
    for i, end in enumerate(ends):
        members.setdefault(end, []).append(i)
    for group in members.values():
        for place, i in enumerate(sorted(group, key=lambda i: (toward[i], i))):
            share[i] = (place + 0.5) / len(group)
    return [share[i] for i in range(len(ends))]
