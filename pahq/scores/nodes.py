"""From numbers of nodes to scores of edges: an edge is worth as much as the lesser of its two ends."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver

MOST = 1.0  # of the embedding and of the logits, which have no number of their own: no node has more


def edge_scores(graph: Graph, inputs: Mapping[Receiver, float], outputs: Mapping[int, float]) -> Float[Tensor, " edge"]:
    """The score of every edge, in float64: where nodes go from the least on, it goes with the first of its ends.

    ``inputs``: of heads' q, k and v. ``outputs``: of heads and MLPs, by their index as senders; an MLP is one node.
    """

    def reads(receiver: Receiver) -> float:
        if receiver.kind == "mlp":
            (sender,) = graph.outputs(receiver)
            return outputs[sender]
        return inputs.get(receiver, MOST)

    sends = [outputs.get(at, MOST) for at in range(len(graph.senders))]
    by_edge = [
        reads(edge.receiver)
        if edge.sender is None
        else min(sends[graph.sender_index[edge.sender]], reads(edge.receiver))
        for edge in graph.edges
    ]
    return torch.tensor(by_edge, dtype=torch.float64)
