"""Everything that is known of one circuit's faithfulness, as numbers for a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from pahq.faithfulness import hypotheses, nodes
from pahq.faithfulness.bootstrap import Interval, interval
from pahq.faithfulness.curve import FRACTIONS, Curve, nested
from pahq.faithfulness.nulls import Paths
from pahq.faithfulness.settings import Settings
from pahq.faithfulness.values import Values, normalised

Mask = Bool[ndarray, " edge"]
TRIVIAL = 0.01  # of full minus empty: a node that no set makes worth more is one the circuit could do without


def measure(values: Values, circuit: Mask, settings: Settings) -> dict[str, Any]:
    """Faithfulness, completeness, minimality and hypothesis tests of a circuit. Equal circuits, equal numbers.

    Every random choice is drawn from the seed and the circuit's edges alone. A test that is undefined has p None;
    one that has ``passed`` None beside a p could not have come out the other way with so few prompts or draws.
    """
    seed = hashlib.sha256(f"{settings.seed}/".encode() + np.packbits(circuit).tobytes()).digest()
    rng = Random(seed)
    numeric = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    return {
        "edges": int(circuit.sum()),
        **_faithfulness(values, circuit, settings, numeric),
        "completeness": _completeness(values, circuit, settings, rng),
        "node_minimality": _node_minimality(values, circuit, settings, rng),
        "tests": {
            "equivalence": _equivalence(values, circuit, settings),
            "independence": _independence(values, circuit, settings, numeric),
            "minimality": _minimality(values, circuit, settings, rng),
            **_against_random(values, circuit, settings, rng),
        },
    }


def measure_curve(values: Values, ranked: Sequence[int]) -> dict[str, Any]:
    """Faithfulness over circuit sizes for a ranking of all edges, with CMD and CPR (None where it is undefined)."""
    circuits = nested(ranked)
    full, empty = values.ends()
    found = [normalised(float(value), full, empty) for value in values.mean(circuits)]
    curve = None if full == empty else Curve(tuple(value for value in found if value is not None))
    return {
        "fractions": list(FRACTIONS),
        "edges": [int(row.sum()) for row in circuits],
        "faithfulness": found,
        "cmd_small": curve and curve.cmd_small,
        "cmd": curve and curve.cmd,
        "cpr": curve and curve.cpr,
    }


def _faithfulness(values: Values, circuit: Mask, settings: Settings, rng: np.random.Generator) -> dict[str, Any]:
    own = values.metric(np.stack([circuit, values.everything, values.nothing])) * values.weights
    full, empty = values.ends()
    [value] = values.mean(circuit[None])
    name = values.problem.objective.name

    def bounds(statistic: Any, *columns: Float[ndarray, " example"]) -> Interval | None:
        return interval(columns, statistic, confidence=settings.confidence, resamples=settings.resamples, rng=rng)

    def mean(x: Any, weight: Any, axis: int = -1) -> Any:
        return x.sum(axis) / weight.sum(axis)

    def ratio(x: Any, top: Any, bottom: Any, axis: int = -1) -> Any:
        return (x - bottom).sum(axis) / (top - bottom).sum(axis)

    found: dict[str, Any] = {
        "metric": name,
        "prompts": len(values.weights),
        "value": float(value),
        "value_interval": bounds(mean, own[0], values.weights),
        "clean": full,
        "corrupted": empty,
        "faithfulness": normalised(float(value), full, empty),
        "faithfulness_interval": None if full == empty else bounds(ratio, *own),
        "kl": None,
        "kl_interval": None,
    }
    if name != "mse":  # outputs of compiled programs are no logits
        kl = values.kl(circuit[None])[0]
        found["kl"] = float(values.average(kl))
        found["kl_interval"] = bounds(mean, kl * values.weights, values.weights)
    return found


def _completeness(values: Values, circuit: Mask, settings: Settings, rng: Random) -> dict[str, Any]:
    found = nodes.completeness(
        nodes.Nodes(values.graph, circuit),
        values.mean,
        subsets=settings.subsets,
        rounds=settings.greedy_rounds,
        candidates=settings.greedy_candidates,
        rng=rng,
    )
    full, empty = values.ends()
    worst = max([*found.random, found.greedy])
    return {
        "random_mean": float(np.mean(found.random)) if found.random else None,
        "random_max": max(found.random, default=None),
        "greedy": found.greedy,
        "greedy_set": list(found.greedy_set),
        "worst_relative": None if full == empty else worst / abs(full - empty),
    }


def _node_minimality(values: Values, circuit: Mask, settings: Settings, rng: Random) -> dict[str, Any]:
    scores = nodes.minimality(nodes.Nodes(values.graph, circuit), values.mean, subsets=settings.node_subsets, rng=rng)
    full, empty = values.ends()
    trivial = [name for name, score in scores.items() if score < TRIVIAL * abs(full - empty)]
    least = min(scores, key=scores.__getitem__, default=None)
    return {
        "nodes": len(scores),
        "least": None if least is None else scores[least],
        "least_node": least,
        "trivial": trivial,
    }


def _equivalence(values: Values, circuit: Mask, settings: Settings) -> dict[str, Any]:
    own, full = values.metric(np.stack([circuit, values.everything]))
    share, p = hypotheses.equivalence(own, full, epsilon=settings.epsilon, rounding=values.rounding())
    smallest = hypotheses.smallest_equivalence_p(len(full), epsilon=settings.epsilon)
    return {"share": share, "p": p, "passed": p >= settings.alpha if smallest < settings.alpha else None}


def _independence(values: Values, circuit: Mask, settings: Settings, rng: np.random.Generator) -> dict[str, Any]:
    complement, full = values.metric(np.stack([~circuit, values.everything]))
    p = hypotheses.independence(
        complement, full, permutations=settings.permutations, rng=rng, rounding=values.rounding()
    )
    smallest = hypotheses.smallest_independence_p(len(full), permutations=settings.permutations)
    return {"p": p, "passed": None if p is None or smallest >= settings.alpha else p >= settings.alpha}


def _minimality(values: Values, circuit: Mask, settings: Settings, rng: Random) -> dict[str, Any]:
    present = np.flatnonzero(circuit).tolist()
    if not present or circuit.all():  # no edge to test, or none to inflate the circuit with
        return {"tested": 0, "p": None, "passed": None, "superfluous": []}
    tested = sorted(rng.sample(present, min(settings.edges, len(present))))
    without = np.repeat(circuit[None], len(tested), 0)
    without[np.arange(len(tested)), tested] = False
    paths, rounding = Paths(values.graph), values.rounding()
    pairs = np.stack([np.stack(paths.inflated(circuit, rng)) for _ in range(settings.inflated)])
    larger, cut = values.metric(pairs.reshape(-1, len(circuit))).reshape(settings.inflated, 2, -1).swapaxes(0, 1)
    [whole] = values.metric(circuit[None])
    effect = hypotheses.effects(whole, values.metric(without), rounding=rounding)
    null = hypotheses.effects(larger, cut, rounding=rounding)
    p = hypotheses.minimality(effect, null, quantile=settings.quantile)
    corrected = np.minimum(p * len(tested), 1.0)  # Bonferroni
    smallest = hypotheses.smallest_minimality_p(settings.inflated, quantile=settings.quantile) * len(tested)
    superfluous = [
        str(values.graph.edges[edge]) for edge, own in zip(tested, corrected, strict=True) if own < settings.alpha
    ]
    return {
        "tested": len(tested),
        "p": float(corrected.min()),
        "passed": not superfluous if smallest < settings.alpha else None,
        "superfluous": superfluous,
    }


def _against_random(values: Values, circuit: Mask, settings: Settings, rng: Random) -> dict[str, Any]:
    """Sufficiency: closer to the full model than random circuits of the size; partial necessity: missed more."""
    size = int(circuit.sum())
    if not size or circuit.all():  # every circuit of the size is this one
        nothing = {"share": None, "p": None, "passed": None}
        return {"sufficiency": nothing, "partial_necessity": dict(nothing)}
    decides = hypotheses.smallest_exceeding_p(settings.random_circuits, quantile=settings.quantile) < settings.alpha
    paths = Paths(values.graph)
    drawn = np.stack([paths.circuit(size, rng) for _ in range(settings.random_circuits)])
    found = {}
    for name, sign, own, null in (("sufficiency", -1, circuit, drawn), ("partial_necessity", 1, ~circuit, ~drawn)):
        rows = values.metric(np.concatenate([own[None], null]))
        [full] = values.metric(values.everything[None])
        distance = sign * hypotheses.effects(full, rows, rounding=values.rounding())
        share, p = hypotheses.exceeds_random(float(distance[0]), distance[1:], quantile=settings.quantile)
        found[name] = {"share": share, "p": p, "passed": p < settings.alpha if decides else None}
    return found
