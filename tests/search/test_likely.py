"""What is guessed of an edge from its like."""

from __future__ import annotations

from pahq.circuits.graph import Graph, ModelShape, Receiver, build_graph
from pahq.search.likely import Likely


def edge_of(graph: Graph, receiver: Receiver, sender: int) -> int:
    return graph.incoming(receiver)[0] + sender


def test_most_of_an_edges_like_say_what_becomes_of_it() -> None:
    graph = build_graph(ModelShape(2, 3, 3, mlp=True))
    likely = Likely(graph)
    first, second, third = (edge_of(graph, Receiver("head", 1, head, "v"), 2) for head in (2, 1, 0))
    assert not likely.kept(first)  # nothing is known
    likely.decided(first, removed=False)
    assert likely.kept(second)
    likely.decided(second, removed=True)
    assert not likely.kept(third)  # one each
    likely.decided(edge_of(graph, Receiver("head", 1, 0, "k"), 2), removed=False)
    assert likely.kept(third)  # its own head listens to that sender at another letter


def test_other_senders_layers_and_nodes_are_not_its_like() -> None:
    graph = build_graph(ModelShape(2, 3, 3, mlp=True))
    likely = Likely(graph)
    likely.decided(edge_of(graph, Receiver("head", 1, 0, "v"), 0), removed=False)
    others = [
        edge_of(graph, Receiver("head", 1, 0, "v"), 1),
        edge_of(graph, Receiver("head", 1, 1, "q"), 0),
        edge_of(graph, Receiver("head", 0, 0, "v"), 0),
        edge_of(graph, Receiver("mlp", 1), 0),
        edge_of(graph, Receiver("logits"), 0),
    ]
    assert not any(map(likely.kept, others))
    direct = graph.direct(Receiver("head", 1, 0, "v"))
    assert direct is not None
    likely.decided(direct, removed=False)
    assert not likely.kept(direct)
