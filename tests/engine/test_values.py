"""Values are frozen, and engines record no gradients, whatever weights ask for."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields, is_dataclass

import pytest
import torch
from support.small_models import random_model, random_prompts

import pahq.engine
from pahq.circuits.graph import Receiver
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.batch import batch_logits
from pahq.engine.changereference import changed_stream
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_logits, circuit_stream, logits_in_parts
from pahq.engine.rounding import per_unit
from pahq.engine.suffix import ChangeEngine, SuffixEngine

INT8 = PrecisionConfig(name="int8", format="int8")


def test_values_are_frozen() -> None:
    """All but what senders and their gradients share while masks are learnt."""
    found = []
    for module in pkgutil.walk_packages(pahq.engine.__path__, "pahq.engine."):
        every = vars(importlib.import_module(module.name)).values()
        found += [at for at in every if is_dataclass(at) and getattr(at, "__module__", "") == module.name]
    assert len(found) > 10
    assert [at.__name__ for at in found if not at.__dataclass_params__.frozen] == ["_Shared"]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Of a network whose weights all ask for gradients."""
    model = random_model("gpt2", d_model=16, dtype=torch.float32)
    for holder in (model, *model.layers):
        for field in fields(holder):
            value = getattr(holder, field.name)
            if isinstance(value, torch.Tensor):
                value.requires_grad_()
    with torch.no_grad():
        return build_problem(
            model, random_prompts(model), metric="kl", precision=INT8, focus="receiver", arithmetic="changes"
        )


def test_circuits_are_computed_without_gradients(problem: Problem) -> None:
    present = torch.ones(len(problem.graph.edges), dtype=torch.bool)
    many = torch.stack((present, ~present))
    for full in (problem.in_full_precision(), problem.in_full_precision().in_float64()):
        found = [circuit_logits(full, present), circuit_stream(full, present), batch_logits(full, many)]
        found += [logits_in_parts(full, present, part_bytes=1), full.reference, full.corrupted.final, *full.clean]
        assert not any(value.requires_grad for value in found)
        assert per_unit(full) > 0
    assert not changed_stream(problem, present, present).requires_grad


@pytest.mark.parametrize("kind", [SuffixEngine, ChangeEngine])
def test_an_engine_holds_no_gradients(kind: type[SuffixEngine], problem: Problem) -> None:
    """When it is built, asked how wide a window is, measures, removes, and begins anew."""
    on = problem if kind is ChangeEngine else problem.in_full_precision()
    engine, graph = kind(on), on.graph
    asked = [graph.incoming(receiver)[0] for receiver in (Receiver("mlp", 1), Receiver("head", 0, 1, "q"))]
    for edge in asked:
        engine.window(edge)
        for trials in ([Trial(edge, (edge,))], [Trial(edge, ())]):
            engine.measure(trials)
            ReferenceEngine(on.in_full_precision()).measure(trials)
        engine.remove([edge])
        state = engine._state
        held = [*state.z, *state.mlp, *state.projections.values(), *state.inputs._kept.values(), engine._loss]
        assert not any(value.requires_grad for value in held)
    engine.reset()
    assert not any(value.requires_grad for value in (*engine._state.z, engine._loss))
