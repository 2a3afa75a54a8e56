"""Norms behind heads and soft caps: what the tests of all families do not say of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.capped import CappedLosses
from pahq.engine.losses import PlainLosses, losses_for
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits
from pahq.model.run import run_senders, sender_outputs
from pahq.model.weights import Model
from pahq.search.start import start_search

WORDS = {"d_vocab": 600, "d_vocab_out": 600}  # more than a tile has
LOW = PrecisionConfig(name="int8", format="int8")


def problem_of(model: Model, **settings: object) -> Problem:
    prompts = random_prompts(model, every_item=True)
    return build_problem(model, prompts, **{"metric": "kl"} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2"])
def test_outputs_add_up_to_the_stream(family: str) -> None:
    model = random_model(family)
    run = run_senders(model, problem_of(model).clean)
    biases = torch.stack([layer.b_O for layer in model.layers]).sum(0)
    assert (sender_outputs(model, run).sum(0) + biases - run.final).abs().max() < 1e-12


def test_a_head_without_an_edge_to_the_logits_changes_its_neighbours() -> None:
    problem = problem_of(random_model("gemma3"), direct_edges=False)
    names = ["a0.h0->logits", "embed->a0.h3<q>"]
    both, one = (Circuit.from_names(problem.graph, names[:count]) for count in (2, 1))
    assert both.cleaned().edges == both.edges
    apart = circuit_logits(problem, torch.tensor(both.present)) - circuit_logits(problem, torch.tensor(one.present))
    assert apart.abs().max() > 1e-3


@pytest.mark.parametrize("focus", ["receiver", "none"])
def test_a_weight_of_nought_behind_the_heads_is_no_division_by_it(focus: str) -> None:
    model = random_model("gemma2")
    layers = tuple(replace(layer, ln1_post=layer.ln1_post * (torch.arange(12) % 3 > 0)) for layer in model.layers)  # type: ignore[operator]
    problem = problem_of(replace(model, layers=layers), precision=LOW, focus=focus)
    found = {}
    for engine in ("reference", "suffix"):
        found[engine] = list(start_search(engine, problem, Order(), 0.02))
    assert [(d.edge, d.removed) for d in found["suffix"]] == [(d.edge, d.removed) for d in found["reference"]]
    effects = zip(found["suffix"], found["reference"], strict=True)
    assert max(abs(a.effect - b.effect) for a, b in effects) < 1e-10
    assert {d.removed for d in found["suffix"]} == {True, False}


@pytest.mark.parametrize("metric", ["kl", "logit_diff", "prob_diff", "margin", "nll", "mse"])
def test_losses_of_capped_logits(metric: str) -> None:
    """Those of all logits, in tiles or not; in float32 rounding stays in proportion to a small change."""
    problem = problem_of(random_model("gemma2", **WORDS), metric=metric)
    rows = problem.reference
    noise = torch.randn(2, 3, *rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = rows + torch.tensor([1.0, 1e-3])[:, None, None, None] * noise
    exact = losses_for(problem)(moved)
    assert (CappedLosses(problem, tile=1)(moved) - exact).abs().max() < 1e-12
    assert (exact - PlainLosses(problem)(moved)).abs().max() < 1e-10
    narrow = problem_of(random_model("gemma2", dtype=torch.float32, **WORDS), metric=metric)
    change = moved - rows
    off = losses_for(narrow)(narrow.reference.double() + change) - losses_for(problem)(rows + change)
    assert off[1].abs().max() < (1e-4 * exact[1].abs().max() if metric in ("kl", "mse") else 1e-5)


@pytest.mark.parametrize("cap", [30.0, 1e4])
def test_divergences_of_capped_logits_whose_likely_tokens_lose_much(cap: float) -> None:
    """Under a high cap they are those of all logits too, one trial at a time where exp of a change may be endless."""
    model = random_model("gemma2", logit_cap=cap)
    problem = problem_of(replace(model, W_U=12 * model.W_U))
    moved = problem.reference[None] * torch.tensor([[1.0], [-1.0], [-1e-3]])[..., None]
    found = losses_for(problem)(moved)
    assert found[1] > 10
    assert (found - PlainLosses(problem)(moved)).abs().max() < 1e-10
