"""Scores from gradients equal slow twins in float64, whatever the batches, the order of prompts and the steps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import small_models
from support.allocated import peak_bytes
from support.bulky import PROMPTS, SHAPES, bulky_problem
from support.pairs import pairs
from support.slow_scores import slow_scores

from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits
from pahq.scores.gradients import METHODS, gauss_legendre, gradient_scores, prompt_bytes
from pahq.tasks.task import Prompts

FAMILIES = sorted(small_models.FAMILIES)
METRICS = ["kl", "logit_diff", "prob_diff", "margin", "nll", "mse"]


def problem_for(family: str, seed: int = 0, *, batch: int = 2, length: int = 4, every_item: bool = False, **asked):
    model = small_models.random_model(family, seed)
    prompts = small_models.random_prompts(model, seed, batch=batch, length=length, every_item=every_item)
    asked = {"metric": "logit_diff", "direct_edges": False} | asked
    if model.config.positions != "learned":
        asked["split_embed"] = False
    return build_problem(model, prompts, **asked)


def by_loop(problem: Problem, method: str, steps: int, convention: str) -> torch.Tensor:
    found = slow_scores(
        problem.store.network(),
        problem.prompts,
        problem.objective,
        problem.graph,
        method,
        steps=steps,
        convention=convention,
        ablation=problem.made.ablation,
    )
    return torch.tensor([found[str(edge)] for edge in problem.graph.edges], dtype=torch.float64)


@pairs({"family": FAMILIES, "method": METHODS, "convention": ["mean", "eap-ig"]})
def test_every_method_is_an_independent_loop(family: str, method: str, convention: str):
    problem = problem_for(family, every_item=family == "tracr", direct_edges=convention == "mean")
    fast = gradient_scores(problem, method, steps=2, convention=convention)
    slow = by_loop(problem, method, 2, convention)
    assert slow.abs().max() > 1e-3
    assert torch.allclose(fast, slow, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
@given(
    family=st.sampled_from(FAMILIES),
    method=st.sampled_from(METHODS),
    metric=st.sampled_from(METRICS),
    ablation=st.sampled_from(["corrupted", "zero", "mean"]),
    split=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_every_metric_and_ablation_too(family, method, metric, ablation, split, seed):
    asked = {"metric": metric, "ablation": ablation, "split_embed": split, "direct_edges": True}
    problem = problem_for(family, seed, length=3, every_item=True, **asked)
    fast = gradient_scores(problem, method, steps=1)
    slow = by_loop(problem, method, 1, "mean")
    assert torch.allclose(fast, slow, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_eap_is_a_finite_difference_of_the_reference_forward(family: str):
    problem = problem_for(family, batch=3)
    scores, step = gradient_scores(problem, "eap"), 1e-5
    for edge in range(0, len(problem.graph.edges), 7):
        losses = []
        for share in (1 - step, 1 + step):  # of the edge that is present
            present = torch.ones(len(problem.graph.edges), dtype=torch.float64)
            present[edge] = share
            losses.append(problem.objective.loss(circuit_logits(problem, present)))
        measured, score = float(losses[0] - losses[1]) / (2 * step), float(scores[edge])
        assert abs(measured - score) < 1e-7 * max(1.0, abs(score))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_batches_and_the_order_of_prompts_change_nothing(family: str, method: str):
    problem = problem_for(family, batch=5, every_item=True, metric="nll", direct_edges=True)
    whole = gradient_scores(problem, method, steps=2)
    for size in (1, 2, 4, 9):
        assert torch.allclose(gradient_scores(problem, method, steps=2, batch_size=size), whole, rtol=1e-9, atol=1e-12)
    prompts, order = problem.prompts, torch.tensor([3, 0, 4, 1, 2])
    items = torch.cat([(prompts.items[:, 0] == at).nonzero()[:, 0] for at in order])
    moved = prompts.items[items].clone()
    moved[:, 0] = torch.tensor([order.tolist().index(int(at)) for at in moved[:, 0]])
    targets = {"answer": prompts.targets["answer"][items]}
    shuffled = Prompts(prompts.clean[order], prompts.corrupted[order], moved, targets)
    other = build_problem(problem.store.network(), shuffled, metric="nll")
    assert torch.allclose(gradient_scores(other, method, steps=2), whole, rtol=1e-9, atol=1e-12)


def test_eap_igs_convention_divides_by_the_batch():
    problem = problem_for("gpt2", batch=4)
    mean, whole = (gradient_scores(problem, "eap", convention=name) for name in ("mean", "eap-ig"))
    assert torch.allclose(whole, mean / 4, rtol=1e-12, atol=0)
    for size in (1, 2, 4):
        halves = gradient_scores(problem, "eap", convention="eap-ig", batch_size=size)
        assert torch.allclose(halves, mean / size, rtol=1e-10, atol=1e-14)


def test_memory_bounds_the_batch_and_changes_nothing(monkeypatch):
    problem = problem_for("gpt2", batch=4)
    whole = {name: gradient_scores(problem, "eap", convention=name) for name in ("mean", "eap-ig")}
    monkeypatch.setattr("pahq.scores.gradients.BATCH_BYTES", 1)  # one prompt at a time
    for name, scores in whole.items():
        assert torch.allclose(gradient_scores(problem, "eap", convention=name), scores, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", ["eap-ig", "eap-ig-activations"])
def test_more_steps_change_nothing_but_rounding(method: str):
    problem = problem_for("gpt2")
    few, many = (gradient_scores(problem, method, steps=steps) for steps in (32, 48))
    assert (few - many).abs().max() < 1e-7 * many.abs().max()
    ten = gradient_scores(problem, method, steps=10)
    theirs = gradient_scores(problem, method, steps=10, convention="eap-ig") * len(problem.prompts.clean)
    if method == "eap-ig":  # ten of Gauss and Legendre's nodes are closer to the integral than ten even ones
        assert 10 * (ten - many).abs().max() < (theirs - many).abs().max()


def test_the_rule_of_gauss_and_legendre_is_exact_for_polynomials():
    for steps in (1, 2, 5):
        rule = gauss_legendre(steps)
        for power in range(2 * steps):
            assert abs(sum(weight * node**power for node, weight in rule) - 1 / (power + 1)) < 1e-14


@pytest.mark.parametrize("method", METHODS)
def test_a_group_of_heads_has_the_sum_of_its_heads_scores(method: str):
    """Where keys and values are repeated head by head (the graph of EAP-IG's code), their scores add up to ours."""
    problem = problem_for("llama")
    model, size = problem.store.network(), 2
    names = ("W_K", "W_V", "b_K", "b_V")
    layers = tuple(
        replace(layer, **{name: getattr(layer, name).repeat_interleave(size, 0) for name in names})
        for layer in model.layers
    )
    alone = replace(model, config=model.config.model_copy(update={"kv_heads": 4}), layers=layers)
    other = build_problem(alone, problem.prompts, metric="logit_diff", direct_edges=False)
    scores = dict(zip(map(str, other.graph.edges), gradient_scores(other, method, steps=3).tolist(), strict=True))
    for edge, value in zip(problem.graph.edges, gradient_scores(problem, method, steps=3).tolist(), strict=True):
        name, at = str(edge), edge.receiver
        heads = problem.graph.shape.query_heads(at.letter, at.head) if at.kind == "head" else []
        parts = [name.replace(f".h{at.head}<", f".h{head}<") for head in heads] or [name]
        assert abs(sum(scores[part] for part in parts) - value) < 1e-12


def test_memory_is_linear_in_senders():
    """Twice the layers are twice the senders, and four times the edges: the bytes at the peak grow as senders do."""
    sizes, found = {"heads": 16, "kv_heads": 16, "d_model": 128, "d_head": 8, "d_mlp": 128}, []
    for layers in (6, 12):
        model = small_models.random_model("gpt2", layers=layers, dtype=torch.float32, **sizes)
        prompts = small_models.random_prompts(model, batch=64, length=8)
        with torch.no_grad():
            problem = build_problem(model, prompts, metric="logit_diff", direct_edges=False)
        found.append(peak_bytes(partial(gradient_scores, problem, "eap")))
        assert found[-1] < 64 * prompt_bytes(problem)
    assert found[1] < 2 * found[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_take_no_more_memory_than_is_estimated_and_no_less_than_a_third(shape: str):
    problem = bulky_problem(shape)
    estimate = PROMPTS * prompt_bytes(problem)
    assert estimate / 3 < peak_bytes(partial(gradient_scores, problem, "eap")) < estimate
