"""Recorded scores of EAP-IG's own code (Hanna et al. 2024, arXiv 2403.17806), read and computed again.

A folder holds config.json and tensors.safetensors as a recorded run's does, with ``tokens.*`` and ``targets.*``;
scores.json (``scores[metric][method][edge]``, ``edge_names`` from its names to ours, ``ig_steps``, ``batch_size``); and
circuits.json (``circuits[metric][method]``: of each ``n`` the edges of the top n by |score| that its pruning left, and
their metrics; ``baseline``: the metrics of the clean and the corrupted prompts).

That code gives every query head a k and v input of its own, so a model with grouped heads is replayed as the one in
which keys and values are repeated head by head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pahq.circuits.circuit import Circuit
from pahq.circuits.scores import Scores
from pahq.config.method import FLAT
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits
from pahq.errors import unknown
from pahq.files.text import read_json
from pahq.model.weights import Model
from pahq.scores.start import score
from pahq.tasks.task import Prompts, last_items
from pahq.verify.recorded import read_tensors, read_tokens, told

TOLERANCE = 2e-6  # of the largest score of its kind; of a metric, in its own units or in proportion where it is above 1
METHODS = {
    "EAP": "eap",
    "EAP-IG-inputs": "eap-ig",
    "EAP-IG-activations": "eap-ig-activations",
    "clean-corrupted": "clean-corrupted",
    "exact": "exact",
}


@dataclass(frozen=True)
class RecordedScores:
    """Scores as they were recorded, edges by this project's names, and everything needed to compute them again."""

    name: str
    model: Model
    prompts: Prompts
    steps: int
    batch_size: int
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]  # by metric, method and edge
    circuits: Mapping[str, Mapping[str, Sequence[RecordedCircuit]]]  # by metric and method
    baseline: Mapping[str, Mapping[str, float]]  # by metric: of the clean and of the corrupted prompts


