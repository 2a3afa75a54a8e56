"""PAHQ inside scores: an edge is scored in the network whose receiver's head is in full precision.

A search measures the edges of a head with that head in focus (``pahq.precision.store``). So does a score: for each
group of heads that share keys and values, the mixed network with that group in focus is a network of its own, with a
clean run and a loss of its own, and scores the edges into the group. Edges into MLPs and the logits have no head under
test, and are scored without a focus. What ablated senders carry is computed without a focus, as it is in a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.model.layerweights import LayerWeights
from pahq.model.streamed import Streamed
from pahq.model.weights import Ends, ModelConfig, Network
from pahq.precision.schedule import Schedule
from pahq.precision.store import NO_FOCUS, Focus, WeightStore, focus_of


@dataclass(frozen=True)
class FocusedStore:
    """A store of which some groups are in full precision in every forward, whatever focus is asked for."""

    beneath: WeightStore
    focus: Focus

    @property
    def config(self) -> ModelConfig:
        return self.beneath.config

    @property
    def ends(self) -> Ends:
        return self.beneath.ends

    @property
    def nbytes(self) -> int:
        return self.beneath.nbytes

    @property
    def uniform(self) -> bool:
        return self.beneath.uniform

    @property
    def products(self) -> str:
        return self.beneath.products

    @property
    def schedule(self) -> Schedule:
        return self.beneath.schedule

    def network(self) -> Network:
        return Streamed.through(self.ends, tuple(self.layer(i, NO_FOCUS) for i in range(self.config.layers)))

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        return self.beneath.layer(index, self.focus | focus)

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]:
        return self.beneath.rows(index, letter, heads, self.focus | focus)

    def prefetch(self, focus: Focus) -> None:
        self.beneath.prefetch(self.focus | focus)


def by_focus(problem: Problem) -> Iterator[tuple[Problem, list[int]]]:
    """The problem under every focus of ``focus=receiver``, and the edges that are scored in it."""
    groups: dict[Focus, list[int]] = {}
    for index, edge in enumerate(problem.graph.edges):
        groups.setdefault(focus_of(problem.graph, edge, "receiver"), []).append(index)
    for focus, edges in groups.items():
        yield replace(problem, store=FocusedStore(problem.store, focus)) if focus else problem, edges


def scores_in_focus(
    problem: Problem, measure: Callable[[Problem, Sequence[int]], Float[Tensor, " edge"]]
) -> Float[Tensor, " edge"]:
    """Every edge's score in its own focus; ``measure`` need only be right on the edges that it is given."""
    found = torch.zeros(len(problem.graph.edges), dtype=torch.float64, device=problem.reference.device)
    for focused, edges in by_focus(problem):
        found[edges] = measure(focused, edges)[edges]
    return found
