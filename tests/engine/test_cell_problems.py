"""From a cell's configuration to its problem: every setting arrives, and its twins are in full precision."""

from __future__ import annotations

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.config.cell import CellConfig
from pahq.engine import problem as module
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem, cell_problem, fresh_problem, full_problem
from pahq.engine.reference import ReferenceEngine
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import PrecisionStore
from pahq.tasks.task import Task

INT8 = {"name": "int8", "format": "int8", "mlp": "bf16"}
CODES = INT8 | {"compute": "int8", "kernel": "codes"}


def cell_of(precision: dict[str, str] = INT8, method: dict[str, object] | None = None, **task: object) -> CellConfig:
    values = {"name": "t", "kind": "ioi", "examples": 3, "metric": "nll"} | task
    chosen = {"name": "pahq", "focus": "receiver"} | (method or {})
    model = {"name": "m", "source": "m"}
    return CellConfig.model_validate(
        {"task": values, "model": model, "method": chosen, "precision": precision, "threshold": 0.1}
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What ``build_problem`` is asked for from now on."""
    found: list[dict[str, object]] = []
    real = build_problem
    monkeypatch.setattr(
        module, "build_problem", lambda *args, **settings: found.append(settings) or real(*args, **settings)
    )
    return found


def test_every_setting_of_a_cell_arrives(asked: list[dict[str, object]]) -> None:
    model = random_model("gpt2")
    cell = cell_of(
        method={"arithmetic": "changes", "round": 7, "direct_edges": False}, ablation="mean", split_embed=True
    )
    problem = cell_problem(cell, model, random_prompts(model))
    assert (problem.made.metric, problem.made.ablation, problem.made.split_embed) == ("nll", "mean", True)
    assert (problem.focus, problem.round_size, problem.graph.n_direct) == ("receiver", 7, 0)
    assert problem.graph.shape.split_embed
    assert isinstance(problem.changes, PrecisionStore)
    assert problem.changes.low is not problem.changes.full
    assert asked[0]["schedule"] == "overlapped"


@pytest.mark.parametrize(
    ("precision", "store", "packed"),
    [(INT8, None, False), (INT8, "packed", True), (CODES, None, True), (CODES, "packed", True)],
)
def test_codes_lie_in_a_packed_store_and_others_where_they_are_wanted(
    precision: dict[str, str], store: str | None, packed: bool
) -> None:
    model = random_model("gpt2", dtype=torch.float32)
    prompts, cell = random_prompts(model), cell_of(precision)
    assert isinstance(cell_problem(cell, model, prompts, store=store).store, PackedStore) == packed
    full = cell_problem(cell, model, prompts, store=store, full=True)
    assert isinstance(full.store, PackedStore) == (store == "packed")


@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_the_cell_beside_it_is_acdc_in_full_precision(arithmetic: str) -> None:
    model = random_model("gpt2")
    prompts = random_prompts(model)
    cell = cell_of(method={"arithmetic": arithmetic, "direct_edges": False}, ablation="zero")
    problem = cell_problem(cell, model, prompts)
    full = full_problem(cell, model, prompts, problem)
    assert (full.focus, full.changes, full.round_size) == ("none", None, None)
    if arithmetic == "changes":
        assert full.store is problem.store  # the very same state
    expected = build_problem(model, prompts, metric="nll", ablation="zero", direct_edges=False)
    trials = [Trial(edge, (edge,)) for edge in range(0, len(expected.graph.edges), 9)]
    assert ReferenceEngine(full).measure(trials) == pytest.approx(ReferenceEngine(expected).measure(trials), abs=1e-12)


def test_a_circuit_is_judged_by_fresh_prompts_and_the_tasks_own_metric() -> None:
    model = random_model("gpt2")
    task = Task("t", random_prompts(model, 1), random_prompts(model, 2), "margin")
    found = fresh_problem(cell_of(ablation="mean", split_embed=True, metric="kl"), model, task)
    assert found.prompts is task.fresh
    assert (found.made.metric, found.made.ablation, found.made.split_embed) == ("margin", "mean", True)
    assert found.graph.n_direct == len(found.graph.head_inputs)
    assert isinstance(found.store, PrecisionStore)
    assert all(
        torch.equal(low.W_Q, full.W_Q)
        for low, full in zip(found.store.low.layers, found.store.full.layers, strict=True)
    )
    without = fresh_problem(cell_of(method={"direct_edges": False}), model, task)
    assert without.graph.n_direct == 0
