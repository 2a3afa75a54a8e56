"""The current state of a search: what every node that has been visited computes now.

Upstream of the receiver under test everything is clean and nothing is stored. ``need[s]`` says at which positions
sender s still matters: 0 nowhere, 1 at the last position alone, 2 everywhere. It is final when s is visited, since all
its children have been visited by then: a metric on the last position reaches earlier ones through k and v only.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.engine.suffix.clean import CleanRun
from pahq.graph import Graph, Receiver

NOWHERE, LAST, EVERYWHERE = 0, 1, 2


def at_need(x: Float[Tensor, "*batch pos d"], need: int) -> Float[Tensor, "*batch some d"]:
    """The positions that ``need`` asks for (a tensor that holds the last one alone stays as it is)."""
    return x if need == EVERYWHERE else x[..., -1:, :]


class State:
    """Mutable, and private to one engine."""

    def __init__(self, problem: Problem, clean: CleanRun, *, positions: bool = True) -> None:
        graph = problem.graph
        self.graph: Graph = graph
        self.clean = clean
        layers = range(graph.shape.layers)
        self.z = [clean.z[layer].clone() for layer in layers]
        self.projections = [{letter: x.clone() for letter, x in clean.projections[layer].items()} for layer in layers]
        self.mlp = {layer: x.clone() for layer, x in clean.mlp.items()}
        self.inputs: dict[Receiver, Tensor] = {}  # current input of every visited receiver, at its need
        self.present: dict[Receiver, list[bool]] = {}  # by sender, for every visited receiver
        self.online: dict[Receiver, bool] = {receiver: True for receiver in graph.head_inputs}
        self.children: list[list[Receiver]] = [[] for _ in graph.senders]  # visited receivers, present edges
        self.need = [NOWHERE] * len(graph.senders)
        self._output_need = LAST if positions and problem.prompts.last_only else EVERYWHERE

    def first_sender(self, layer: int) -> int:
        """Index of the layer's head 0 among the senders."""
        return self.graph.upstream(Receiver("head", layer, 0, "q"))

    def receiver_need(self, receiver: Receiver) -> int:
        """At which positions the receiver's input matters."""
        if receiver.kind == "logits":
            return self._output_need
        first = self.graph.upstream(receiver)
        if receiver.kind == "mlp":
            return self.need[first]
        heads = self.graph.shape.query_heads(receiver.letter, receiver.head)
        need = max(self.need[first + head] for head in heads)
        return need if receiver.letter == "q" or need == NOWHERE else EVERYWHERE

    def settle(self, sender: int) -> int:
        """Fix ``need`` of a sender whose children have all been visited."""
        self.need[sender] = max((self.receiver_need(child) for child in self.children[sender]), default=NOWHERE)
        return self.need[sender]

    def clean_input(self, receiver: Receiver) -> Float[Tensor, "batch pos d_model"]:
        if receiver.kind == "logits":
            return self.clean.final
        stream = self.clean.resid_mid if receiver.kind == "mlp" else self.clean.resid_pre
        return stream[receiver.layer]

    def open(self, receiver: Receiver) -> None:
        """Begin testing a receiver's edges: all present, everything upstream clean."""
        if receiver not in self.present:
            self.present[receiver] = [True] * self.graph.upstream(receiver)
            self.inputs[receiver] = at_need(self.clean_input(receiver), self.receiver_need(receiver))

    def close(self, receiver: Receiver) -> None:
        """All edges of a receiver are decided: from now on changes of its senders reach it."""
        for sender, present in enumerate(self.present[receiver]):
            if present:
                self.children[sender].append(receiver)

    def take(self, edge: int) -> None:
        """Note that an edge is gone (the values follow by ``SuffixEngine``)."""
        gone = self.graph.edges[edge]
        if gone.sender is None:
            self.online[gone.receiver] = False
            return
        if gone.receiver in self.present:
            self.present[gone.receiver][edge - self.graph.incoming(gone.receiver)[0]] = False


def overwrite(place: Tensor, value: Tensor) -> None:
    """Overwrite the positions that ``value`` holds: all, or the last one."""
    if place.shape[-2] == value.shape[-2]:
        place.copy_(value)
    else:
        place[..., -1:, :].copy_(value)
