"""The reference engine: one trial, one whole patched forward, as plain as the paper.

The input of receiver r is the corrupted residual at r plus, over the present edges s->r, what s computes in this very
forward minus its corrupted value (Conmy et al. 2023, section 2). Every faster engine must equal this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.engine.base import Trial
from pahq.engine.losses import finite, losses_for, rows_of
from pahq.engine.problem import Problem
from pahq.errors import PahqError
from pahq.model.finite import Watch
from pahq.model.forward import mix, mlp
from pahq.model.layerweights import LayerWeights
from pahq.precision.mixed import outputs_mixed, project_mixed
from pahq.precision.store import NO_FOCUS, Focus, focus_of
from pahq.tasks.metrics import gather_items


class ReferenceEngine:
    """Measures trials one by one, in any order. Holds the present edges; nothing else changes."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.present = torch.ones(len(problem.graph.edges), dtype=torch.bool)
        with torch.inference_mode():
            self._losses, self._rows = losses_for(problem), rows_of(problem)[0]

    @property
    def graph(self) -> Graph:
        return self.problem.graph

    @torch.inference_mode()
    def measure(self, trials: Sequence[Trial]) -> list[float]:
        """The loss of each trial, in the units of the problem's objective."""
        losses = []
        for trial in trials:
            resid = gather_items(self._stream(trial), self._rows)
            losses.append(float(finite(self._losses, resid)))
        check_finite(self.problem, losses, trials, self._present)
        return losses

    def _stream(self, trial: Trial) -> Float[Tensor, "batch pos d_model"]:
        """The final residual stream of a trial."""
        focus = focus_of(self.graph, self.graph.edges[trial.edge], self.problem.focus)
        return circuit_stream(self.problem, self._present(trial), focus)

    def _present(self, trial: Trial) -> Bool[Tensor, " edge"]:
        present = self.present.clone()
        present[list(trial.removed)] = False
        return present

    def remove(self, edges: Sequence[int]) -> None:
        self.present[list(edges)] = False

    def reset(self) -> None:
        """Back to the whole graph."""
        self.present.fill_(True)


@torch.inference_mode()
def circuit_logits(
    problem: Problem,
    present: Bool[Tensor, " edge"],
    focus: Focus = NO_FOCUS,
    *,
    from_layer: int = 0,
    clean: Float[Tensor, "sender batch pos d_model"] | None = None,
) -> Float[Tensor, "item vocab"]:
    """Logits at the metric's items of the circuit ``present``; see ``circuit_stream``."""
    return problem.item_logits(circuit_stream(problem, present, focus, from_layer=from_layer, clean=clean))


