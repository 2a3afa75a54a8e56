"""Tests near the threshold are found, measured again in the state they were taken in, and flips are told."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pahq.config import CellConfig, RunConfig
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.graph import Graph, ModelShape, build_graph
from pahq.results import read_journal
from pahq.search.acdc import Decision, acdc, circuit_of
from pahq.search.audit import SAFETY, at_risk, audit, noise_of
from pahq.search.order import Order
from pahq.search.speculate import speculate

SMALL = runpy.run_path(str(Path(__file__).parents[1] / "oracles" / "small_models.py"))
random_model, random_prompts = SMALL["random_model"], SMALL["random_prompts"]


def decision(index: int, effect: float, removed: bool) -> Decision:
    return Decision(index, index, 1.0, 1.0 + effect, removed)


def test_at_risk_is_what_noise_could_decide():
    taken = [decision(0, 0.5, False), decision(1, 0.1 + 1e-6, False), decision(2, 0.1 - 1e-6, True)]
    taken.append(Decision(3, 3, 1.0, float("nan"), False))
    assert at_risk(taken, 0.1, 1e-9) == (3,)
    assert at_risk(taken, 0.1, 2e-6 / SAFETY) == (1, 2, 3)
    assert at_risk([decision(0, -0.1, False)], 0.1, 1e-9, absolute=True) == (0,)


def test_noise_has_a_floor():
    assert noise_of(1.0, 1.0) == pytest.approx(2**-23)
    assert noise_of(1.0, 1.001) == pytest.approx(0.001)


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


def test_a_cell_says_what_its_audit_found(tmp_path: Path):
    from pahq.cell import run_cell
    from pahq.experiment import compose_runs

    ((cell, _),) = compose_runs(["task=tracr-proportion", "method=acdc", "threshold=0.01", "audit=float64"])
    assert isinstance(cell, CellConfig)
    values = run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False)).values["certainty"]
    assert values["noise"] > 0
    assert values["audit"] == {
        "tests": values["at_risk"],
        "flipped": [],
        "worst_difference": pytest.approx(0, abs=1e-6),
    }


@pytest.mark.parametrize("engine", ["suffix", "reference"])
def test_a_cell_says_how_far_carried_losses_drifted(tmp_path: Path, engine: str):
    from pahq.cell import run_cell
    from pahq.experiment import compose_runs

    wanted = ["task=nano-ioi", "method=acdc", "threshold=0.1", "task.examples=4", f"engine.name={engine}"]
    ((cell, _),) = compose_runs(wanted)
    result = run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False))
    found = result.values["certainty"]
    noted = [line.drift for line in read_journal(result.folder / "decisions.jsonl") if line.drift is not None]
    if engine == "reference":
        assert (found["drift"], noted) == (None, [])
    else:
        assert 0 < found["drift"] <= found["noise"] < 1e-4
        assert noted == sorted(set(noted))
        assert noted[-1] == found["drift"]


def test_drift_counts_as_noise():
    from pahq.cell import load, search
    from pahq.engine.problem import cell_problem
    from pahq.experiment import compose_runs
    from pahq.outcome import certainty

    ((cell, _),) = compose_runs(["task=tracr-reverse", "method=acdc", "threshold=0.01"])
    model, task = load(cell, "cpu")
    problem = cell_problem(cell, model, task.search)
    decisions = list(search(cell, problem, []))
    drifted = [replace(decisions[0], drift=0.5), *decisions[1:]]
    before, after = (
        certainty(cell, model, task, problem, None, taken, circuit_of(problem.graph, taken))
        for taken in (decisions, drifted)
    )
    assert before["noise"] < 1e-4
    assert (after["noise"], after["drift"]) == (0.5, 0.5)
    assert after["at_risk"] > before["at_risk"]
