"""Whole judgements of circuits whose merits are known: compiled programs, full and empty circuits."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from pahq.cell.outcome import judge
from pahq.cell.run import load
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.published import published_circuit
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.faithfulness import measure as measure_module
from pahq.faithfulness.measure import measure, measure_curve
from pahq.faithfulness.nulls import Paths
from pahq.faithfulness.settings import Settings
from pahq.faithfulness.values import Values, normalised

SMALL = Settings(resamples=100, permutations=49)


def cell(task: str) -> CellConfig:
    [(config, _)] = compose_runs([f"task={task}", "engine.dtype=float64"])
    return config


def ground(task: str) -> Values:
    model, prompts = load(cell(task), "cpu")
    return Values.build(model, prompts, cell(task))


def truth(values: Values, kind: str) -> np.ndarray:
    edges = published_circuit(kind, values.graph)
    assert edges
    return np.array(Circuit.from_names(values.graph, edges).present)


@pytest.fixture(scope="module")
def proportion() -> tuple[Values, np.ndarray]:
    """Zero ablation, under which the compiled circuit is the truth: 50 prompts, values and the circuit."""
    values = ground("tracr-proportion-zero")
    return values, truth(values, "tracr-proportion")


def numbers(found: Any) -> list[float]:
    if isinstance(found, dict):
        return [number for value in found.values() for number in numbers(value)]
    if isinstance(found, list | tuple):
        return [number for value in found for number in numbers(value)]
    return [found] if isinstance(found, float) else []


def test_the_true_circuit_passes(proportion: tuple[Values, np.ndarray]) -> None:
    values, circuit = proportion
    found = measure(values, circuit, SMALL)
    tests = found["tests"]
    assert found["faithfulness"] == pytest.approx(1)
    assert found["faithfulness_interval"] == pytest.approx([1, 1])
    assert (tests["equivalence"]["p"], tests["equivalence"]["passed"]) == (1.0, True)
    assert tests["minimality"] == {"tested": 10, "p": 1.0, "passed": True, "superfluous": []}
    assert tests["sufficiency"]["passed"]
    assert found["node_minimality"]["trivial"] == []
    assert found["completeness"]["worst_relative"] == pytest.approx(0, abs=1e-6)


def test_the_true_circuit_of_the_other_program_passes() -> None:
    values = ground("tracr-reverse-zero")
    found = measure(values, truth(values, "tracr-reverse"), SMALL)
    assert found["faithfulness"] == pytest.approx(1)
    assert found["tests"]["minimality"]["passed"]
    assert found["tests"]["minimality"]["tested"] == 15
    assert found["tests"]["equivalence"]["p"] > 0.05
    assert found["tests"]["equivalence"]["passed"] is None  # six prompts: no outcome has p < .05


def test_a_superfluous_edge_is_found(proportion: tuple[Values, np.ndarray]) -> None:
    values, circuit = proportion
    extra = values.graph.index_of("pos->logits")
    assert not circuit[extra]
    larger = circuit.copy()
    larger[extra] = True
    found = measure(values, larger, SMALL)["tests"]["minimality"]
    assert found["superfluous"] == ["pos->logits"]
    assert not found["passed"]
    assert found["p"] < 1e-9


def test_a_circuit_that_lacks_an_edge_is_not_equivalent(proportion: tuple[Values, np.ndarray]) -> None:
    values, circuit = proportion
    lacking = circuit.copy()
    lacking[np.flatnonzero(circuit)[0]] = False
    found = measure(values, lacking, SMALL)
    assert found["faithfulness"] < 0.9
    assert not found["tests"]["equivalence"]["passed"]


def test_tests_of_too_few_draws_pass_nothing_and_fail_nothing(proportion: tuple[Values, np.ndarray]) -> None:
    """.9^28 is above .05, .9^29 below; one inflated circuit could mark an edge of ten as superfluous only at .005."""
    values, circuit = proportion
    few = replace(SMALL, random_circuits=28, inflated=1, permutations=19)
    found = measure(values, circuit, few)["tests"]
    for name in ("sufficiency", "partial_necessity", "minimality"):
        assert found[name]["p"] is not None
        assert found[name]["passed"] is None
    assert measure_module._independence(values, circuit, few, np.random.default_rng(0))["passed"] is None
    enough = measure(values, circuit, replace(few, random_circuits=29, inflated=3))["tests"]
    assert enough["sufficiency"]["passed"]
    assert enough["minimality"]["passed"]


def test_empty_and_random_circuits_fail(proportion: tuple[Values, np.ndarray]) -> None:
    values, circuit = proportion
    empty = measure(values, values.nothing, SMALL)
    assert empty["faithfulness"] == 0.0
    assert not empty["tests"]["equivalence"]["passed"]
    assert empty["tests"]["minimality"]["passed"] is None
    assert empty["tests"]["sufficiency"]["passed"] is None
    drawn = Paths(values.graph).circuit(int(circuit.sum()), Random(1))
    found = measure(values, drawn, SMALL)
    assert found["faithfulness"] < 0.5
    assert not found["tests"]["equivalence"]["passed"]
    assert not found["tests"]["sufficiency"]["passed"]


def test_the_full_circuit_is_faithful() -> None:
    values = ground("nano-greaterthan")
    small = replace(SMALL, subsets=2, node_subsets=0, edges=3, inflated=3, random_circuits=3)
    found = measure(values, values.everything, small)
    assert found["faithfulness"] == 1.0
    assert found["kl"] == pytest.approx(0, abs=1e-12)
    assert found["completeness"]["greedy"] == 0
    assert found["tests"]["equivalence"]["share"] == 0.5
    assert found["tests"]["minimality"]["passed"] is None  # nothing to inflate it with
    assert found["tests"]["sufficiency"]["passed"] is None  # no other circuit of that size
    assert not np.isnan(numbers(found)).any()
    assert len(numbers(found)) > 15


def test_values_are_those_of_the_search_result(proportion: tuple[Values, np.ndarray]) -> None:
    """Metric, ends, KL and faithfulness equal what ``run_cell`` writes, items weighted alike."""
    for task in ("nano-induction", "nano-ioi"):  # of induction's prompts each has another number of items
        values = ground(task)
        model, prompts = load(cell(task), "cpu")
        mask = np.random.default_rng(0).random(len(values.graph.edges)) < 0.4
        expected = judge(model, prompts, Circuit(values.graph, tuple(mask.tolist())), cell(task))
        small = replace(SMALL, subsets=0, greedy_rounds=0, node_subsets=0, edges=2, inflated=2, random_circuits=2)
        found = measure(values, mask, small)
        for name in ("value", "clean", "corrupted", "faithfulness", "kl"):
            assert found[name] == pytest.approx(getattr(expected, name), abs=1e-9)
        low, high = found["value_interval"]
        assert low < found["value"] < high


def test_equal_full_and_empty_circuit_leave_no_number_but_none() -> None:
    config = cell("nano-ioi")
    model, task = load(config, "cpu")
    same = replace(task.fresh, corrupted=task.fresh.clean)
    values = Values.build(model, replace(task, fresh=same), config)
    mask = np.random.default_rng(0).random(len(values.graph.edges)) < 0.02
    small = replace(SMALL, subsets=1, node_subsets=0, edges=2, inflated=2, random_circuits=2)
    found = measure(values, mask, small) | {"curve": measure_curve(values, range(len(mask)))}
    assert found["faithfulness"] is found["faithfulness_interval"] is found["completeness"]["worst_relative"] is None
    assert found["curve"]["cmd"] is found["curve"]["cpr"] is found["curve"]["cmd_small"] is None
    assert found["curve"]["faithfulness"] == [None] * 10
    assert found["clean"] == found["corrupted"]
    assert not np.isnan(numbers(found)).any()
    json.dumps(found, allow_nan=False)
    assert normalised(1.0, 2.0, 2.0) is None
    assert normalised(1.0, 2.0, 0.0) == 0.5


def test_equal_circuits_get_equal_numbers(proportion: tuple[Values, np.ndarray]) -> None:
    values, circuit = proportion
    again = ground("tracr-proportion-zero")
    drawn = np.random.default_rng(3).random(len(circuit)) < 0.5
    measure(values, circuit, SMALL)  # what came before does not matter
    assert measure(values, drawn, SMALL) == measure(again, drawn, SMALL)
    other = measure(values, drawn, replace(SMALL, seed=1))
    assert other["faithfulness"] == measure(values, drawn, SMALL)["faithfulness"]


def test_the_curve_ends_at_one(proportion: tuple[Values, np.ndarray]) -> None:
    values, circuit = proportion
    ranked = [*np.flatnonzero(circuit), *np.flatnonzero(~circuit)]
    found = measure_curve(values, ranked)
    assert found["faithfulness"][0] == 0.0
    assert found["faithfulness"][-1] == 1.0
    assert found["faithfulness"][-2] == pytest.approx(1)  # the true circuit and nine edges more
    assert found["edges"] == [0, 0, 0, 0, 0, 1, 3, 7, 19, 38]


class Additive:
    """Values that add up over edges: every example's score is the worth of the present edges to that example."""

    def __init__(self, graph: Graph, worth: np.ndarray) -> None:
        self.graph, self.worth = graph, worth
        self.everything = np.ones(len(graph.edges), dtype=bool)

    def metric(self, circuits: np.ndarray) -> np.ndarray:
        return np.asarray(circuits @ self.worth)

    def rounding(self) -> float:
        return 1e-9


