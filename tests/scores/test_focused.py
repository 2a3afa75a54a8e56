"""PAHQ inside scores: each edge's score is that of the mixed network with its receiver's head in full precision."""

from __future__ import annotations

import pytest
import torch
from support import small_models

import pahq
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_logits
from pahq.errors import PahqError
from pahq.precision.store import focus_of
from pahq.scores.focused import FocusedStore
from pahq.scores.gradients import METHODS
from pahq.scores.start import score

FAMILIES = sorted(small_models.FAMILIES)
INT4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
BF16 = PrecisionConfig(name="bf16", format="bf16", mlp="bf16", compute="bf16")
INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16", compute="int8")
FLOAT32 = PrecisionConfig(name="float32", format="float32")


def problem_for(family: str, precision: PrecisionConfig = INT4, focus: str = "receiver", **asked: object) -> Problem:
    model = small_models.random_model(family)
    prompts = small_models.random_prompts(model, batch=2, length=4)
    values = {"metric": "logit_diff", "precision": precision, "focus": focus} | asked
    return build_problem(model, prompts, **values)  # type: ignore[arg-type]


def values(problem: Problem, method: str) -> torch.Tensor:
    return torch.tensor(score(problem, method, steps=2).values, dtype=torch.float64)


@pytest.mark.parametrize("precision", [INT4, BF16], ids=["int4", "bf16 products"])
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_scores_are_the_reference_engines_with_each_edges_focus(
    family: str, ablation: str, precision: PrecisionConfig
) -> None:
    problem = problem_for(family, precision, ablation=ablation)
    engine, graph = ReferenceEngine(problem), problem.graph
    slow = []
    for edge in range(len(graph.edges)):
        whole, without = engine.measure([Trial(edge, ()), Trial(edge, (edge,))])
        slow.append(without - whole)
    found = values(problem, "exact")
    assert torch.allclose(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(found, values(problem_for(family, precision, "none", ablation=ablation), "exact"))


@pytest.mark.parametrize("family", FAMILIES)
def test_eap_is_a_finite_difference_of_the_reference_forward_in_focus(family: str) -> None:
    problem = problem_for(family, direct_edges=False)
    found, step = values(problem, "eap"), 1e-5
    for edge in range(0, len(problem.graph.edges), 7):
        focus, losses = focus_of(problem.graph, problem.graph.edges[edge], "receiver"), []
        for share in (1 - step, 1 + step):
            present = torch.ones(len(problem.graph.edges), dtype=torch.float64)
            present[edge] = share
            losses.append(problem.objective.loss(circuit_logits(problem, present, focus)))
        measured = float(losses[0] - losses[1]) / (2 * step)
        assert abs(measured - float(found[edge])) < 1e-7 * max(1.0, abs(measured))


@pytest.mark.parametrize("method", [*METHODS, "exact"])
def test_with_nothing_rounded_a_focus_changes_nothing(method: str) -> None:
    focused, plain = (problem_for("llama", FLOAT32, focus) for focus in ("receiver", "none"))
    assert torch.equal(values(focused, method), values(plain, method))


@pytest.mark.parametrize("method", [*METHODS, "exact"])
def test_the_focus_brings_scores_closer_to_full_precision(method: str) -> None:
    """Not in every case, but over the heads' edges of these models, at 4 bits, it does for every method."""
    errors = {"receiver": 0.0, "none": 0.0}
    for family in ("gpt2", "llama", "qwen"):
        full = values(problem_for(family, FLOAT32), method)
        for focus in errors:
            errors[focus] += float(
                (values(problem_for(family, INT4, focus), method) - full).abs().sum() / full.abs().sum()
            )
    assert 0 < errors["receiver"] < errors["none"]


@pytest.mark.parametrize("precision", [BF16, INT8], ids=["bf16", "int8"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_go_straight_through_rounded_operands(method: str, precision: PrecisionConfig) -> None:
    full, low = (values(problem_for("gpt2", p, "none"), method) for p in (FLOAT32, precision))
    assert torch.corrcoef(torch.stack([full, low]))[0, 1] > 0.999
    assert not torch.equal(full, low)


def test_a_store_in_focus_is_the_one_beneath_with_some_groups_in_full_precision_besides() -> None:
    beneath, own = problem_for("llama").store, frozenset({(0, 1), (1, 0)})
    store = FocusedStore(beneath, own)
    for name in ("config", "nbytes", "uniform", "products"):
        assert getattr(store, name) == getattr(beneath, name)
    assert store.ends.W_E is beneath.ends.W_E
    assert type(store.schedule) is type(beneath.schedule)
    asked = frozenset({(1, 0), (1, 1)})
    rows = (1, "q", [0, 3])
    assert torch.equal(store.rows(*rows, asked), beneath.rows(*rows, own | asked))
    assert not torch.equal(store.rows(*rows, asked), beneath.rows(*rows, frozenset()))
    for index, network in enumerate(store.network().layers):
        assert torch.equal(network.W_Q, beneath.layer(index, own).W_Q)
        assert torch.equal(store.layer(index, asked).W_K, beneath.layer(index, own | asked).W_K)


def test_from_python_as_a_search_is_asked() -> None:
    model = small_models.random_model("gpt2", dtype=torch.float32)
    prompts = small_models.random_prompts(model, 1)
    focused = pahq.score(model, prompts, "eap-ig", precision="int4", focus="receiver")
    assert focused.values != pahq.score(model, prompts, "eap-ig", precision="int4").values
    with pytest.raises(PahqError, match="unknown precision 'int5'"):
        pahq.score(model, prompts, precision="int5")
    with pytest.raises(PahqError, match="focus"):
        pahq.score(model, prompts, precision="int4", focus="sender")
    with pytest.raises(PahqError, match="method hisp looks at all edges at once, so that no head is under test"):
        pahq.score(model, prompts, "hisp", precision="int4", focus="receiver")
