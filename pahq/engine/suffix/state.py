"""The current state of a search: what every node computes now.

Upstream of the receiver under test everything is clean. ``need[s]`` says at which positions sender s still matters:
0 nowhere, 1 at the last position alone, 2 everywhere. It is final when s is visited, since all its children have been
visited by then: a metric on the last position reaches earlier ones through k and v only.

Before the first position at which any prompt differs from its corrupted twin nothing ever changes, and nothing is kept.

A head is kept as z, d_head wide; what its output differs by from the ablated run is one product with W_O away. Where a
norm stands behind the heads, its factor is in z, and ``raw`` holds z without it; all heads of such a layer matter where
one of them does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.engine.problem import Problem
from pahq.engine.suffix.gathered import Gathered
from pahq.engine.suffix.kept import KeptInputs
from pahq.engine.suffix.mixing import mix_heads, mixes_of
from pahq.engine.suffix.needs import EVERYWHERE, LAST, NOWHERE, at_need
from pahq.engine.suffix.streams import Streams
from pahq.model.block import Kind
from pahq.model.forward import project
from pahq.model.layerweights import LayerWeights
from pahq.model.rows import take
from pahq.model.run import run_senders, streams
from pahq.precision.store import NO_FOCUS, Focus


@dataclass(frozen=True, slots=True)
class Reader:
    """A visited receiver, its need, and the senders that it reads: as an array by sender, and as a bit each."""

    receiver: Receiver
    need: int
    reads: np.ndarray[Any, Any]
    mask: int


class State:
    """Mutable, and private to one engine. ``focus()`` is the one by which the current values were computed."""

    def __init__(
        self,
        problem: Problem,
        focus: Callable[[], Focus],
        *,
        positions: bool = True,
        input_bytes: int | None = None,
        gathered_bytes: int = 0,
        hold_streams: bool = True,
        hold_differences: bool = False,
    ) -> None:
        graph = problem.graph
        self.graph: Graph = graph
        self._first_senders = [graph.head_senders(layer).start for layer in range(graph.shape.layers)]
        self.config = problem.store.config
        self._store, self._focus = problem.store, focus
        self.first = first_change(problem) if positions else 0
        network, ablated = problem.store.network(), problem.corrupted_streams if hold_streams else None
        run = run_senders(network, problem.clean)
        # of all positions: earlier keys and values come from them
        self._streams = Streams(problem.store, run, streams(network, run) if hold_streams else None)
        self._ablated_streams = Streams(problem.store, problem.corrupted, ablated)
        run, self.corrupted = run.since(self.first), problem.corrupted.since(self.first)
        self.start, self.z, self.mlp, self.clean_final = run.start, list(run.z), list(run.mlp), run.final
        self.batch, self.length = run.final.shape[:2]
        self.raw: dict[int, Tensor] = {}  # z without the factor of a norm behind the heads, at need, by visited layer
        self.earlier: dict[int, Tensor] = {}  # keys, then values, before ``first``, by visited layer
        self.projections: dict[Receiver, Tensor] = {}  # of every visited head that is alive, at its need
        self.gathered = Gathered(gathered_bytes)
        self._hold_differences, self._differences = hold_differences, dict[int, Tensor]()  # by need, of all senders
        self.inputs = KeptInputs(self.clean_input, self.fresh_input, input_bytes)
        self.present: dict[Receiver, list[bool]] = {}  # by sender, for every visited receiver
        self.online: dict[Receiver, bool] = {receiver: True for receiver in graph.head_inputs}
        self.children: list[list[Receiver]] = [[] for _ in graph.senders]  # visited receivers, present edges
        self._readers: dict[tuple[str, int], list[Reader]] = {}  # by part of a layer
        self.need = [NOWHERE] * len(graph.senders)
        self._output_need = LAST if positions and problem.prompts.last_only else EVERYWHERE

    def first_sender(self, layer: int) -> int:
        """Index of the layer's head 0 among the senders."""
        return self._first_senders[layer]

    def receiver_need(self, receiver: Receiver) -> int:
        """At which positions the receiver's input matters."""
        if receiver.kind == "logits":
            return self._output_need
        need = max(self.need[sender] for sender in self.graph.outputs(receiver))
        return EVERYWHERE if receiver.letter in ("k", "v") and need != NOWHERE else need

    def settle(self, sender: int) -> int:
        """Fix ``need`` of a sender whose children have all been visited; of coupled heads with the first of a layer."""
        self.need[sender] = max((self.receiver_need(child) for child in self.children[sender]), default=NOWHERE)
        node = self.graph.senders[sender]
        if self.graph.shape.coupled and node.kind == "head" and node.head == 0:
            heads = self.graph.head_senders(node.layer)
            self.need[heads.start : heads.stop] = [max(self.need[at] for at in heads)] * len(heads)
        return self.need[sender]

    def enter(self, layer: int) -> None:
        """Begin visiting a layer's heads: clean projections of those that are alive."""
        self._streams.enter(layer)
        self._ablated_streams.enter(layer)
        earlier: list[Tensor] = []
        for letter in "qkv":
            receivers = [Receiver("head", layer, i, letter) for i in range(self.graph.shape.letter_heads(letter))]
            alive = [receiver for receiver in receivers if self.receiver_need(receiver) != NOWHERE]
            if not alive:
                continue
            stream = self._streams.read("heads", layer)[None]
            values = project(self.config, self._store.layer(layer, NO_FOCUS), letter, stream)
            for receiver in alive:
                value, need = values[receiver.head], self.receiver_need(receiver)
                self.projections[receiver] = at_need(value[:, self.first :], need).clone()
            if letter != "q" and self.first:
                earlier.append(values[:, :, : self.first])
        if earlier:
            self.earlier[layer] = torch.cat(earlier)
        if self.graph.shape.coupled and self.need[self.first_sender(layer)] != NOWHERE:
            (mix,) = mixes_of(self, layer)
            self.raw[layer] = mix_heads(self, layer, mix, {}).squeeze(1).clone()

    def position(self, need: int) -> int:
        """The first position that tensors at ``need`` hold."""
        return self.first if need == EVERYWHERE else self.first + self.length - 1

    def clean_input(self, receiver: Receiver) -> Float[Tensor, "batch some d_model"]:
        """The receiver's input in the unpatched run, at its need; to be asked for while its senders are clean."""
        if receiver.kind == "logits":
            return at_need(self.clean_final, self._output_need)
        stream = self._streams.read(_part(receiver), receiver.layer)
        return at_need(stream[:, self.first :], self.receiver_need(receiver))

    def fresh_input(self, receiver: Receiver) -> Float[Tensor, "batch some d_model"]:
        """The receiver's current input from its definition: ablated stream plus what its present senders differ by."""
        need = self.receiver_need(receiver)
        x = at_need(self.corrupted_stream(receiver), need)
        present = [sender for sender, there in enumerate(self.present[receiver]) if there]
        for piece in self._pieces(present, need, together=True):
            x = x + piece[0]
        return x

    def corrupted_stream(self, receiver: Receiver) -> Float[Tensor, "batch pos d_model"]:
        """The receiver's input in the ablated run."""
        if receiver.kind == "logits":
            return self.corrupted.final
        return self._ablated_streams.read(_part(receiver), receiver.layer)[:, self.first :]

    def difference(self, senders: Sequence[int], need: int) -> Float[Tensor, "sender batch some d_model"]:
        """What the current outputs of ``senders`` (ascending) differ by from the ablated run.

        Of senders that have not been visited it stays as it is, and may be held: see ``clean_difference``.
        """
        pieces = self._pieces(senders, need)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def clean_difference(self, senders: Sequence[int], need: int) -> Float[Tensor, "sender batch some d_model"]:
        """The same of senders that are clean: none has been visited."""
        if not self._hold_differences:
            return self.difference(senders, need)
        if not self._differences:
            every = self.difference(range(len(self.graph.senders)), EVERYWHERE)
            self._differences = {EVERYWHERE: every, LAST: every[..., -1:, :].clone()}
        return take(self._differences[need], senders)

    def _pieces(self, senders: Sequence[int], need: int, *, together: bool = False) -> list[Tensor]:
        """``difference`` layer by layer, a layer's heads in one product; ``together`` adds a layer's heads up."""
        pieces: list[Tensor] = []
        nodes = self.graph.senders
        for (kind, layer), members in groupby(senders, key=lambda s: (nodes[s].kind, nodes[s].layer)):
            if kind == "head":
                heads = [nodes[sender].head for sender in members]
                pieces.append(self._head_pieces(layer, heads, need, together))
            elif kind == "mlp":
                pieces.append((at_need(self.mlp[layer], need) - at_need(self.corrupted.mlp[layer], need))[None])
            else:
                for sender in members:
                    pieces.append((at_need(self.start[sender] - self.corrupted.start[sender], need))[None])
        return pieces

    def _head_pieces(self, layer: int, heads: list[int], need: int, together: bool) -> Tensor:
        z, ablated = (take(at_need(of.z[layer], need), heads) for of in (self, self.corrupted))
        weights, focus = self._store.layer(layer, NO_FOCUS), self._focus()
        low, behind = weights.sending(heads), weights.behind
        if all(at != layer for at, _ in focus):
            return behind(_through(z - ablated, low, together))
        high = self._store.layer(layer, focus).sending(heads)
        return behind(_through(z, high, together) - _through(ablated, low, together))

    def weights(self, layer: int) -> LayerWeights:
        """A layer's weights by which the current values were computed."""
        return self._store.layer(layer, self._focus())

    def open(self, receiver: Receiver) -> None:
        """Begin testing a receiver's edges: all present, everything upstream clean."""
        if receiver not in self.present:
            self.present[receiver] = [True] * self.graph.upstream(receiver)
            self.inputs.open(receiver)

    def pin(self, receivers: Iterable[Receiver]) -> bool:
        """Whether their inputs stay where they are from here on, as all else does while a stage is searched."""
        return all([self.inputs.pin(receiver) for receiver in receivers])

    def close(self, receiver: Receiver) -> None:
        """All edges of a receiver are decided: from now on changes of its senders reach it."""
        reads, mask = np.zeros(len(self.graph.senders), bool), 0
        for sender, present in enumerate(self.present[receiver]):
            if present:
                self.children[sender].append(receiver)
                reads[sender], mask = True, mask | 1 << sender
        part = receiver.kind if receiver.kind == "logits" else _part(receiver)
        reader = Reader(receiver, self.receiver_need(receiver), reads, mask)
        self._readers.setdefault((part, receiver.layer), []).append(reader)

    def readers(self, part: str, layer: int) -> list[Reader]:
        """The visited receivers of a part of a layer (heads, mlp; logits) that edges are left of."""
        return self._readers.get((part, layer), [])

    def take(self, edge: int) -> None:
        """Note that an edge is gone (the values follow by ``SuffixEngine``)."""
        gone = self.graph.edges[edge]
        if gone.sender is None:
            self.online[gone.receiver] = False
            return
        if gone.receiver in self.present:
            self.present[gone.receiver][edge - self.graph.incoming(gone.receiver)[0]] = False


