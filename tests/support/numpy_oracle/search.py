"""ACDC's greedy search, one test at a time, on plain functions of a set of edges.

effect = loss without the edge - loss with it, both under the focus of the edge under test, so that no change of
precision is ever booked on an edge. An effect strictly below the threshold removes the edge for good; NaN keeps it. A
node without any present edge to a child is disconnected: its incoming edges go untested, and this cascades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from support.numpy_oracle.circuit import NONE, Focus
from support.numpy_oracle.graph import Shape, Visit, edges, head_of, readers, visits

Loss = Callable[[frozenset[str], Focus], float]  # of the edges present, under a focus


@dataclass(frozen=True)
class Rule:
    """The settings of a search. ``focus``: none, receiver, sender or both."""

    threshold: float
    absolute: bool = False
    heads: str = "descending"
    nearest: bool = True
    focus: str = "none"

    def margin(self, effect: float) -> float:
        """How far an effect lies above (or, negative, below) the threshold."""
        return (abs(effect) if self.absolute else effect) - self.threshold

    def removes(self, effect: float) -> bool:
        return (abs(effect) if self.absolute else effect) < self.threshold


@dataclass(frozen=True)
class Test:
    """One test: the edge, the losses with and without it, and what the rule says."""

    edge: str
    before: float
    after: float
    removed: bool

    @property
    def effect(self) -> float:
        return self.after - self.before


def focus_of(shape: Shape, edge: str, rule: str) -> Focus:
    """The heads in full precision while an edge is under test, by layer and key-value head: those of one key-value
    head share its keys and values, so they come together. Edges into an MLP or the logits have no receiver's head."""
    sender, _, receiver = edge.rpartition("->")
    nodes = []
    if rule in ("receiver", "both") or (rule == "sender" and not sender):
        nodes.append(receiver)
    if rule in ("sender", "both"):
        nodes.append(sender)
    places = [head_of(node) for node in nodes]
    return frozenset(
        (layer, index if letter in ("k", "v") else shape.group(index))
        for layer, index, letter in (place for place in places if place)
    )


def search(shape: Shape, loss: Loss, rule: Rule, taken: Sequence[bool] | None = None) -> Iterator[Test]:
    """Every test in its order. ``taken`` replays another search: its decisions make the states, and each test says what
    the rule makes of that state. A test that is due behind the last of those decisions ends the replay."""
    present = frozenset(edges(shape))
    index = 0
    for visit in visits(shape, rule.heads, rule.nearest):
        if not connected(shape, present, visit):
            present -= set(visit.edges)
            continue
        for edge in visit.edges:
            focus = focus_of(shape, edge, rule.focus)
            before, after = loss(present, focus), loss(present - {edge}, focus)
            test = Test(edge, before, after, rule.removes(after - before))
            yield test
            if taken is not None and index >= len(taken):
                return
            if test.removed if taken is None else taken[index]:
                present -= {edge}
            index += 1


def connected(shape: Shape, present: frozenset[str], visit: Visit) -> bool:
    """Whether the node of a visit still reaches the output: what it feeds has a present edge to a child, and, for an
    input of a head, the Direct edge to its projection is there."""
    if visit.receiver == "logits":
        return True
    if not any(edge.startswith(f"{node}->") for node in readers(shape, visit.receiver) for edge in present):
        return False
    return visit.direct or head_of(visit.receiver) is None or not shape.direct or visit.receiver in present


def remembered(loss: Loss) -> Loss:
    """The same, each state computed once."""
    known: dict[tuple[frozenset[str], Focus], float] = {}

    def recall(present: frozenset[str], focus: Focus = NONE) -> float:
        if (present, focus) not in known:
            known[present, focus] = loss(present, focus)
        return known[present, focus]

    return recall
