"""The stages of a search on its way from the output down: trials of one stage may share a wave."""

from __future__ import annotations

from pahq.circuits.graph import Graph
from pahq.engine.base import Stage


def stages(graph: Graph) -> list[Stage]:
    """The order in which a search comes down the graph (``pahq.circuits.order.visits``), by stage."""
    order: list[Stage] = [("logits", -1, "", False)]
    for layer in reversed(range(graph.shape.layers)):
        if graph.shape.mlp:
            order.append(("mlp", layer, "", False))
        order += [("head", layer, letter, direct) for direct in (True, False) for letter in "vkq"]
    return order
