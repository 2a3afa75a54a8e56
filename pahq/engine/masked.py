"""The patched forward with a real number for every edge, in which gradients flow: what learning of masks stands on.

The input of receiver r is its ablated residual stream plus, over the edges s->r, the edge's mask times what s computes
in this very forward less its ablated value. Masks of 0 and 1 are the reference engine's absent and present edges
(``pahq.engine.reference``, the slow twin); in between, the receiver reads a blend. The mask of a Direct edge blends the
head's projection with its ablated one.

All receivers of a layer's letter read in one product, of their masks and of what senders differ by. These differences
stand in one place for all receivers, as do their gradients on the way back, so that memory grows as senders do and not
as edges do. Positions before the first that can change are left out, as in the suffix engine: there all values are the
ablated ones. Autograd is told by a token in which order the two are written and read: a sender's gradient is taken only
when all its receivers have added theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import LETTERS, Receiver
from pahq.engine.problem import Problem
from pahq.engine.suffix.state import first_change
from pahq.model.forward import head_outputs, mix, mlp, project
from pahq.model.layerweights import LayerWeights


def masked_logits(
    problem: Problem, masks: Float[Tensor, " edge"], *, projections: Float[Tensor, " head_input"] | None = None
) -> Float[Tensor, "item vocab"]:
    """Logits where the metric reads, differentiable in the masks; see ``masked_stream``."""
    return problem.item_logits(masked_stream(problem, masks, projections=projections))


def masked_stream(
    problem: Problem, masks: Float[Tensor, " edge"], *, projections: Float[Tensor, " head_input"] | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """The final residual stream with a mask for every edge of the problem's graph, differentiable in the masks.

    ``projections``: masks of all heads' projections (in the order of ``graph.head_inputs``), for a graph whose edges
    have none of their own since it has no Direct edges. Weights are those of the problem's network without a focus.
    """
    graph = problem.graph
    masks = masks.to(problem.corrupted.final)
    if graph.n_direct:
        masks, projections = masks[: graph.n_addition], masks[graph.n_addition :]
    elif projections is not None:
        projections = projections.to(masks)
    forward = _Masked(problem, masks, projections)
    for index, layer in enumerate(problem.store.network().layers):
        for part in problem.store.config.parts:
            if part.kind == "heads":
                forward.heads(index, layer)
            else:
                forward.mlp(index, layer)
    return forward.final()


@dataclass
class _Shared:
    """What senders compute less their ablated values, and, on the way back, the gradients of that."""

    differences: Float[Tensor, "sender batch*pos*d_model"]
    gradients: Float[Tensor, "sender batch*pos*d_model"] | None = None

    def add(self, gradients: Float[Tensor, "sender batch*pos*d_model"], masks: Tensor) -> None:
        """Add what a receiver's gradients are to its senders. The logits come first, and read all senders."""
        if len(masks.T) == len(self.differences):
            self.gradients = masks.T @ gradients
        else:
            assert self.gradients is not None
            self.gradients[: len(masks.T)].addmm_(masks.T, gradients)


class _Masked:
    """One masked forward."""

    def __init__(self, problem: Problem, masks: Tensor, projections: Tensor | None) -> None:
        self._problem, self._graph, self._config = problem, problem.graph, problem.store.config
        self._masks, self._projections = masks, projections
        self._first = first_change(problem)
        self._ablated = problem.corrupted_senders[:, :, self._first :]
        self._heads_read, self._mlp_reads = problem.corrupted_streams
        self._shared = _Shared(torch.empty_like(self._ablated).flatten(1))
        self._token = masks.new_zeros(())
        for i, embedded in enumerate(problem.clean):
            self._shared.differences[i] = (embedded[:, self._first :] - self._ablated[i]).flatten()

    def read(self, ablated: Tensor, receivers: list[Receiver]) -> Float[Tensor, "receiver batch pos d_model"]:
        """The inputs of receivers that have the same senders upstream, from their input in the ablated run."""
        graph, ablated = self._graph, ablated[:, self._first :]
        upstream, first = graph.upstream(receivers[0]), graph.incoming(receivers[0]).start
        masks = self._masks[first : first + upstream * len(receivers)].view(-1, upstream)
        changes: Tensor = _Read.apply(masks, self._token, self._shared)  # type: ignore[no-untyped-call]
        return ablated + changes.view(-1, *ablated.shape)

    def final(self) -> Float[Tensor, "batch pos d_model"]:
        """The final residual stream, at all positions."""
        ablated = self._problem.corrupted.final
        (late,) = self.read(ablated, [Receiver("logits")])
        return torch.cat((ablated[:, : self._first], late), dim=1)

    def heads(self, index: int, layer: LayerWeights) -> None:
        """Compute a layer's heads from their inputs."""
        at = {letter: self._project(index, layer, letter) for letter in LETTERS}
        z = mix(self._config, layer, at["q"], at["k"], at["v"])
        self._write(head_outputs(layer, z), self._graph.head_senders(index))

    def mlp(self, index: int, layer: LayerWeights) -> None:
        """Compute a layer's MLP from its input."""
        receiver = Receiver("mlp", index)
        (x,) = self.read(self._mlp_reads[index], [receiver])
        self._write(mlp(self._config, layer, x)[None], self._graph.outputs(receiver))

    def _project(self, index: int, layer: LayerWeights, letter: str) -> Float[Tensor, "letter_head batch pos d_head"]:
        graph = self._graph
        receivers = [Receiver("head", index, head, letter) for head in range(graph.shape.letter_heads(letter))]
        out = project(self._config, layer, letter, self.read(self._heads_read[index], receivers), first=self._first)
        if self._projections is not None:
            at = graph.head_inputs.index(receivers[0])
            mask = self._projections[at : at + len(receivers), None, None, None]
            late = self._problem.corrupted_projections[index][letter][:, :, self._first :]
            out = late + mask * (out - late)
        if letter == "q" or not self._first:
            return out
        return torch.cat((self._problem.corrupted_projections[index][letter][:, :, : self._first], out), dim=2)

    def _write(self, outputs: Float[Tensor, "sender batch pos d_model"], senders: range) -> None:
        place = slice(senders.start, senders.stop)
        changes = (outputs - self._ablated[place]).flatten(1)
        self._token = _Write.apply(changes, self._token, self._shared, place)  # type: ignore[no-untyped-call]


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, masks: Tensor, token: Tensor, shared: _Shared) -> Tensor:
        ctx.save_for_backward(masks)
        ctx.shared = shared
        return masks @ shared.differences[: masks.shape[1]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (masks,), shared = ctx.saved_tensors, ctx.shared
        upstream = masks.shape[1]
        shared.add(gradient, masks)
        return gradient @ shared.differences[:upstream].T, gradient.new_zeros(()), None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, changes: Tensor, token: Tensor, shared: _Shared, place: slice) -> Tensor:
        ctx.shared, ctx.place = shared, place
        shared.differences[place] = changes
        return token.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return ctx.shared.gradients[ctx.place], gradient, None, None
