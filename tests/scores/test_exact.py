"""Exact scores are the reference engine's losses of one edge removed, less that of the whole graph."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import small_models
from support.allocated import peak_bytes

from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.scores.exact import exact_scores


def by_reference(problem: Problem) -> torch.Tensor:
    engine = ReferenceEngine(problem)
    edges = range(len(problem.graph.edges))
    (whole,) = engine.measure([Trial(0, ())])
    return torch.tensor(engine.measure([Trial(edge, (edge,)) for edge in edges]), dtype=torch.float64) - whole


@given(
    family=st.sampled_from(sorted(small_models.FAMILIES)),
    metric=st.sampled_from(["kl", "logit_diff", "prob_diff", "margin", "nll", "mse"]),
    ablation=st.sampled_from(["corrupted", "zero", "mean"]),
    layers=st.integers(1, 3),
    every_item=st.booleans(),
    same=st.integers(0, 4),
    direct=st.booleans(),
    split=st.booleans(),
    rows=st.sampled_from([None, 1, 40]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_exact_scores_are_the_reference_engines(
    family, metric, ablation, layers, every_item, same, direct, split, rows, seed
):
    model = small_models.random_model(family, seed, layers=layers)
    prompts = small_models.random_prompts(model, seed, batch=2, every_item=every_item, same=same)
    split = split and model.config.positions == "learned"
    asked = {"metric": metric, "ablation": ablation, "split_embed": split, "direct_edges": direct}
    problem = build_problem(model, prompts, **asked)
    assert torch.allclose(exact_scores(problem, rows=rows), by_reference(problem), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
def test_in_float32_they_are_off_by_rounding(family):
    """Of models whose sums float32 can tell so well in whatever order a processor adds them up."""
    for seed in (1, 2):
        model = small_models.random_model(family, seed, dtype=torch.float32)
        prompts = small_models.random_prompts(model, same=1)
        scores = exact_scores(build_problem(model, prompts, metric="logit_diff"))
        wide = by_reference(build_problem(model.to(dtype=torch.float64), prompts, metric="logit_diff"))
        assert (scores - wide).abs().max() < 2e-6 * wide.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_are_exact_where_the_root_of_a_heads_width_is_not_half_of_it(family):
    model = small_models.random_model(family, d_head=6)
    problem = build_problem(model, small_models.random_prompts(model), metric="logit_diff")
    assert torch.allclose(exact_scores(problem), by_reference(problem), rtol=1e-9, atol=1e-10)


def test_memory_is_linear_in_senders_and_every_edge_is_reported():
    """Twice the layers are twice the senders, and four times the edges: the bytes at the peak grow as senders do."""
    sizes, peaks = {"heads": 16, "kv_heads": 16, "d_model": 64, "d_head": 4, "d_mlp": 64}, []
    for layers in (2, 4):
        model = small_models.random_model("gpt2", layers=layers, dtype=torch.float32, **sizes)
        prompts = small_models.random_prompts(model, batch=64, length=8)
        problem = build_problem(model, prompts, metric="logit_diff", direct_edges=False)
        seen: list[int] = []
        some = range(0, len(problem.graph.edges), 40)
        peaks.append(peak_bytes(partial(exact_scores, problem, edges=some, rows=512, report=seen.append)))
        assert sum(seen) == len(some)
    assert peaks[1] < 2 * peaks[0]


@pytest.mark.parametrize("rows", [1, 24, 1000])
def test_as_many_edges_are_scored_together_as_their_rows_fit(rows: int):
    """A trial takes the positions behind the first that differs; of the last layer a metric reads one a prompt."""
    batch, length, same, layers = 2, 5, 1, 2
    model = small_models.random_model("llama", layers=layers)
    prompts = small_models.random_prompts(model, batch=batch, length=length, same=same)
    problem = build_problem(model, prompts, metric="logit_diff")
    seen, expected = list[int](), list[int]()
    exact_scores(problem, rows=rows, report=seen.append)
    for receiver in reversed(problem.graph.receivers):
        one = receiver.layer in (-1, layers - 1) and receiver.letter not in ("k", "v")
        together = max(1, rows // (batch * (1 if one else length - same)))
        whole, rest = divmod(problem.graph.upstream(receiver), together)
        expected += [together] * whole + [rest] * (rest > 0) + [1] * (receiver.kind == "head")  # its Direct edge
    assert seen == expected
