"""What went astray above is right again one layer on: inputs and projections of heads, whichever letter they are of."""

from __future__ import annotations

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine


@pytest.mark.parametrize("letter", ["q", "k", "v"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_rebasing_forms_projections_of_heads_anew(family: str, letter: str) -> None:
    """Of heads that still follow their inputs; the last one of a letter among them."""
    model = random_model(family, layers=3)
    problem = build_problem(model, random_prompts(model), metric="kl")
    graph, engine, reference = problem.graph, SuffixEngine(problem, memory_bytes=2**30), ReferenceEngine(problem)
    top = Receiver("head", 2, graph.shape.letter_heads(letter) - 1, letter)
    gone = list(graph.incoming(top))[:2]
    for each in (engine, reference):
        each.remove(gone)
    with torch.inference_mode():  # as engines compute
        engine._state.projections[top].add_(torch.linspace(0, 1, model.config.d_head))
        engine._state.inputs[top] = engine._state.inputs[top] + torch.linspace(0, 1, model.config.d_model)
    below = [Trial(edge, (edge,)) for edge in list(graph.incoming(Receiver("mlp", 1)))[:3]]
    assert engine.measure(below) == pytest.approx(reference.measure(below), abs=1e-12)
