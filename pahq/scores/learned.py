"""Learning masks by gradient descent: one loop for subnetwork probing and Edge Pruning.

A method (``Learner``) says which masks there are, what they are to the edges, and what it costs to have them. The loop:

1. Every mask is drawn from its hard concrete distribution (``pahq.scores.hardconcrete``).
2. One masked forward (``pahq.engine.masked``) gives the problem's loss, one backward its gradients.
3. Adam (Kingma and Ba 2015) moves the masks' parameters down the loss and its penalty, and where the method has
   multipliers (``Learner.multipliers``), these up the penalty.

All of it is a function of the problem, the settings and the seed. ``State`` is all that a step leaves to the next one:
whoever keeps it can go on from it, and comes to the same bits. Nothing here reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.masked import masked_logits
from pahq.engine.problem import Problem
from pahq.errors import PahqError
from pahq.scores.hardconcrete import probability, sampled
from pahq.tasks.metrics import of_items

MEMORY, SQUARES, SMALL = 0.9, 0.95, 1e-8  # of Adam: of the gradients' mean, of their squares' mean; epsilon
BATCH_BYTES = 256 << 20  # of what the forward and backward pass of one batch of prompts hold


class Learner(Protocol):
    """A method that learns masks. ``log_alpha`` are the masks' parameters, ``step`` counts from 0."""

    @property
    def steps(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...

    @property
    def rate_of_multipliers(self) -> float: ...

    def start(self) -> Float[Tensor, " mask"]:
        """The masks' parameters before the first step."""

    def multipliers(self) -> Float[Tensor, " multiplier"]:
        """The multipliers before the first step; they are learnt against the masks. None is as well."""

    def spread(self, masks: Float[Tensor, " mask"]) -> tuple[Float[Tensor, " edge"], Float[Tensor, " input"] | None]:
        """What masks are to the edges of the graph, and to the projections of heads (``masked_stream``)."""

    def penalty(self, present: Float[Tensor, " mask"], multipliers: Tensor, step: int) -> Float[Tensor, ""]:
        """What is added to the loss, from the probability that each mask is not 0."""

    def scores(self, present: Float[Tensor, " mask"]) -> Float[Tensor, " edge"]:
        """The score of every edge in the end."""


@dataclass(frozen=True)
class State:
    """What a step leaves to the next one. ``mean`` and ``square`` are Adam's; multipliers stand behind the masks."""

    step: int  # how many are done
    values: Float[Tensor, " value"]
    mean: Float[Tensor, " value"]
    square: Float[Tensor, " value"]
    generator: Tensor  # the state of the generator that masks are drawn by, in bytes

    def to(self, device: torch.device) -> State:
        """The same on another device, but for the generator, which draws on the CPU."""
        return replace(self, values=self.values.to(device), mean=self.mean.to(device), square=self.square.to(device))


@dataclass(frozen=True)
class Progress:
    """A step that is done: its loss with penalty, the loss alone (KL, say), and how many masks are expected not 0."""

    loss: float
    measured: float
    present: float
    state: State

    def shown(self, metric: str) -> dict[str, str]:
        """What a progress bar says of it."""
        return {"loss": f"{self.loss:.3g}", metric: f"{self.measured:.3g}", "masks": f"{self.present:.1f}"}


def learn(
    problem: Problem,
    learner: Learner,
    *,
    seed: int,
    resume: State | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Float[Tensor, " edge"]:
    """The score of every edge, in float64, once the masks are learnt.

    ``resume``: the state to go on from, one of the same problem, settings and seed. ``report`` is told of every step.
    """
    state = first_state(problem, learner, seed) if resume is None else resume.to(problem.corrupted.final.device)
    generator = torch.Generator()
    generator.set_state(state.generator)
    count, batches = len(learner.start()), list(_batches(problem))
    with torch.enable_grad():
        while state.step < learner.steps:
            progress = _step(problem, learner, state, generator, count, batches)
            state = progress.state
            report(progress)
    return learner.scores(probability(state.values[:count].double()))


def first_state(problem: Problem, learner: Learner, seed: int) -> State:
    values = torch.cat((learner.start(), learner.multipliers())).to(problem.corrupted.final)
    nought = torch.zeros_like(values)
    return State(0, values, nought, nought, torch.Generator().manual_seed(seed).get_state())


def _step(
    problem: Problem, learner: Learner, state: State, generator: torch.Generator, count: int, batches: list[slice]
) -> Progress:
    values = state.values.detach().requires_grad_()
    masks, multipliers = values[:count], values[count:]
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).to(values)
    present = probability(masks)
    penalty = learner.penalty(present, multipliers, state.step)
    drawn = sampled(masks, uniform)
    (gradient,) = torch.autograd.grad(penalty, values, retain_graph=True)
    measured = 0.0
    for rows in batches:
        loss = _loss(problem, learner, drawn, rows, whole=len(batches) == 1)
        gradient = gradient + torch.autograd.grad(loss, values, retain_graph=True)[0]
        measured += float(loss.detach())
    total = measured + float(penalty.detach())
    if not (torch.isfinite(gradient).all() and torch.isfinite(penalty)):
        raise PahqError(
            f"learning masks came to a loss of {total} at step {state.step + 1}; take a lower learning_rate"
        )
    rates = values.new_full((len(values),), learner.learning_rate)
    rates[count:] = -learner.rate_of_multipliers  # these go up
    return Progress(total, measured, float(present.detach().sum()), _adam(state, gradient, rates, generator))


def _adam(state: State, gradient: Tensor, rates: Tensor, generator: torch.Generator) -> State:
    step = state.step + 1
    mean = MEMORY * state.mean + (1 - MEMORY) * gradient
    square = SQUARES * state.square + (1 - SQUARES) * gradient.square()
    move = mean / (1 - MEMORY**step) / ((square / (1 - SQUARES**step)).sqrt() + SMALL)
    return State(step, state.values - rates * move, mean, square, generator.get_state())


def _loss(problem: Problem, learner: Learner, drawn: Tensor, rows: slice, *, whole: bool) -> Float[Tensor, ""]:
    """What a batch of prompts adds to the loss, a mean over all of the metric's items."""
    items = problem.prompts.items[:, 0]
    chosen = ((items >= rows.start) & (items < rows.stop)).nonzero()[:, 0]
    part = problem if whole else problem.part(rows)  # whose ablated values are made anew
    masks, projections = learner.spread(drawn)
    logits = masked_logits(part, masks, projections=projections)
    return of_items(problem.objective, chosen).loss(logits) * (len(chosen) / len(items))


def _batches(problem: Problem) -> Iterator[slice]:
    """Prompts that are computed together: those that a metric reads, so many as fit into ``BATCH_BYTES``."""
    prompts, read = len(problem.prompts.clean), set(problem.prompts.items[:, 0].tolist())
    size = max(1, BATCH_BYTES // prompt_bytes(problem))
    for first in range(0, prompts, size):
        if read & set(range(first, first + size)):
            yield slice(first, min(first + size, prompts))


def prompt_bytes(problem: Problem) -> int:
    """What one prompt takes: what senders differ by with its gradient, and what the backward pass needs again."""
    config, final = problem.store.config, problem.corrupted.final
    wide, length = config.d_model, final.shape[1]
    inputs = 3 * (config.heads + 2 * config.kv_heads) * wide  # of heads, and what their norms make of them
    layer = inputs + 10 * wide + (4 + 2 * config.gated) * config.d_mlp + 4 * config.heads * length
    return length * (3 * len(problem.graph.senders) * wide + config.layers * layer) * final.element_size()
