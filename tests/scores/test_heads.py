"""Head importance scores equal finite differences of an independent forward, whatever the batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import small_models
from support.slow_heads import slow_head_scores

from pahq.circuits.graph import Receiver
from pahq.engine.problem import Problem, build_problem
from pahq.scores.heads import head_scores
from pahq.scores.nodes import edge_scores

FAMILIES, ABLATIONS = sorted(small_models.FAMILIES), ("corrupted", "zero", "mean")


def problem_for(family: str, *, batch: int = 2, **asked: object) -> Problem:
    model = small_models.random_model(family, 4)
    prompts = small_models.random_prompts(model, 4, batch=batch, length=3, every_item=True)
    return build_problem(model, prompts, **({"metric": "logit_diff", "direct_edges": False} | asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("at", range(len(FAMILIES)))
def test_scores_are_finite_differences_of_an_independent_forward(at: int):
    family, ablation = FAMILIES[at], ABLATIONS[at % 3]
    problem = problem_for(family, ablation=ablation, direct_edges=ablation == "zero")
    network, graph = problem.store.network(), problem.graph
    slow = slow_head_scores(network, problem.prompts, problem.objective, graph, ablation)
    expected = torch.tensor([slow[str(edge)] for edge in graph.edges], dtype=torch.float64)
    found = head_scores(problem)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert len(set(expected.tolist())) > graph.shape.heads


def test_batches_change_nothing():
    problem = problem_for("gpt2", batch=5, metric="nll")
    whole = head_scores(problem)
    for size in (1, 2, 4, 9):
        assert torch.allclose(head_scores(problem, batch_size=size), whole, rtol=1e-9, atol=1e-12)


def test_where_no_prompt_differs_from_its_corrupted_one_nodes_are_worth_nought():
    model = small_models.random_model("gpt2")
    prompts = small_models.random_prompts(model)
    scores = head_scores(build_problem(model, replace(prompts, corrupted=prompts.clean), metric="logit_diff"))
    assert scores.isfinite().all()
    assert set(scores.tolist()) == {0.0, 1.0}  # 1 from the embedding to the logits alone


def test_an_edge_is_worth_its_lesser_end():
    graph = problem_for("gpt2").graph
    inputs = {receiver: 0.5 for receiver in graph.head_inputs} | {Receiver("head", 1, 0, "q"): 0.2}
    outputs = {at: 0.3 for at, node in enumerate(graph.senders) if node.kind != "embed"}
    named = dict(zip(map(str, graph.edges), edge_scores(graph, inputs, outputs).tolist(), strict=True))
    assert named["embed->logits"] == 1.0
    assert named["embed->a1.h0<q>"] == named["a0.h1->a1.h0<q>"] == 0.2
    assert named["embed->a1.h1<q>"] == 0.5
    assert named["m0->a1.h1<q>"] == named["m0->m1"] == named["a1.h2->logits"] == 0.3
