"""An engine of a few lines: what each edge's removal costs is given, and a twin of it has other costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.engine.base import Trial

GRAPH = build_graph(ModelShape(2, 2, 2, True))


class Costs:
    """Loss = ``start`` + what the edges that are gone cost; ``asked`` lists what it was asked, in order.

    Edges of nodes that no longer reach the logits cost nothing, whether they are gone or not. ``shift``, of a tested
    edge, is added to every loss, as a change of precision would.
    """

    def __init__(
        self,
        cost: Sequence[float],
        start: float = 0.0,
        graph: Graph = GRAPH,
        shift: Callable[[int], float] = lambda edge: 0.0,
    ) -> None:
        self.graph, self.cost, self.start, self.shift = graph, cost, start, shift
        self.gone: list[int] = []
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        self.asked += [("measure", trial.removed) for trial in trials]
        return [self.start + self.shift(trial.edge) + self.loss({*self.gone, *trial.removed}) for trial in trials]

    def loss(self, gone: set[int]) -> float:
        """What is gone costs, as far as it still could reach the logits."""
        graph, total = self.graph, 0.0
        used = [False] * len(graph.senders)
        for receiver in reversed(graph.receivers):
            if receiver.kind != "logits" and not any(used[sender] for sender in graph.outputs(receiver)):
                continue
            direct = graph.direct(receiver) if receiver.kind == "head" else None
            if direct in gone:
                total += self.cost[direct]
                continue
            for sender, edge in enumerate(graph.incoming(receiver)):
                used[sender] |= edge not in gone
                total += self.cost[edge] if edge in gone else 0.0
        return total

    def remove(self, edges: Sequence[int]) -> None:
        self.asked.append(("remove", tuple(edges)))
        self.gone += edges

    def window(self, edge: int) -> int:
        return 8

    @property
    def measured(self) -> int:
        return sum(kind == "measure" for kind, _ in self.asked)


def making(engine: Costs, made: list[Costs]) -> Callable[[], Costs]:
    """Gives ``engine`` and says so."""

    def make() -> Costs:
        made.append(engine)
        return engine

    return make
