"""The reference for ``method.arithmetic=changes``: two whole patched forwards, side by side, for each trial.

The first is of the current state, in full precision. The second is of the trial. Whatever it computes is what the first
has computed, plus what low-precision weights make of the difference of the two: of normed inputs, of heads before their
output, of hidden layers. Norms, attention and activations are taken of the sums. Where a norm stands behind the heads,
what differs are their shares of the normed sum, and the norm is that of the sum: what the first forward's heads send
together, plus what low-precision weights make of the heads' difference. As plain as it can be, and slow: what
``pahq.engine.suffix.ChangeEngine`` must equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine, read_inputs
from pahq.model.attention import attend, factor
from pahq.model.block import together
from pahq.model.forward import (
    activated,
    finish_projection,
    head_outputs,
    joined,
    mlp_before,
    mlp_sends,
    multiply,
    read_through,
)
from pahq.model.layerweights import LayerWeights
from pahq.model.products import mlp_products, product
from pahq.precision.store import NO_FOCUS, Focus, focus_of


class ChangeReference(ReferenceEngine):
    """Measures trials one by one, in any order. ``exactly`` is the same state, asked in full precision."""

    @property
    def exactly(self) -> ReferenceEngine:
        full = ReferenceEngine(self.problem.in_full_precision())
        full.present = self.present  # the very same edges, now and later
        return full

    def _stream(self, trial: Trial) -> Float[Tensor, "batch pos d_model"]:
        focus = focus_of(self.graph, self.graph.edges[trial.edge], self.problem.focus)
        return changed_stream(self.problem, self.present, self._present(trial), focus)


@torch.inference_mode()
def changed_stream(
    problem: Problem, current: Bool[Tensor, " edge"], changed: Bool[Tensor, " edge"], focus: Focus = NO_FOCUS
) -> Float[Tensor, "batch pos d_model"]:
    """The final residual stream of the circuit ``changed``, as a trial in the state ``current`` computes it.

    ``focus``: whose changes are multiplied with full-precision weights.
    """
    pair = _Pair(problem, current, changed, focus)
    for layer in range(problem.store.config.layers):
        for part in problem.store.config.parts:
            if part.kind == "heads":
                pair.heads(layer)
            else:
                pair.mlp(layer)
    _, final = pair.read(problem.corrupted.final, [Receiver("logits")]).unbind()
    return final.squeeze(0)


class _Pair:
    """The current state's forward [0] and the trial's [1]; ``delta``: senders less their corrupted values."""

    def __init__(
        self, problem: Problem, current: Bool[Tensor, " edge"], changed: Bool[Tensor, " edge"], focus: Focus
    ) -> None:
        assert problem.changes is not None
        self._problem, self._low = problem, problem.changes
        self._focus = focus
        self._ablated = problem.corrupted_senders
        self._heads_read, self._mlp_reads = problem.corrupted_streams
        self._present = torch.stack((current, changed))
        self._delta = self._ablated.new_empty(2, *self._ablated.shape)
        for i, embedded in enumerate(problem.clean):
            self._delta[:, i] = embedded - self._ablated[i]

    def read(self, ablated: Tensor, receivers: Sequence[Receiver]) -> Float[Tensor, "2 receiver batch pos d_model"]:
        """The inputs of receivers that have the same senders upstream."""
        both = zip(self._present, self._delta, strict=True)
        return torch.stack([read_inputs(self._problem.graph, on, delta, ablated, receivers) for on, delta in both])

    def heads(self, layer: int) -> None:
        """A layer's heads from their inputs."""
        config, full, low = self._problem.store.config, *self._weights(layer)
        at = {letter: self._projections(layer, full, low, letter) for letter in "qkv"}
        joint = [joined(config, full, at["q"][i], at["k"][i]) for i in range(2)]
        z = torch.stack([attend(config, *joint[i], at["v"][i]) for i in range(2)])
        if config.post_norms:
            current = together(full, z[0])
            changed = current + together(low, z[1] - z[0])
            z = torch.stack((z[0] * factor(config, current), z[1] * factor(config, changed)))
        self._send(self._problem.graph.head_senders(layer), head_outputs(full, z[0]), head_outputs(low, z[1] - z[0]))

    def _projections(
        self, layer: int, full: LayerWeights, low: LayerWeights, letter: str
    ) -> Float[Tensor, "2 letter_head batch pos d_head"]:
        problem, graph, config = self._problem, self._problem.graph, self._problem.store.config
        inputs = [Receiver("head", layer, head, letter) for head in range(graph.shape.letter_heads(letter))]
        normed = read_through(config, self.read(self._heads_read[layer], inputs), full.ln1_w, full.ln1_b)
        change = multiply(config, low, letter, normed[1] - normed[0], bias=False)
        if full.W_pos is not None and letter != "v":
            normed = normed + full.W_pos[: normed.shape[-2]]
        current = multiply(config, full, letter, normed[0])
        online = torch.stack((current, current + change))
        if not config.qk_joint:
            online = finish_projection(config, full, letter, online)
        if not graph.n_direct:
            return online
        first = graph.direct(inputs[0])
        assert first is not None
        direct = self._present[:, first : first + len(inputs)].to(online.device)[..., None, None, None]
        return torch.where(direct, online, problem.corrupted_projections[layer][letter])

    def mlp(self, layer: int) -> None:
        """A layer's MLP from its input."""
        receiver, config, full, low = Receiver("mlp", layer), self._problem.store.config, *self._weights(layer)
        assert full.W_out is not None
        assert low.W_out is not None
        assert full.b_out is not None
        normed = read_through(config, self.read(self._mlp_reads[layer], [receiver]).squeeze(1), full.ln2_w, full.ln2_b)
        before = mlp_before(full, normed[0])
        change = mlp_before(low, normed[1] - normed[0], bias=False)
        hidden = activated(config, before)
        more = activated(config, tuple(a + b for a, b in zip(before, change, strict=True))) - hidden
        output = hidden @ full.W_out + full.b_out
        added = product(more, low.W_out, mlp_products(low.products))
        if config.post_norms:
            new, output = (mlp_sends(config, full, sent) for sent in (output + added, output))
            added = new - output
        self._send(self._problem.graph.outputs(receiver), output[None], added[None])

    def _send(self, senders: range, current: Tensor, change: Tensor) -> None:
        """What senders compute in the current state, and by how much the trial changes it."""
        place = slice(senders.start, senders.stop)
        self._delta[0, place] = current - self._ablated[place]
        self._delta[1, place] = self._delta[0, place] + change

    def _weights(self, layer: int) -> tuple[LayerWeights, LayerWeights]:
        """Full precision, and what multiplies changes."""
        return self._problem.store.layer(layer, NO_FOCUS), self._low.layer(layer, self._focus)
