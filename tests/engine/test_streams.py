"""Residual streams by layer, formed where they are asked for: the run's own, and seldom more than is asked."""

from __future__ import annotations

import random

import pytest
from support import small_models

from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix.streams import Streams
from pahq.model.layerweights import LayerWeights
from pahq.model.run import run_senders, streams
from pahq.precision.store import Focus, PrecisionStore


class Counting:
    """A store that notes of which layers it was asked."""

    def __init__(self, store: PrecisionStore) -> None:
        self.config, self._store, self.asked = store.config, store, list[int]()

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        self.asked.append(index)
        return self._store.layer(index, focus)


def problem_of(family: str, layers: int) -> Problem:
    model = small_models.random_model(family, layers=layers)
    prompts = small_models.random_prompts(model)
    return build_problem(model, prompts, metric="kl", split_embed=model.config.positions == "learned")


@pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
def test_they_are_the_runs_in_whatever_order(family: str) -> None:
    problem, draw = problem_of(family, 4), random.Random(3)
    run = run_senders(problem.store.network(), problem.clean)
    held = streams(problem.store.network(), run)
    kinds = [part.kind for part in problem.store.config.parts]
    formed, there = Streams(problem.store, run), Streams(problem.store, run, held)
    for layer in [3, 2, 1, 0, *draw.choices(range(4), k=20)]:
        if draw.random() < 0.5:
            formed.enter(layer)
            there.enter(layer)
        for kind in draw.sample(kinds, len(kinds)):
            expected = held[kind == "mlp"][layer]
            assert there.read(kind, layer) is expected
            assert (formed.read(kind, layer) - expected).abs().max() == 0


@pytest.mark.parametrize("family", ["gpt2", "parallel"])
def test_they_are_added_up_from_the_layer_that_was_entered(family: str) -> None:
    problem = problem_of(family, 6)
    store = Counting(problem.store)  # type: ignore[arg-type]
    formed = Streams(store, run_senders(problem.store.network(), problem.clean))  # type: ignore[arg-type]

    def asked(kind: str, layer: int) -> list[int]:
        store.asked.clear()
        formed.read(kind, layer)
        return list(store.asked)

    formed.enter(2)
    assert asked("heads", 2) == []
    assert asked("heads", 4) == [2, 2, 3, 3]  # heads and MLP of each layer
    assert asked("heads", 4) == []
    assert asked("heads", 5) == [4, 4]
    assert asked("heads", 3) == [2, 2]  # the one asked for last lies above
    assert asked("heads", 2) == []
    formed.enter(3)
    assert asked("mlp", 3) == ([3] if family == "gpt2" else [])  # which reads what the heads beside it send, or not
    assert asked("mlp", 3) == []
    assert set(asked("heads", 1)) <= {0}  # below what was entered
