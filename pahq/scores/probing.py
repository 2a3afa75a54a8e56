"""Subnetwork probing (Cao et al. 2021, arXiv 2104.03514), as ACDC's paper sets it beside ACDC: a mask a node.

Nodes are the q, k and v of every head (with grouped heads one k and v a key-value head) and the output of every MLP. A
mask blends what the node computes with its ablated value. The loss is the problem's, plus ``regularisation`` times the
expected share of masks that are not 0. Weights are not trained.

An edge's score follows from its ends, as ACDC's code (``iterative_correspondence_from_mask``) turns nodes into edges:
a masked node takes all its edges with it, on both sides, and the output of a head is masked where its q, k and v all
are. So with p the probability that a mask is not 0, the score is the smaller one of its ends' p, a head's being the
largest of its q, k and v. The threshold at which an edge goes is then the one at which ACDC's code lets it go; a
product of the ends would order edges otherwise. Embeddings and logits have no mask: there p is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.circuits.graph import Graph, Node
from pahq.scores.nodes import edge_scores

BEGIN = 0.9  # share of a mask that is there before the first step, as in the code of both papers


@dataclass(frozen=True)
class Probing:
    """``graph``: whose nodes are masked."""

    graph: Graph
    steps: int
    learning_rate: float
    regularisation: float
    rate_of_multipliers: float = 0.0

    @cached_property
    def _mlps(self) -> tuple[int, ...]:
        """The MLPs, as senders."""
        return tuple(at for at, node in enumerate(self.graph.senders) if node.kind == "mlp")

    @cached_property
    def _masks_of_senders(self) -> Int[Tensor, " edge"]:
        """By Addition edge, the mask of its sender; the number of masks where that has none."""
        inputs, count = len(self.graph.head_inputs), len(self.graph.head_inputs) + len(self._mlps)
        by_sender = {Node("mlp", self.graph.senders[at].layer): inputs + i for i, at in enumerate(self._mlps)}
        edges = self.graph.edges[: self.graph.n_addition]
        return torch.tensor([count if edge.sender is None else by_sender.get(edge.sender, count) for edge in edges])

    def start(self) -> Float[Tensor, " mask"]:
        return torch.full((len(self.graph.head_inputs) + len(self._mlps),), BEGIN).logit()

    def multipliers(self) -> Float[Tensor, " multiplier"]:
        return torch.zeros(0)

    def spread(self, masks: Float[Tensor, " mask"]) -> tuple[Float[Tensor, " edge"], Float[Tensor, " input"] | None]:
        projections = masks[: len(self.graph.head_inputs)]
        edges = torch.cat((masks, masks.new_ones(1)))[self._masks_of_senders.to(masks.device)]
        return (torch.cat((edges, projections)), None) if self.graph.n_direct else (edges, projections)

    def penalty(self, present: Float[Tensor, " mask"], multipliers: Tensor, step: int) -> Float[Tensor, ""]:
        return self.regularisation * present.mean()

    def scores(self, present: Float[Tensor, " mask"]) -> Float[Tensor, " edge"]:
        count = len(self.graph.head_inputs)
        inputs = dict(zip(self.graph.head_inputs, present[:count].tolist(), strict=True))
        outputs = dict(zip(self._mlps, present[count:].tolist(), strict=True))
        for at, node in enumerate(self.graph.senders):
            if node.kind == "head":
                outputs[at] = max(inputs[receiver] for receiver in self.graph.own_inputs(at))
        return edge_scores(self.graph, inputs, outputs)
