"""The guess of what rounding does to a loss, against what it does; and what two forwards may differ by."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_stream
from pahq.engine.rounding import FLOOR, alike, between_forwards, curved, per_unit, unit
from pahq.model.weights import Model
from pahq.tasks.task import Prompts

METRICS = {"kl": True, "mse": True, "logit_diff": False, "margin": False, "nll": False, "prob_diff": False}
NORMS = {"layer": "gpt2", "rms": "llama", "none": "tracr"}


def problem_of(metric: str, model: Model) -> Problem:
    return build_problem(model, random_prompts(model), metric=metric)


def changed(prompts: Prompts) -> Prompts:
    """Corrupted prompts that differ from the clean ones by little: so that losses are of all sizes."""
    corrupted = prompts.clean.clone()
    corrupted[:, 0] = prompts.corrupted[:, 0]
    return replace(prompts, corrupted=corrupted)


@pytest.mark.parametrize(("metric", "norm"), [("kl", "layer"), ("kl", "rms"), ("nll", "layer"), ("logit_diff", "rms")])
def test_losses_are_off_by_no_more_than_the_guess(metric: str, norm: str) -> None:
    """Of circuits that lack one edge, in float32 against float64; and not by far less."""
    model = random_model(NORMS[norm], 4, dtype=torch.float32)
    problem = build_problem(model, changed(random_prompts(model, 4)), metric=metric)
    rough, exact = ReferenceEngine(problem), ReferenceEngine(problem.in_float64())
    guess, shares = per_unit(problem), []
    trials = [Trial(edge, (edge,)) for edge in range(0, len(problem.graph.edges), 11)]
    for found, expected in zip(rough.measure(trials), exact.measure(trials), strict=True):
        scale = unit(expected, curved=METRICS[metric])
        shares.append(abs(found - expected) / guess / scale)
        assert alike(problem, found, expected)
        assert alike(problem, expected, found)
        for other in (expected + 100 * guess * (scale + guess), expected - 100 * guess * (scale + guess)):
            assert not alike(problem, expected, other)
    assert 1e-3 < max(shares) < 1


@pytest.mark.parametrize("metric", METRICS)
def test_losses_that_are_least_at_the_clean_run_are_curved_there(metric: str) -> None:
    assert curved(problem_of(metric, random_model("gpt2"))) == METRICS[metric]


def test_it_is_of_the_largest_logit_and_of_the_dtype() -> None:
    model = random_model("gpt2")
    large = replace(model, W_U=model.W_U * 100, b_U=model.b_U * 100)
    usual, larger = per_unit(problem_of("logit_diff", model)), per_unit(problem_of("logit_diff", large))
    assert larger == pytest.approx(100 * usual)
    narrow = per_unit(problem_of("logit_diff", model.to(dtype=torch.float32)))
    assert narrow / usual == pytest.approx(2.0**29, rel=1e-5)  # bits that float64 has more
    small = replace(model, W_U=model.W_U * 1e-3, b_U=model.b_U * 1e-3)
    least = per_unit(problem_of("logit_diff", small))  # streams are rounded however little logits make of them
    assert least == per_unit(problem_of("logit_diff", replace(model, W_U=model.W_U * 1e-4, b_U=model.b_U * 1e-4)))
    assert least < usual
    divergence = problem_of("kl", large)
    highest = float(divergence.logits_of(divergence.reference).log_softmax(-1).abs().max())
    assert per_unit(divergence) / larger == pytest.approx(
        highest / float(problem_of("logit_diff", large).logits_of(divergence.reference).abs().max())
    )


@pytest.mark.parametrize("norm", NORMS)
def test_streams_that_a_norm_brings_down_are_rounded_more_coarsely(norm: str) -> None:
    """Numbers far from zero, that LayerNorm takes away again, or one that outweighs all others."""
    problem = problem_of("logit_diff", random_model(NORMS[norm]))
    usual, stream = per_unit(problem), problem.reference
    far, one = stream + 1000, stream.clone()
    one[:, 3] = 1e5
    shift = per_unit(replace(problem, reference=far))
    if norm == "layer":
        spread = (stream - stream.mean(-1, keepdim=True)).square().mean(-1).sqrt().min()
        highest = far.abs().max() / spread
        assert shift / usual == pytest.approx(float(highest) / 8, rel=0.1)
        assert per_unit(replace(problem, reference=2 * far)) == pytest.approx(shift, rel=1e-3)
    elif norm == "rms":
        logits = problem.logits_of(far).abs().max() / problem.logits_of(stream).abs().max()
        assert shift / usual == pytest.approx(float(logits))
    assert per_unit(replace(problem, reference=torch.zeros_like(stream))) > 0


def test_errors_near_the_clean_run_are_in_proportion_to_the_root_of_the_loss() -> None:
    assert unit(3.0, curved=False) == 1
    for loss in (1e-10, 1e-6):
        assert unit(loss, curved=True) == pytest.approx(math.sqrt(2 * loss), rel=1e-2)
    assert unit(1e6, curved=True) == pytest.approx(1e6, rel=1e-2)
    assert unit(0.0, curved=True) == unit(FLOOR / 2, curved=True) - FLOOR / 2 > 0


def test_two_forwards_of_a_circuit_are_within_their_bound() -> None:
    """In float32 against float64, and the bound is not a thousand times what they differ by."""
    model = random_model("gpt2", 2, dtype=torch.float32)
    problem = problem_of("kl", model)
    present = torch.rand(len(problem.graph.edges), generator=torch.Generator().manual_seed(0)) < 0.6
    found, exact = circuit_stream(problem, present), circuit_stream(problem.in_float64(), present)
    bound = between_forwards(float(exact.abs().max()), torch.float32)
    assert bound / 1000 < (found - exact).abs().max() < bound
    assert between_forwards(2.0, torch.float64) == pytest.approx(2 * between_forwards(1.0, torch.float32) / 2**29)
