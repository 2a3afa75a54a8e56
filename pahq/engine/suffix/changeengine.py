"""The suffix engine where only changes are in low precision (``method.arithmetic=changes``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pahq.circuits.graph import Graph
from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.suffix.changewave import ChangeWave, Current
from pahq.engine.suffix.engine import SuffixEngine
from pahq.model.layerweights import LayerWeights
from pahq.model.memory import release
from pahq.precision.store import NO_FOCUS, focus_of


class ChangeEngine(SuffixEngine):
    """Trials by ``ChangeWave``; what ``remove`` takes goes through the network once more in full precision.

    So the state, and the loss of a trial that removes nothing, are those of an engine of full precision. The loss of
    any other trial is that plus what the trial's change does to it by low-precision products. ``exactly`` measures
    trials in full precision in the same state.
    """

    def __init__(self, problem: Problem, **options: Any) -> None:
        assert problem.changes is not None
        self._low = problem.changes
        super().__init__(problem, **options)

    def reset(self) -> None:
        release(self, "_current")  # which holds the state before
        super().reset()
        self._current = Current(self._state, self._weights)

    def remove(self, edges: Sequence[int]) -> None:
        super().remove(edges)
        if edges:
            self._current.stale()

    @property
    def exactly(self) -> Exactly:
        """The same state, asked in full precision."""
        return Exactly(self)

    @torch.inference_mode()
    def measure_exactly(self, trials: Sequence[Trial]) -> list[float]:
        """The loss of each trial in full precision."""
        return self._told(trials, self._evaluate)

    def _losses_of(self, trials: Sequence[Trial]) -> Tensor:
        if not any(trial.removed for trial in trials):
            return self._loss.expand(len(trials))
        self._wave, self._answers = None, {}  # of trials in full precision
        wave = ChangeWave(
            self._current,
            self._state,
            len(trials),
            self._low_weights,
            **self._room(len(trials), self._descent.stage.receivers),
        )
        return self._carry(wave, trials)

    def _weights(self, layer: int) -> LayerWeights:
        return self.problem.store.layer(layer, NO_FOCUS)

    def _low_weights(self, layer: int) -> LayerWeights:
        return self._low.layer(layer, self._focus)

    def _refocus(self, edge: int) -> None:
        """The state has no focus: it is in full precision everywhere."""
        self._focus = focus_of(self.graph, self.graph.edges[edge], self.problem.focus)

    def _rebase(self, layer: int) -> None:
        super()._rebase(layer)
        self._current.stale()


class Exactly:
    """A change engine's state, asked in full precision. It is the engine that moves it: nothing is removed here."""

    def __init__(self, engine: ChangeEngine) -> None:
        self._engine = engine

    @property
    def graph(self) -> Graph:
        return self._engine.graph

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        return self._engine.measure_exactly(trials)

    def remove(self, edges: Sequence[int]) -> None:
        """The engine's own affair."""