@torch.inference_mode()
def circuit_stream(
    problem: Problem,
    present: Bool[Tensor, " edge"],
    focus: Focus = NO_FOCUS,
    *,
    from_layer: int = 0,
    clean: Float[Tensor, "sender batch pos d_model"] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The final residual stream of the circuit ``present``: the patched forward itself.

    ``watch`` sees what every receiver reads and every sender computes, in order.

    With ``from_layer`` the layers below are skipped: their senders are taken from ``clean`` (clean minus corrupted
    outputs), which is right while nothing below that layer is patched. A baseline of the benchmarks, as auto-circuit's
    ACDC runs; the engine never skips.
    """
    forward = _Patched(problem, present, focus, watch)
    if from_layer:
        assert clean is not None
        below = problem.graph.head_senders(from_layer).start
        forward.delta[:below] = clean[:below]
    for layer in range(from_layer, problem.store.config.layers):
        weights = problem.store.layer(layer, focus)
        for part in problem.store.config.parts:
            if part.kind == "heads":
                forward.heads(layer, weights)
            else:
                forward.mlp(layer, weights)
    final = forward.read(problem.corrupted.final, [Receiver("logits")]).squeeze(0)
    if watch is not None:
        watch.final(final)
    return final


class _Patched:
    """One patched forward. ``delta`` is what each sender computes minus its corrupted value, filled layer by layer."""

    def __init__(self, problem: Problem, present: Bool[Tensor, " edge"], focus: Focus, watch: Watch | None) -> None:
        self._problem, self._present, self._focus, self._watch = problem, present, focus, watch
        self._ablated = problem.corrupted_senders
        self._heads_read, self._mlp_reads = problem.corrupted_streams
        self.delta = torch.empty_like(self._ablated)
        self._on = present
        for i, embedded in enumerate(problem.clean):
            self.delta[i] = embedded - self._ablated[i]

    def read(self, ablated: Tensor, receivers: list[Receiver]) -> Float[Tensor, "receiver batch pos d_model"]:
        """The inputs of receivers that have the same senders upstream, from their input in the ablated run."""
        return read_inputs(self._problem.graph, self._on, self.delta, ablated, receivers)

    def heads(self, layer: int, weights: LayerWeights) -> None:
        """Compute a layer's heads from their inputs."""
        store, at = self._problem.store, {}
        for letter in "qkv":
            at[letter] = self._projections(layer, weights, letter)
        z = mix(store.config, weights, at["q"], at["k"], at["v"])
        outputs = outputs_mixed(store, weights, z)
        if self._watch is not None:
            self._watch.outputs(layer, outputs)
        heads = self._problem.graph.head_senders(layer)
        self.delta[heads.start : heads.stop] = outputs - self._ablated[heads.start : heads.stop]

    def _projections(self, layer: int, weights: LayerWeights, letter: str) -> Float[Tensor, "letter_head *rest"]:
        problem, graph, store = self._problem, self._problem.graph, self._problem.store
        inputs = [Receiver("head", layer, head, letter) for head in range(graph.shape.letter_heads(letter))]
        x = self.read(self._heads_read[layer], inputs)
        online: Tensor = project_mixed(store, weights, letter, x)
        if self._watch is not None:
            self._watch.heads(layer, letter, x, "input")
            self._watch.heads(layer, letter, online, "projection")
        if not graph.n_direct:
            return online
        first = graph.direct(inputs[0])
        direct = self._present[first : first + len(inputs)]  # type: ignore[operator]
        # A head in focus takes its ablated projection in full precision too, so that no change of precision
        # is ever booked on its Direct edge.
        ablated = problem.corrupted_projections[layer][letter]
        if any(at == layer for at, _ in self._focus) and not direct.all():
            ablated = project_mixed(store, weights, letter, self._heads_read[layer][None])
        return torch.where(direct.to(online.device)[:, None, None, None], online, ablated)

    def mlp(self, layer: int, weights: LayerWeights) -> None:
        """Compute a layer's MLP from its input."""
        receiver = Receiver("mlp", layer)
        (sender,) = self._problem.graph.outputs(receiver)
        (x,) = self.read(self._mlp_reads[layer], [receiver])
        output = mlp(self._problem.store.config, weights, x)
        if self._watch is not None:
            self._watch.mlp(layer, x, output)
        self.delta[sender] = output - self._ablated[sender]


def read_inputs(
    graph: Graph,
    present: Bool[Tensor, " edge"],
    delta: Float[Tensor, "sender batch pos d_model"],
    ablated: Float[Tensor, "batch pos d_model"],
    receivers: Sequence[Receiver],
) -> Float[Tensor, "receiver batch pos d_model"]:
    """The inputs of receivers that have the same senders upstream.

    ``delta``: what senders compute less their ablated values; ``ablated``: the receivers' input in the ablated run.
    """
    upstream, first = graph.upstream(receivers[0]), graph.incoming(receivers[0])[0]
    # a layer's receivers of one letter follow each other, as do their edges
    assert graph.incoming(receivers[-1])[0] == first + upstream * (len(receivers) - 1)
    mask = present[first : first + upstream * len(receivers)].view(-1, upstream)
    changes: Tensor = mask.to(delta) @ delta[:upstream].flatten(1)
    return ablated + changes.view(-1, *delta.shape[1:])


@torch.inference_mode()
def check_finite(
    problem: Problem, losses: Sequence[float], trials: Sequence[Trial], present: Callable[[Trial], Tensor]
) -> None:
    """Raise PahqError where a loss is no finite number, naming layer and receiver of the first such value.

    ``present`` gives the edges that are there in a trial.
    """
    for loss, trial in zip(losses, trials, strict=True):
        if not math.isfinite(loss):
            graph = problem.graph
            focus = focus_of(graph, graph.edges[trial.edge], problem.focus)
            watch = Watch(f"with the edges left when {graph.edges[trial.edge]} is tested")
            circuit_stream(problem, present(trial), focus, watch=watch)
            raise PahqError(f"the loss is {loss} when {graph.edges[trial.edge]} is tested, from values that are finite")


PART_BYTES = 256 << 20  # of result-caches, in one part


def logits_in_parts(
    problem: Problem, present: Bool[Tensor, " edge"], focus: Focus = NO_FOCUS, *, part_bytes: int = PART_BYTES
) -> Float[Tensor, "item vocab"]:
    """``circuit_logits``, so many prompts at a time that the result-caches stay within ``part_bytes``."""
    final, items = problem.corrupted.final, problem.prompts.items
    per_prompt = 2 * len(problem.graph.senders) * final[0].numel() * final.element_size()
    size = max(1, part_bytes // per_prompt)
    if size >= len(final):
        return circuit_logits(problem, present, focus)
    logits = None
    for first in range(0, len(final), size):
        part = problem.part(slice(first, first + size))
        here = ((items[:, 0] >= first) & (items[:, 0] < first + size)).nonzero().squeeze(1)
        if len(here):
            found = circuit_logits(part, present, focus)
            if logits is None:
                logits = found.new_empty(len(items), found.shape[-1])
            logits[here.to(found.device)] = found
    assert logits is not None
    return logits
