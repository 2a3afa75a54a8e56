"""Scores from gradients: every edge at once, from one forward and one backward per batch of prompts and step.

With M the loss (a mean over the metric's items), d_s what a sender's ablated output differs by from its clean one and
g_r the gradient of M at what a receiver reads (its residual stream before its own norm, one per head and letter), the
score of the edge s -> r is <d_s, g_r>, summed over prompts, positions and d_model: to first order, what M gains when
the edge is removed. The methods differ in the runs that g_r is averaged over:

- ``eap`` (Syed et al. 2023, arXiv 2310.10348): the clean run alone.
- ``eap-ig`` (Hanna et al. 2024, arXiv 2403.17806): runs whose embedding lies between the ablated and the clean one.
- ``clean-corrupted``: the clean run and that of the ablated embedding, half and half.
- ``eap-ig-activations``: for each unit (the embedding, a layer's heads together, an MLP), runs in which the unit's
  output lies between its ablated and its clean value and is constant, all before it being clean.

A Direct edge has the same formula with the head's projection (its q, k or v) in place of sender and receiver; in
``eap-ig-activations`` the projections of a layer's letter are the unit that it is averaged over.

``convention="mean"`` is this project's. The mean over a line of runs is an integral, taken by the Gauss-Legendre rule
with ``steps`` nodes, none of which is an end; in ``eap-ig-activations`` an edge's runs are those of its own sender's
unit. Neither the batch size nor the order of prompts matters. ``convention="eap-ig"`` is that of EAP-IG's own code
(commit 795f560), for comparison with it: runs at corrupted + k/steps (clean - corrupted), from k = 0 for the embedding
and from k = 1 for activations; these are added up over all units for every edge, whichever its sender is, and where the
unit is the embedding of a model without learned positions, what reads that embedding alone gets nothing; and all scores
are divided by the number of prompts in a batch once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import LETTERS, Graph, Receiver
from pahq.engine.problem import Problem
from pahq.model.block import Part, through
from pahq.model.forward import mix, mlp, project, unembed
from pahq.model.layerweights import LayerWeights
from pahq.model.run import Run, difference, run_senders, sender_outputs, streams
from pahq.model.weights import Network
from pahq.scores.taps import Tap
from pahq.tasks.metrics import gather_items, of_items

METHODS = ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted")
CONVENTIONS = ("mean", "eap-ig")
BATCH_BYTES = 256 << 20  # of what is held for one batch of prompts


@dataclass(frozen=True)
class Unit:
    """What is held constant in a run: the embedding (``start``), a layer's heads or MLP, or projections of a letter."""

    kind: str  # start | heads | mlp | q | k | v
    layer: int = -1


@dataclass(frozen=True)
class Step:
    """One forward and backward: ``share`` of the clean value (the rest is ablated) in a unit, and the step's weight.

    ``own``: only edges of the unit's own senders are scored. ``deaf``: receivers of at most so many senders are not.
    """

    unit: Unit
    share: float
    weight: float
    own: bool = False
    deaf: int = 0


def plan(problem: Problem, method: str, steps: int, convention: str) -> list[Step]:
    """The runs that a method averages over; their weights add up to one for every edge."""
    start = Unit("start")
    if method == "eap":
        return [Step(start, 1.0, 1.0)]
    if method == "clean-corrupted":
        return [Step(start, share, 0.5) for share in (1.0, 0.0)]
    config, theirs = problem.store.config, convention == "eap-ig"
    if method == "eap-ig":
        line = [(k / steps, 1 / steps) for k in range(steps)] if theirs else gauss_legendre(steps)
        return [Step(start, share, weight) for share, weight in line]
    units = [start] + [Unit(part.kind, layer) for layer in range(config.layers) for part in config.parts]
    if theirs:
        deaf = {} if config.positions == "learned" else {start: 1}
        line = [(k / steps, 1 / (steps * len(units))) for k in range(1, steps + 1)]
        return [Step(unit, share, weight, deaf=deaf.get(unit, 0)) for unit in units for share, weight in line]
    if problem.graph.n_direct:
        units += [Unit(letter, layer) for layer in range(config.layers) for letter in LETTERS]
    return [Step(unit, share, weight, own=True) for unit in units for share, weight in gauss_legendre(steps)]