def additive() -> tuple[Any, np.ndarray]:
    """Half the edges hold all that varies with the prompt, the others noise of their own; the former as a circuit."""
    graph = build_graph(ModelShape(2, 2, 2, mlp=True))
    rng = np.random.default_rng(0)
    holds = rng.random(len(graph.edges)) < 0.5
    signal, noise = rng.normal(size=40), rng.normal(size=(len(graph.edges), 40))
    return Additive(graph, np.where(holds[:, None], 1.0 + signal, 0.002 * noise)), holds


def test_what_the_complement_can_do_speaks_against_a_circuit() -> None:
    values, holds = additive()

    def independent(circuit: np.ndarray) -> float:
        return measure_module._independence(values, circuit, SMALL, np.random.default_rng(0))["p"]

    assert independent(holds) > 0.05
    assert independent(~holds) <= 1 / 25


def test_partial_necessity_looks_at_complements() -> None:
    values, holds = additive()
    lacking = holds & (np.cumsum(holds) > 3)  # with almost all that counts: its complement keeps little

    def passed(circuit: np.ndarray) -> tuple[bool, bool]:
        found = measure_module._against_random(values, circuit, SMALL, Random(0))
        return found["sufficiency"]["passed"], found["partial_necessity"]["passed"]

    assert passed(holds) == (True, True)
    assert passed(~holds) == (False, False)
    # Worth beyond the model's: missed more than random circuits, and further from the model than they are.
    values.worth = np.where(lacking[:, None], 5.0, -4.0)
    assert passed(lacking) == (False, True)


@pytest.mark.parametrize(("p", "passed"), [(0.004, False), (0.006, True)])
def test_minimality_is_corrected_for_the_number_of_edges(
    p: float, passed: bool, proportion: tuple[Values, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, circuit = proportion  # ten edges: .05 / 10 is the level of each
    monkeypatch.setattr(measure_module.hypotheses, "minimality", lambda effect, *_, **__: np.full(len(effect), p))
    found = measure_module._minimality(values, circuit, SMALL, Random(0))
    assert found["passed"] is passed
    assert found["p"] == pytest.approx(10 * p)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"alpha": 0.0}, "alpha must lie between 0 and 1, got 0.0"), ({"edges": 0}, "edges must be at least 1, got 0")],
)
def test_bad_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PahqError, match=words):
        Settings(**changes)
