"""The masked forward: the reference engine at masks of 0 and 1, an independent loop between; its gradients hold."""

from __future__ import annotations

import pytest
import torch
from support import small_models
from support.allocated import peak_bytes
from support.masked_forward import masked_logits as slow_logits
from support.pairs import pairs

from pahq.engine.base import Trial
from pahq.engine.masked import masked_logits
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_logits

FAMILIES = pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
ABLATIONS = pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])


def problem_for(family: str, ablation: str = "corrupted", *, direct: bool = True, same: int = 0) -> Problem:
    """``same``: how many positions corrupted prompts begin with that are the clean ones'."""
    model = small_models.random_model(family, 3)
    prompts = small_models.random_prompts(model, 3, batch=2, length=3, every_item=True, same=same)
    split = model.config.positions == "learned" and direct
    return build_problem(model, prompts, metric="kl", ablation=ablation, split_embed=split, direct_edges=direct)


def drawn(problem: Problem, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(problem.graph.edges), generator=generator, dtype=torch.float64)


def loss(problem: Problem, masks: torch.Tensor, projections: torch.Tensor | None = None) -> torch.Tensor:
    return problem.objective.loss(masked_logits(problem, masks, projections=projections))


@pairs({"family": sorted(small_models.FAMILIES), "ablation": ["corrupted", "zero", "mean"], "direct": [True, False]})
def test_masks_of_nought_and_one_are_circuits_of_the_reference_engine(family: str, ablation: str, direct: bool):
    problem = problem_for(family, ablation, direct=direct, same=int(direct))
    engine = ReferenceEngine(problem)
    for seed, density in ((0, 0.3), (1, 0.7), (2, 0.0), (3, 1.0)):
        present = drawn(problem, seed) < density
        engine.present = present
        (expected,) = engine.measure([Trial(0, ())])
        assert abs(float(loss(problem, present.double())) - expected) < 1e-10
        assert (masked_logits(problem, present) - circuit_logits(problem, present)).abs().max() < 1e-10


@pairs({"family": sorted(small_models.FAMILIES), "ablation": ["corrupted", "zero", "mean"], "direct": [True, False]})
def test_masks_between_are_an_independent_loop(family: str, ablation: str, direct: bool):
    problem = problem_for(family, ablation, direct=direct, same=int(not direct))
    graph, masks = problem.graph, 1.4 * drawn(problem, 5) - 0.2  # beyond 0 and 1 too
    inputs, named = [str(at) for at in graph.head_inputs], dict(zip(map(str, graph.edges), masks.tolist(), strict=True))
    own = None if direct else drawn(problem, 6)[: len(inputs)]
    asked = {"ablation": ablation, "split": graph.shape.split_embed, "direct": direct}
    asked["projections"] = None if own is None else dict(zip(inputs, own.tolist(), strict=True))
    slow = slow_logits(problem.store.network(), problem.prompts, named, **asked)
    assert (masked_logits(problem, masks, projections=own) - slow).abs().max() < 1e-10


@FAMILIES
@ABLATIONS
def test_gradients_are_finite_differences(family: str, ablation: str):
    for direct in (True, False):
        problem, step = problem_for(family, ablation, direct=direct, same=int(direct)), 1e-5
        masks, own = drawn(problem, 7), drawn(problem, 8)[: len(problem.graph.head_inputs)]
        leaves = [masks.requires_grad_(), *([] if direct else [own.requires_grad_()])]
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(problem, masks, None if direct else own), leaves)
        for at, gradient in enumerate(gradients):
            for entry in range(at, len(gradient), 5):
                nudged = []
                for sign in (1, -1):
                    values = [leaf.detach().clone() for leaf in leaves]
                    values[at][entry] += sign * step
                    nudged.append(float(loss(problem, *values)))
                measured, found = (nudged[0] - nudged[1]) / (2 * step), float(gradient[entry])
                assert abs(measured - found) < 1e-7 * max(1.0, abs(found)), entry


def test_gradients_do_not_pile_up_over_calls():
    problem = problem_for("gpt2")
    masks = drawn(problem, 9).requires_grad_()
    with torch.enable_grad():
        both = torch.autograd.grad(loss(problem, masks) + 2 * loss(problem, 1 - masks), masks)[0]
        apart = [torch.autograd.grad(loss(problem, value), masks)[0] for value in (masks, 1 - masks)]
        value = loss(problem, masks)
        again = [torch.autograd.grad(value, masks, retain_graph=True)[0] for _ in range(2)]
    assert torch.allclose(both, apart[0] + 2 * apart[1], rtol=1e-10, atol=1e-14)
    assert torch.equal(*again)


def test_memory_is_linear_in_senders():
    """Twice the layers are twice the senders, and four times the edges: the bytes at the peak grow as senders do."""
    sizes, peaks = {"heads": 16, "kv_heads": 16, "d_model": 128, "d_head": 8, "d_mlp": 128}, []
    for layers in (6, 12):
        model = small_models.random_model("gpt2", layers=layers, dtype=torch.float32, **sizes)
        prompts = small_models.random_prompts(model, batch=64, length=8)
        with torch.no_grad():
            problem = build_problem(model, prompts, metric="logit_diff", direct_edges=False)
        with torch.enable_grad():
            masks = torch.ones(len(problem.graph.edges), requires_grad=True)
            peaks.append(peak_bytes(lambda problem=problem, masks=masks: loss(problem, masks).backward()))
    assert peaks[1] < 2 * peaks[0]
