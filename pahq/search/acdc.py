"""ACDC, one test at a time (Conmy et al. 2023, arXiv 2304.14997, algorithm 1 and its code).

Pure: it asks an engine for losses and yields decisions. No tensors, no files, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, Receiver
from pahq.circuits.order import Order, Visit, sender_order, visits
from pahq.engine.base import Engine, Trial
from pahq.errors import PahqError
from pahq.search.rounds import Rounds, stages_of


@dataclass(frozen=True, slots=True)
class Decision:
    """One test: the loss before and after removing ``edge`` (an index of the graph), and what became of it.

    ``audited``: full precision decided (``pahq.search.band``), and ``low``, if it was measured too, are the losses
    before and after in low precision. ``drift``, noted with a few decisions by engines that carry a loss along: the
    largest difference so far between such a loss and the same computed anew. ``rough``: the losses before and after as
    the deciding engine had them, where they were within float noise of the threshold and float64 decided
    (``pahq.search.doubt``).
    """

    index: int
    edge: int
    before: float
    after: float
    removed: bool
    audited: bool = False
    low: tuple[float, float] | None = None
    drift: float | None = None
    rough: tuple[float, float] | None = None

    @property
    def effect(self) -> float:
        return self.after - self.before

    @property
    def left(self) -> float:
        """The searching engine's loss when the test is over."""
        before, after = self.low or self.rough or (self.before, self.after)
        return after if self.removed else before


Judge = Callable[[Decision], Decision]  # from the decision as the engine saw it to the one that stands


def as_measured(decision: Decision) -> Decision:
    """The judge of an ordinary search: every decision stands."""
    return decision


def is_removed(effect: float, threshold: float, *, absolute: bool = False) -> bool:
    """ACDC's rule: an edge goes when its effect is strictly below the threshold; NaN keeps it.

    Without ``absolute`` a harmful edge (negative effect) always goes.
    """
    return (abs(effect) if absolute else effect) < threshold


def margin(effect: float, threshold: float, *, absolute: bool = False) -> float:
    """How far an effect lies from the threshold; a decision within float noise of it could fall either way."""
    return abs((abs(effect) if absolute else effect) - threshold)


class Liveness:
    """Which nodes still reach the output, as the search takes edges away.

    A node without any present edge to a child is disconnected: its incoming edges go untested, and this cascades.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._children = [0] * len(graph.senders)  # present Addition edges leaving each sender
        for receiver in graph.receivers:
            for sender in range(graph.upstream(receiver)):
                self._children[sender] += 1
        self._offline: set[Receiver] = set()  # head inputs whose Direct edge is gone

    def needed(self, visit: Visit) -> bool:
        """Whether the node of this visit is still connected, so that its edges are to be tested."""
        receiver = visit.receiver
        if receiver.kind == "logits":
            return True
        if not any(self._children[sender] for sender in self.graph.outputs(receiver)):
            return False
        return visit.direct or receiver not in self._offline

    def take(self, edge: int) -> None:
        """Note that ``edge`` is gone."""
        gone = self.graph.edges[edge]
        if gone.sender is None:
            self._offline.add(gone.receiver)
        else:
            self._children[self.graph.sender_index[gone.sender]] -= 1


def visit_edges(graph: Graph, visit: Visit, order: Order) -> list[int]:
    """Edge indices of one visit, in testing order."""
    if visit.direct:
        edge = graph.direct(visit.receiver)
        return [] if edge is None else [edge]
    first = graph.incoming(visit.receiver)[0]
    return [first + sender for sender in sender_order(graph, visit.receiver, order)]


def acdc(
    engine: Engine,
    order: Order,
    threshold: float,
    *,
    absolute: bool = False,
    focus: Callable[[int], Hashable] = lambda edge: None,
    done: Sequence[Decision] = (),
    judge: Judge = as_measured,
    round_size: int | None = None,
) -> Iterator[Decision]:
    """Test every connected edge once, from the output down; yield each decision as it falls.

    effect = loss without the edge - current loss; an effect below the threshold removes the edge for good. ``focus``
    names what runs in full precision while an edge is under test: where it changes, the current state is measured again
    under the new focus first, so that no change of precision is booked on an edge.
    ``done`` resumes: decisions already taken are applied, checked against the order, and not yielded again.
    ``judge`` sees every new decision in its turn and may replace it. ``round_size``: see ``pahq.search.rounds``.
    Raises PahqError if ``done`` belongs to another search.
    """
    graph, live = engine.graph, Liveness(engine.graph)
    past, rounds = iter(done), Rounds(round_size, stages_of(graph))
    index, current, in_focus = 0, float("nan"), None
    for visit in visits(graph):
        edges = visit_edges(graph, visit, order)
        if not live.needed(visit):
            for edge in edges:
                live.take(edge)
            if edges and rounds.begins(edges[0]):
                engine.remove(rounds.over())
            engine.remove(edges)
            continue
        for edge in edges:
            begins = rounds.begins(edge)
            if begins:
                engine.remove(rounds.over())
            decision = next(past, None)
            if decision is None:
                wanted, waiting = focus(edge), tuple(rounds.waiting)
                if index == 0 or begins or wanted != in_focus:
                    current = engine.measure([Trial(edge, waiting)])[0]
                after = engine.measure([Trial(edge, (*waiting, edge))])[0]
                removed = is_removed(after - current, threshold, absolute=absolute)
                decision = judge(Decision(index, edge, current, after, removed))
                yield decision
            else:
                check_done(graph, decision, index, edge)
            if decision.removed:
                live.take(edge)
            rounds.decided(edge, decision.removed)
            if rounds.at_once:
                engine.remove(rounds.over())
            current = decision.left
            in_focus = focus(edge)
            index += 1
    if next(past, None) is not None:
        raise PahqError(f"{len(done)} decisions are recorded, this search has {index} tests")


def check_done(graph: Graph, decision: Decision, index: int, edge: int) -> None:
    """Raise PahqError unless a recorded decision is the one that this search would take now."""
    if decision.edge != edge or decision.index != index:
        name = graph.edges[edge]
        raise PahqError(f"the recorded decision {decision.index} is not this search's test {index} of {name}")


def circuit_of(graph: Graph, decisions: Iterable[Decision]) -> Circuit:
    """The circuit that a finished search found: an edge is present if it was tested and kept."""
    return Circuit.from_indices(graph, (decision.edge for decision in decisions if not decision.removed))