@dataclass(frozen=True)
class RecordedCircuit:
    """The edges that are left of the top ``n``, and the circuit's metrics by name."""

    n: int
    edges: frozenset[str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class ScoresComparison:
    """What a replay of one method and metric found; ``first`` describes the first disagreement, None if there is none.

    ``worst``: difference of a score over the largest one. ``worst_metric``: difference of a metric of a circuit.
    ``ties``: edges so near the cut of a top n that rounding decides which of them are in.
    """

    name: str
    edges: int
    worst: float = 0.0
    circuits: int = 0
    worst_metric: float = 0.0
    ties: int = 0
    first: str | None = None
    note: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        ties = f" ({self.ties} edges at a cut by rounding)" if self.ties else ""
        told = [f"{self.edges} scores, worst difference {self.worst:.1e} of the largest{self.note}"] * (self.edges > 0)
        told += [f"{self.circuits} circuits{ties}"] * (self.circuits > 0)
        told += [f"worst difference of a metric {self.worst_metric:.1e}"] * (self.circuits > 0 or not self.edges)
        return f"{self.name}: {', '.join(told)}: {'agrees' if self.first is None else f'DISAGREES: {self.first}'}"


def has_scores(folder: Path) -> bool:
    return (folder / "scores.json").exists()


def read_recorded_scores(folder: Path) -> RecordedScores:
    """The scores recorded in a folder; PahqError in one sentence if it is no such folder."""
    with told(folder):
        model, tensors = read_tensors(folder)
        recorded, other = read_json(folder / "scores.json"), folder / "circuits.json"
        circuits = read_json(other) if other.exists() else {"circuits": {}, "baseline": {}}
        names: Mapping[str, str] = recorded["edge_names"]
        known = {*recorded["scores"], *circuits["baseline"]}
        clean, corrupted = read_tokens(tensors, "clean"), read_tokens(tensors, "corrupted")
        targets = {n.removeprefix("targets."): value for n, value in tensors.items() if n.startswith("targets.")}
        return RecordedScores(
            name=folder.name,
            model=ungrouped(model),
            prompts=Prompts(clean, corrupted, last_items(*clean.shape), targets),
            steps=int(recorded["ig_steps"]),
            batch_size=int(recorded["batch_size"]),
            scores={
                metric: {
                    method: {names[edge]: float(value) for edge, value in values.items()}
                    for method, values in methods.items()
                }
                for metric, methods in recorded["scores"].items()
            },
            circuits={
                metric: {method: [_circuit(row, names, known) for row in rows] for method, rows in methods.items()}
                for metric, methods in circuits["circuits"].items()
            },
            baseline=circuits["baseline"],
        )


def _circuit(row: Mapping[str, Any], names: Mapping[str, str], known: Set[str]) -> RecordedCircuit:
    metrics = {key: float(value) for key, value in row.items() if key in known}
    return RecordedCircuit(int(row["n"]), frozenset(names[edge] for edge in row["edges"]), metrics)


def ungrouped(model: Model) -> Model:
    """The same network with every query head's own key and value weights."""
    config = model.config
    size = config.heads // config.kv_heads
    if size == 1:
        return model

    def repeated(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat_interleave(size, 0)

    layers = tuple(
        replace(at, W_K=repeated(at.W_K), W_V=repeated(at.W_V), b_K=repeated(at.b_K), b_V=repeated(at.b_V))
        for at in model.layers
    )
    return replace(model, config=config.model_copy(update={"kv_heads": config.heads}), layers=layers)


def replay_scores(recorded: RecordedScores, *, dtype: str, device: str) -> Iterator[ScoresComparison]:
    """Compute every recorded method and metric again, as EAP-IG's code does, and hold it against the record."""
    model = recorded.model.to(dtype=getattr(torch, dtype), device=device)
    problems: dict[str, Problem] = {}

    def problem(metric: str) -> Problem:
        if metric not in problems:
            with torch.no_grad():
                problems[metric] = build_problem(model, recorded.prompts, metric=metric, direct_edges=False)
        return problems[metric]

    for metric, methods in recorded.scores.items():
        for method, values in methods.items():
            name = f"{recorded.name} {metric} {method}"
            if method not in METHODS:
                raise unknown("method in scores.json", method, METHODS)
            if method == "EAP" and metric in FLAT:
                yield _nought(name, values, _scale(recorded, metric))
                continue
            asked = {"steps": recorded.steps, "convention": "eap-ig", "batch_size": recorded.batch_size}
            scores = score(problem(metric), METHODS[method], **asked)  # type: ignore[arg-type]
            found = compare_scores(name, values, scores)
            for circuit in recorded.circuits.get(metric, {}).get(method, []):
                found = with_circuit(found, circuit, scores, values)
                present = torch.tensor(Circuit.from_names(scores.graph, circuit.edges).present)
                logits = circuit_logits(problem(metric), present)
                for key, value in circuit.metrics.items():
                    own = float(problem(key).objective.value(logits))
                    found = _with_metric(found, f"{key} of the circuit of the top {circuit.n}", own, value)
            yield found
    if recorded.baseline:
        found = ScoresComparison(f"{recorded.name} baseline", 0)
        for metric, by_prompts in recorded.baseline.items():
            for which, value in by_prompts.items():
                if which not in ("clean", "corrupted"):
                    raise unknown("prompts in circuits.json", which, ("clean", "corrupted"))
                graph = problem(metric).graph
                present = torch.full((len(graph.edges),), which == "clean")
                own = float(problem(metric).objective.value(circuit_logits(problem(metric), present)))
                found = _with_metric(found, f"{metric} of the {which} prompts", own, value)
        yield found


def compare_scores(name: str, recorded: Mapping[str, float], scores: Scores) -> ScoresComparison:
    """Hold scores against recorded ones: the same edges, each within the tolerance."""
    own = scores.by_name
    if missing := sorted(own.keys() ^ recorded.keys()):
        return ScoresComparison(name, len(recorded), first=f"{missing[0]} is scored on one side alone")
    scale = max(map(abs, recorded.values()), default=0.0) or 1.0
    differences = {edge: abs(own[edge] - value) / scale for edge, value in recorded.items()}
    edge = max(differences, key=lambda edge: _far(differences[edge]))
    worst = differences[edge]
    fault = f"the score of {edge} is {own[edge]:.9g}, recorded {recorded[edge]:.9g}"
    return ScoresComparison(name, len(recorded), worst, first=None if worst <= TOLERANCE else fault)


def _far(difference: float) -> float:
    """A difference for finding the largest one; what is no number is as large as can be."""
    return difference if difference == difference else float("inf")


def _scale(recorded: RecordedScores, metric: str) -> float:
    """The largest score of a metric by any method but EAP; where there is none, of any metric."""
    others = [values for method, values in recorded.scores[metric].items() if method != "EAP"]
    others = others or [values for methods in recorded.scores.values() for values in methods.values()]
    return max((abs(value) for values in others for value in values.values()), default=0.0) or 1.0


def _nought(name: str, recorded: Mapping[str, float], largest: float) -> ScoresComparison:
    """Scores that are zero by construction, of which rounding was recorded; measured by the metric's largest score."""
    edge = max(recorded, key=lambda edge: _far(abs(recorded[edge])))
    worst = abs(recorded[edge]) / largest
    fault = f"the score of {edge} is 0 but for rounding, recorded {recorded[edge]:.9g}"
    note = " of any method, zero by construction"
    return ScoresComparison(name, len(recorded), worst, first=None if worst <= TOLERANCE else fault, note=note)


def with_circuit(
    found: ScoresComparison, circuit: RecordedCircuit, scores: Scores, recorded: Mapping[str, float]
) -> ScoresComparison:
    """A comparison with one more circuit in it: the top n of our scores, cleaned, edge for edge the recorded one.

    Where it is not, but is that of the recorded scores, and the two tops differ in nothing but edges that the tolerance
    cannot tell from the cut, these edges are counted.
    """
    found = replace(found, circuits=found.circuits + 1)
    own = scores.top(circuit.n)
    if set(own.edges) == circuit.edges or found.first is not None:
        return found
    theirs = replace(scores, values=tuple(recorded[str(edge)] for edge in scores.graph.edges))
    tops = [set(each.top(circuit.n, clean=False).edges) for each in (scores, theirs)]
    ranks = sorted(map(abs, scores.values), reverse=True)
    cut, near = ranks[circuit.n - 1], 2 * TOLERANCE * theirs.largest
    moved = tops[0] ^ tops[1]
    if set(theirs.top(circuit.n).edges) == circuit.edges and all(abs(abs(scores[e]) - cut) <= near for e in moved):
        return replace(found, ties=found.ties + len(moved))
    other = sorted(set(own.edges) ^ circuit.edges)
    return replace(found, first=f"the circuit of the top {circuit.n} differs in {len(other)} edges, {other[0]} first")


def _with_metric(found: ScoresComparison, what: str, own: float, recorded: float) -> ScoresComparison:
    """A comparison with one more metric in it."""
    difference = _far(abs(own - recorded)) / max(1.0, abs(recorded))
    fault = None if difference <= TOLERANCE else f"{what} is {own:.9g}, recorded {recorded:.9g}"
    return replace(found, worst_metric=max(found.worst_metric, difference), first=found.first or fault)
