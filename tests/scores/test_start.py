"""Scoring by its names: what a call gives, and what is refused with a sentence."""

from __future__ import annotations

import pytest
import torch
from support import small_models

import pahq
from pahq.config.method import SCORING as METHODS
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.scores.exact import exact_scores
from pahq.scores.gradients import gradient_scores

MODEL = small_models.random_model("gpt2")
PROMPTS = small_models.random_prompts(MODEL, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_call_gives_the_methods_numbers_and_says_what_made_them(method: str):
    problem = build_problem(MODEL, PROMPTS, metric="nll", ablation="mean", direct_edges=True)
    made = pahq.score(MODEL, PROMPTS, method, metric="nll", ablation="mean", direct_edges=True, steps=3)
    found = exact_scores(problem) if method == "exact" else gradient_scores(problem, method, steps=3)
    assert torch.allclose(torch.tensor(made.values, dtype=torch.float64), found, rtol=1e-12, atol=1e-14)
    assert isinstance(made, pahq.Scores)
    assert (made.method, made.metric, made.convention, made.ablation) == (method, "nll", "mean", "mean")
    assert made.steps == (3 if method.startswith("eap-ig") else None)
    assert len(made) == len(problem.graph.edges) > problem.graph.n_addition


def test_direct_edges_are_scored_where_asked():
    assert pahq.score(MODEL, PROMPTS, "eap").graph.n_direct == 0
    assert pahq.score(MODEL, PROMPTS, "eap", direct_edges=True).graph.n_direct > 0
    assert len(pahq.score(MODEL, PROMPTS).top(5, clean=False)) == 5


def test_under_no_grad_there_are_gradients_all_the_same():
    with torch.no_grad():
        assert pahq.score(MODEL, PROMPTS).values == pahq.score(MODEL, PROMPTS).values


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"method": "eapig"}, "unknown method of scoring 'eapig'; known: clean-corrupted, eap, eap-ig"),
        ({"method": "eap", "metric": "kl"}, "method=eap with metric=kl would be rounding noise: .* use method=eap-ig"),
        ({"method": "eap", "metric": "mse"}, "method=eap with metric=mse would be rounding noise"),
        ({"convention": "theirs"}, "unknown convention 'theirs'; known: eap-ig, mean"),
        ({"convention": "eap-ig", "direct_edges": True}, "EAP-IG's code, whose graph has no Direct edges"),
        ({"steps": 0}, r"steps: a whole number of at least 1 was expected \(got 0\)"),
        ({"steps": 2.0}, "steps: a whole number"),
        ({"batch_size": 0}, "batch_size: a whole number"),
        ({"metric": "loss"}, "loss"),
        ({"ablation": "none"}, "ablation"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(asked: dict[str, object], sentence: str):
    with pytest.raises(PahqError, match=sentence):
        pahq.score(MODEL, PROMPTS, **asked)  # type: ignore[arg-type]