def _part(receiver: Receiver) -> Kind:
    """The part of a layer that the receiver's input belongs to."""
    return "mlp" if receiver.kind == "mlp" else "heads"


def first_change(problem: Problem) -> int:
    """The first position that can change at all, or that a metric reads.

    A causal network computes the same on a prompt and its corrupted twin up to their first difference. Not so where
    ablated values are not a run of their own (zero, mean), where positions are permuted, or where a head's weights
    change with the focus.
    """
    prompts, exact = problem.prompts, problem.focus == "none" or problem.store.uniform
    if not problem.paired or not problem.store.config.causal or not exact:
        return 0
    differs = (prompts.clean != prompts.corrupted).any(0).nonzero()
    first = int(differs[0, 0]) if len(differs) else prompts.clean.shape[1]
    return min(first, int(prompts.items[:, 1].min()))


def _through(
    z: Float[Tensor, "head batch pos d_head"], W_O: Float[Tensor, "head d_head d_model"], together: bool
) -> Tensor:
    """Heads' outputs [head, batch, pos, d_model], or their sum with a leading axis of 1."""
    if together:
        wide = z.permute(1, 2, 0, 3).flatten(2)
        return (wide @ W_O.flatten(0, 1))[None]
    return torch.bmm(z.flatten(1, 2), W_O).view(*z.shape[:3], -1)
