"""What circuits are worth on fresh prompts: the task's own metric and KL, example by example."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from pahq.circuits.graph import Graph
from pahq.config.cell import CellConfig
from pahq.engine.batch import batch_logits
from pahq.engine.problem import Problem, fresh_problem
from pahq.engine.rounding import alike, between_forwards
from pahq.model.weights import Model
from pahq.tasks.metrics import Objective
from pahq.tasks.task import Task

AT_ONCE = 64  # circuits whose logits are held at a time


@dataclass
class Values:
    """Metric values of circuits, each circuit evaluated once.

    ``weights``: items of every example; their weighted mean over examples is the metric's value.
    """

    problem: Problem
    weights: Float[ndarray, " example"]
    _kl: Objective
    _known: dict[bytes, tuple[Float[ndarray, " example"], Float[ndarray, " example"]]] = field(default_factory=dict)

    @classmethod
    def build(cls, model: Model, task: Task, cell: CellConfig) -> Values:
        """On the task's fresh prompts, with the cell's ablation and graph and in full precision."""
        problem = fresh_problem(cell, model, task)
        examples = torch.unique(task.fresh.items[:, 0], return_counts=True)[1]
        return cls(problem, examples.numpy().astype(float), problem.measured_by("kl").objective)

    @property
    def graph(self) -> Graph:
        return self.problem.graph

    def metric(self, circuits: Bool[ndarray, "circuit edge"]) -> Float[ndarray, "circuit example"]:
        """The task's own metric."""
        return np.stack([self._known[row.tobytes()][0] for row in self._ensured(circuits)])

    def kl(self, circuits: Bool[ndarray, "circuit edge"]) -> Float[ndarray, "circuit example"]:
        """KL(full model || circuit) in nats."""
        return np.stack([self._known[row.tobytes()][1] for row in self._ensured(circuits)])

    def mean(self, circuits: Bool[ndarray, "circuit edge"]) -> Float[ndarray, " circuit"]:
        """The task's own metric over all items."""
        return self.average(self.metric(circuits))

    def average(self, values: Float[ndarray, "*circuit example"]) -> Float[ndarray, "*circuit"]:
        return np.asarray(values @ self.weights / self.weights.sum())

    @property
    def everything(self) -> Bool[ndarray, " edge"]:
        return np.ones(len(self.graph.edges), dtype=bool)

    @property
    def nothing(self) -> Bool[ndarray, " edge"]:
        return np.zeros(len(self.graph.edges), dtype=bool)

    def ends(self) -> tuple[float, float]:
        """The metric of the full and of the empty circuit: one number where only rounding tells them apart."""
        full, empty = (float(value) for value in self.mean(np.stack([self.everything, self.nothing])))
        return full, full if alike(self.problem, full, empty) else empty

    def rounding(self) -> float:
        """A difference between values of two circuits that rounding alone can make."""
        ends = self.metric(np.stack([self.everything, self.nothing]))
        return between_forwards(float(np.abs(ends).max()), self.problem.corrupted_senders.dtype)

    def _ensured(self, circuits: Bool[ndarray, "circuit edge"]) -> Bool[ndarray, "circuit edge"]:
        new = {row.tobytes(): row for row in circuits if row.tobytes() not in self._known}
        keys, rows = list(new), list(new.values())
        for start in range(0, len(rows), AT_ONCE):
            outputs = batch_logits(self.problem, torch.from_numpy(np.stack(rows[start : start + AT_ONCE])))
            own, kl = self._by_example(self.problem.objective, outputs), self._by_example(self._kl, outputs)
            self._known.update(zip(keys[start : start + AT_ONCE], zip(own, kl, strict=True), strict=True))
        return circuits

    def _by_example(self, measure: Objective, outputs: Tensor) -> Float[ndarray, "circuit example"]:
        each = measure.each(outputs).double()
        of = torch.unique(self.problem.prompts.items[:, 0], return_inverse=True)[1].to(each.device)
        sums = each.new_zeros(len(each), len(self.weights)).index_add_(1, of, each)
        return np.asarray(sums.cpu().numpy() / self.weights)


def normalised(value: float, full: float, empty: float) -> float | None:
    """(m(C) - m(empty)) / (m(full) - m(empty)); None where full and empty circuit are worth the same."""
    return None if full == empty else (value - empty) / (full - empty) + 0.0  # no minus zero
