"""Scoring by its names: what a call gives, and what is refused with a sentence."""

from __future__ import annotations

import pytest
import torch
from support import small_models

import pahq
from pahq.config.method import GRADIENTS, LEARNED
from pahq.config.method import SCORING as METHODS
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.scores.exact import exact_scores
from pahq.scores.gradients import gradient_scores
from pahq.scores.heads import head_scores
from pahq.scores.start import random_scores
from pahq.scores.start import score as score_problem

MODEL = small_models.random_model("gpt2")
PROMPTS = small_models.random_prompts(MODEL, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_call_gives_the_methods_numbers_and_says_what_made_them(method: str):
    problem = build_problem(MODEL, PROMPTS, metric="nll", ablation="mean", direct_edges=True)
    more = {"training": {"steps": 3}, "seed": 5} if method in LEARNED else {"seed": 5} if method == "random" else {}
    more |= {"size": 9} if method == "edge-pruning" else {}
    asked = {"metric": "nll", "ablation": "mean", "direct_edges": True, "steps": 3, "progress": False}
    made = pahq.score(MODEL, PROMPTS, method, **asked, **more)
    if method in GRADIENTS:
        found = gradient_scores(problem, method, steps=3)
    elif method in LEARNED:
        found = torch.tensor(score_problem(problem, method, **more).values, dtype=torch.float64)
    else:
        others = {"exact": exact_scores, "hisp": head_scores, "random": lambda problem: random_scores(problem, 5)}
        found = others[method](problem)
    assert torch.allclose(torch.tensor(made.values, dtype=torch.float64), found, rtol=1e-12, atol=1e-14)
    assert isinstance(made, pahq.Scores)
    assert (made.method, made.metric, made.convention, made.ablation) == (method, "nll", "mean", "mean")
    assert made.steps == (3 if method.startswith("eap-ig") or method in LEARNED else None)
    assert len(made) == len(problem.graph.edges) > problem.graph.n_addition


def test_direct_edges_are_scored_where_asked():
    assert pahq.score(MODEL, PROMPTS, "eap").graph.n_direct == 0
    assert pahq.score(MODEL, PROMPTS, "eap", direct_edges=True).graph.n_direct > 0
    assert len(pahq.score(MODEL, PROMPTS).top(5, clean=False)) == 5


def test_masks_are_learnt_from_kl_if_nothing_is_said():
    assert pahq.score(MODEL, PROMPTS, "sp", training={"steps": 1}, progress=False).metric == "kl"
    assert pahq.score(MODEL, PROMPTS, "hisp").metric == "logit_diff"


def test_random_scores_are_those_of_a_seed():
    first, again, other = (pahq.score(MODEL, PROMPTS, "random", seed=seed).values for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == len(first)


def test_the_least_that_can_be_asked_is_done():
    least = pahq.score(MODEL, PROMPTS, "eap-ig", steps=1, batch_size=1, seed=0)
    assert least.values == pytest.approx(pahq.score(MODEL, PROMPTS, "eap-ig", steps=1).values, rel=1e-9, abs=1e-12)
    assert least.steps == 1
    drawn = pahq.score(MODEL, PROMPTS, "random", convention="eap-ig", direct_edges=True)  # which is of gradients alone
    assert drawn.graph.n_direct > 0


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
        ({"steps": None}, "steps: a whole number"),
        ({"batch_size": 0}, "batch_size: a whole number"),
        ({"batch_size": True}, r"batch_size: a whole number of at least 1 was expected \(got True\)"),
        ({"seed": -1}, r"seed: a whole number of at least 0 was expected \(got -1\)"),
        ({"seed": 1.0}, "seed: a whole number"),
        ({"metric": "loss"}, "loss"),
        ({"ablation": "none"}, "ablation"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(asked: dict[str, object], sentence: str):
    with pytest.raises(PahqError, match=sentence):
        pahq.score(MODEL, PROMPTS, **asked)  # type: ignore[arg-type]
