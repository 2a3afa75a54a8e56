"""Tests near the threshold are found, measured again in the state they were taken in, and flips are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import small_models

from pahq.cell.journal import read_journal
from pahq.cell.result import Float64Audit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.order import Order
from pahq.config.cell import CellConfig, RunConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.search.acdc import Decision, acdc
from pahq.search.audit import audit
from pahq.search.doubt import COUNT, SHARE
from pahq.search.sample import unseen_share
from pahq.search.speculate import speculate
from pahq.search.start import focus_on, start_search

random_model, random_prompts = small_models.random_model, small_models.random_prompts


class Additive:
    """Every edge costs a fixed loss; remembers what was gone at each measurement."""

    def __init__(self, costs: Sequence[float]) -> None:
        self.graph: Graph = build_graph(ModelShape(1, 1, 1, False))
        self.costs, self.gone, self.states = costs, set[int](), list[set[int]]()

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        self.states.append(set(self.gone))
        return [sum(self.costs[edge] for edge in self.gone | set(trial.removed)) for trial in trials]

    def remove(self, edges: Sequence[int]) -> None:
        self.gone |= set(edges)


def test_each_test_is_measured_in_its_own_state_and_flips_are_named():
    engine = Additive([0.01, 0.2, 0.3, 0.02, 0.0])
    recorded = [Decision(0, 0, 0.0, 0.01, True), Decision(1, 1, 0.01, 0.0, True), Decision(2, 2, 0.01, 0.31, False)]
    found = audit(engine, recorded, [1, 2], 0.1)
    assert found.tests == (1, 2)
    assert found.flipped == (1,)  # recorded as removed; its effect is 0.2
    assert found.worst == pytest.approx(0.21)
    assert engine.states == [{0}, {0, 1}]


def test_signs_count_in_an_audit_as_they_did_in_the_search():
    recorded = [Decision(0, 0, 0.0, -0.3, True), Decision(1, 1, -0.3, -0.25, True)]
    costs = [-0.3, 0.05, 0.0, 0.0, 0.0]
    assert audit(Additive(costs), recorded, [0, 1], 0.1).flipped == ()
    assert audit(Additive(costs), recorded, [0, 1], 0.1, absolute=True).flipped == (0,)


def test_float64_confirms_a_float32_search_of_the_suffix_engine():
    double = random_model("gpt2")
    single = double.to(dtype=torch.float32)
    prompts = random_prompts(double)
    taken = list(speculate(SuffixEngine(build_problem(single, prompts, metric="kl")), Order(), 0.1))
    exact = ReferenceEngine(build_problem(double, prompts, metric="kl"))
    found = audit(exact, taken, range(len(taken)), 0.1)
    assert len(found.tests) == len(taken)
    assert found.flipped == ()
    assert 0 < found.worst < 1e-5
    assert [d.edge for d in acdc(ReferenceEngine(build_problem(double, prompts, metric="kl")), Order(), 0.1)] == [
        d.edge for d in taken
    ]


def test_no_change_of_focus_is_booked_on_an_edge():
    model = random_model("gpt2", 3)
    int4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
    problem = build_problem(
        model, random_prompts(model, 3, every_item=True), metric="kl", precision=int4, focus="receiver"
    )
    taken = list(start_search("reference", problem, Order(), 0.05))
    found = audit(ReferenceEngine(problem), taken, range(len(taken)), 0.05, focus=focus_on(problem))
    assert (found.flipped, found.worst) == ((), 0.0)
    assert audit(ReferenceEngine(problem), taken, range(len(taken)), 0.05).worst > 0.01  # what it would book


def test_a_cell_says_what_its_audit_found(tmp_path: Path):
    from pahq.cell.run import run_cell
    from pahq.experiments.compose import compose_runs

    ((cell, _),) = compose_runs(["task=tracr-proportion", "method=acdc", "threshold=0.01", "audit=float64"])
    assert isinstance(cell, CellConfig)
    certainty = run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False)).result.certainty
    assert certainty.noise > 0
    found = certainty.audit
    assert isinstance(found, Float64Audit)
    assert (found.tests, found.flipped) == (certainty.at_risk, ())
    assert found.worst_difference == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("engine", ["suffix", "reference"])
def test_a_cell_says_how_far_carried_losses_drifted(tmp_path: Path, engine: str):
    from pahq.cell.run import run_cell
    from pahq.experiments.compose import compose_runs

    wanted = ["task=nano-ioi", "method=acdc", "threshold=0.1", "task.examples=4", f"engine.name={engine}"]
    ((cell, _),) = compose_runs(wanted)
    result = run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False))
    found = result.result.certainty
    noted = [line.drift for line in read_journal(result.folder / "decisions.jsonl") if line.drift is not None]
    if engine == "reference":
        assert (found.drift, noted) == (None, [])
    else:
        assert 0 < found.drift < 1e-4
        assert 0 < found.noise < 1e-4
        assert noted == sorted(set(noted))
        assert noted[-1] == found.drift


def test_drift_is_told_and_noise_is_measured_apart_from_it():
    """The same code again, once per layer, says how far carried losses went astray: nothing of what float64 says."""
    from pahq.cell.outcome import certainty
    from pahq.cell.run import load
    from pahq.engine.problem import cell_problem
    from pahq.experiments.compose import compose_runs
    from pahq.search.start import cell_doubts, search

    ((cell, _),) = compose_runs(["task=tracr-reverse", "method=acdc", "threshold=0.01"])
    model, task = load(cell, "cpu")
    problem = cell_problem(cell, model, task.search)
    doubts = cell_doubts(cell, problem)
    decisions = list(search(cell, problem, [], doubts=doubts))
    drifted = [replace(decisions[0], drift=0.5), *decisions[1:]]
    before, after = (certainty(cell, model, task, None, taken, doubts) for taken in (decisions, drifted))
    assert 0 < before.noise < 1e-4
    assert after == before.model_copy(update={"drift": 0.5})


@pytest.mark.parametrize("doubts", ["float64", "leave"])
@pytest.mark.parametrize("engine", ["suffix", "reference"])
def test_the_certainty_of_a_cell_is_what_its_journal_says(tmp_path: Path, engine: str, doubts: str):
    from pahq.cell.run import run_cell
    from pahq.experiments.compose import compose_runs

    wanted = ["task=nano-ioi", "method=acdc", "threshold=1e-7", "task.examples=2", f"engine.name={engine}"]
    ((cell, _),) = compose_runs([*wanted, f"engine.doubts={doubts}"])
    result = run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False))
    told, lines = result.result.certainty, read_journal(result.folder / "decisions.jsonl")
    settled = [line for line in lines if line.rough]
    assert (told.settled, told.settled_share) == (len(settled), len(settled) / len(lines))
    assert bool(settled) == (doubts == "float64")
    falls = [line.rough[1] - line.rough[0] < cell.threshold for line in settled if line.rough]
    assert told.overturned == sum(fell != line.removed for fell, line in zip(falls, settled, strict=True))
    shares = [min(SHARE, COUNT / (i + 1)) for i in range(len(lines))]
    assert told.beyond == unseen_share(shares, told.confidence) < 0.08
    assert 0 < told.largest_error < told.noise < 1e-5
    if doubts == "leave":
        assert told.at_risk > 0
    assert told.audit is None