def gauss_legendre(steps: int) -> list[tuple[float, float]]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]: exact for polynomials up to degree 2 steps - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return [(float(1 + node) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]


def gradient_scores(
    problem: Problem, method: str, *, steps: int = 5, convention: str = "mean", batch_size: int | None = None
) -> Float[Tensor, " edge"]:
    """The score of every edge of the problem's graph, in float64.

    ``batch_size``: prompts that are computed together at most; memory bounds them as well. In the convention of
    EAP-IG's code it is also the batch by whose size its scores are divided (None: all prompts are one batch).
    """
    network = problem.store.network()
    with torch.no_grad():
        clean = run_senders(network, problem.clean)
    found = torch.zeros(len(problem.graph.edges), dtype=torch.float64, device=clean.final.device)
    runs = plan(problem, method, steps, convention)
    for rows, weight in batches(problem, convention, batch_size):
        batch = _Batch(problem, rows, clean)
        for step in runs:
            batch.run(step, weight, found)
    return found


def batches(problem: Problem, convention: str, batch_size: int | None) -> Iterator[tuple[slice, float]]:
    """Prompts that are computed together, and what the loss of each of their items counts in a score."""
    prompts, items = len(problem.prompts.clean), problem.prompts.items[:, 0]
    asked = min(batch_size or prompts, prompts)
    fit = max(1, BATCH_BYTES // prompt_bytes(problem))
    for first in range(0, prompts, asked):
        last = min(first + asked, prompts)
        among = int(((items >= first) & (items < last)).sum())
        weight = 1 / (max(1, among) * prompts) if convention == "eap-ig" else 1 / len(items)
        for start in range(first, last, fit):
            yield slice(start, min(start + fit, last)), weight


def prompt_bytes(problem: Problem) -> int:
    """What one prompt takes: every sender's output, and of every layer what the backward pass needs again."""
    config, final = problem.store.config, problem.corrupted.final
    wide, length = config.d_model, final.shape[1]
    layer = 10 * wide + (4 + 2 * config.gated) * config.d_mlp + 4 * config.heads * length
    receivers = 12 * config.heads * wide  # one layer's inputs at a time, and what their norms make of them
    numbers = len(problem.graph.senders) * wide + config.layers * layer + receivers
    return length * numbers * final.element_size()


class _Batch:
    """Some of the prompts: their clean and ablated values, and the runs between them."""

    def __init__(self, problem: Problem, rows: slice, clean: Run) -> None:
        self._problem, self._part = problem, problem.part(rows)
        self._clean = clean = clean.map(lambda x: x[..., rows, :, :])
        self._network = problem.store.network()
        items = problem.prompts.items[:, 0]
        chosen = ((items >= rows.start) & (items < rows.stop)).nonzero()[:, 0]
        self._count, self._objective = len(chosen), of_items(problem.objective, chosen)
        with torch.no_grad():
            change = difference(self._part.corrupted, clean)  # heads' outputs are linear in their z
            self._differences = sender_outputs(self._network, change).flatten(1)
            self._projected = _projections(self._network, clean) if problem.graph.n_direct else []

    def run(self, step: Step, weight: float, found: Float[Tensor, " edge"]) -> None:
        """One forward and backward; adds every edge's share of its score to ``found``."""
        if not self._count:
            return
        graph = self._problem.graph
        senders = _senders_of(graph, step.unit) if step.own else range(len(graph.senders))
        tap = Tap(graph, self._differences, senders, found, step.weight, step.deaf)
        with torch.enable_grad():
            final = tap.read(self._final(step, tap), [Receiver("logits")])[0]
            logits = unembed(self._network, gather_items(final, self._part.prompts.items))
            loss = self._objective.loss(logits) * (weight * self._count)
            loss.backward()  # type: ignore[no-untyped-call]

    def _final(self, step: Step, tap: Tap) -> Float[Tensor, "batch pos d_model"]:
        """The final stream of a run. Where a unit's own edges alone are scored, all before it is the clean run's."""
        config, unit = self._network.config, step.unit
        reached = unit.kind == "start" or not step.own

        def send(index: int, layer: LayerWeights, part: Part, read: Tensor) -> Tensor:
            nonlocal reached
            reached = reached or (unit.layer == index and (unit.kind == part.kind or unit.kind in LETTERS))
            if not reached:
                return self._clean.sent(part.kind)[index]
            if unit == Unit(part.kind, index):
                ablated, clean = (run.sent(part.kind)[index] for run in (self._part.corrupted, self._clean))
                return ablated.lerp(clean, step.share).requires_grad_(step.own)
            if part.kind == "mlp":
                return mlp(config, layer, tap.read(read, [Receiver("mlp", index)])[0])
            at = {letter: self._project(step, tap, index, layer, letter, read) for letter in LETTERS}
            return mix(config, layer, at["q"], at["k"], at["v"])

        return through(config.parts, self._network.layers, self._start(step), send)

    def _start(self, step: Step) -> Float[Tensor, "batch pos d_model"]:
        """The stream before the first layer."""
        here = step.unit.kind == "start"
        pairs = zip(self._part.corrupted.start, self._clean.start, strict=True)
        parts = [ablated.lerp(clean, step.share if here else 1.0) for ablated, clean in pairs]
        return torch.stack(parts).sum(0).requires_grad_(here or not step.own)

    def _project(
        self, step: Step, tap: Tap, index: int, layer: LayerWeights, letter: str, read: Tensor
    ) -> Float[Tensor, "letter_head batch pos d_head"]:
        """Every head's q, k or v, each from an input of its own."""
        graph, here = self._problem.graph, step.unit == Unit(letter, index)
        receivers = [Receiver("head", index, head, letter) for head in range(graph.shape.letter_heads(letter))]
        out = project(self._network.config, layer, letter, tap.read(read, receivers))
        if not graph.n_direct or (step.own and not here):
            return out
        ablated, clean = self._part.corrupted_projections[index][letter], self._projected[index][letter]
        out = ablated.lerp(clean, step.share).requires_grad_() if here else out
        return tap.project(out, ablated - clean, receivers)


def _projections(network: Network, run: Run) -> list[dict[str, Float[Tensor, "letter_head batch pos d_head"]]]:
    """By layer and letter, what the heads of a run project."""
    read, config = streams(network, run)[0], network.config
    return [
        {letter: project(config, layer, letter, stream[None]) for letter in LETTERS}
        for layer, stream in zip(network.layers, read, strict=True)
    ]


def _senders_of(graph: Graph, unit: Unit) -> range:
    """The senders that a unit consists of; a letter's projections send nothing."""
    if unit.kind == "heads":
        return graph.head_senders(unit.layer)
    if unit.kind == "mlp":
        return graph.outputs(Receiver("mlp", unit.layer))
    return graph.outputs(Receiver("logits")) if unit.kind in LETTERS else range(1 + graph.shape.split_embed)
