"""Whole searches by the suffix engine against plain forwards, in one process on the same work.

    python benchmarks/engine.py --prompts 16 --density sparse --json FILE

Two baselines: the reference engine (one whole patched forward per test, all heads in one product) and the same forward
skipping the layers below the tested edge. Running them to the end would take hours, so a sample of tests spread evenly
over the search is measured by both, each from the very state that the search was in; the same sample checks the losses.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from output import publish
from synthetic import Shape, make_model, make_prompts
from torch.utils.flop_counter import FlopCounterMode

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.losses import losses_for, rows_of
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_stream
from pahq.engine.suffix import SuffixEngine
from pahq.model import products
from pahq.model.memory import PeakMemory
from pahq.model.run import run_senders, sender_outputs
from pahq.search.acdc import Decision
from pahq.search.speculate import speculate
from pahq.tasks.metrics import gather_items

# Thresholds on the synthetic models: sparse keeps 0.2-0.3% of edges, medium about 1%, dense (with 4 layers) 8%.
THRESHOLDS = {
    "kl": {"sparse": 0.004, "medium": 0.001, "dense": 1e-3},
    "logit_diff": {"sparse": 0.01, "medium": 0.004, "dense": 1e-3},
}
IDEAS: dict[str, dict[str, Any]] = {
    "all": {},
    "without speculation": {"widest": 1},
    "without positions": {"positions": False},
    "without composites": {"composites": False},
    "without cheap losses": {"cheap_losses": False},
}


@dataclass(frozen=True)
class Search:
    """One whole search: its decisions, seconds by kind of receiver, and counts."""

    decisions: list[Decision]
    seconds: float
    setup_seconds: float
    by_kind: dict[str, float]
    measured: int
    peak_bytes: int


def search(problem: Problem, threshold: float, **settings: Any) -> Search:
    """Run the suffix engine to the end; set-up is part of ``seconds``."""
    memory, start = PeakMemory("cpu"), time.perf_counter()
    engine = SuffixEngine(problem, **settings)
    setup = time.perf_counter() - start
    decisions, by_kind, last = [], {"set-up": setup}, time.perf_counter()
    for decision in speculate(engine, Order(), threshold):
        now, edge = time.perf_counter(), problem.graph.edges[decision.edge]
        kind = "direct" if edge.direct else edge.receiver.kind
        by_kind[kind] = by_kind.get(kind, 0.0) + now - last
        decisions.append(decision)
        last = now
    return Search(decisions, time.perf_counter() - start, setup, by_kind, engine.measured, memory.bytes())


def sample_forwards(problem: Problem, decisions: Sequence[Decision], count: int) -> dict[str, Any]:
    """Time both baselines on ``count`` tests spread over the search; report the worst difference of a loss."""
    engine, low = ReferenceEngine(problem), problem.store.network()
    losses, rows = losses_for(problem), rows_of(problem)[0]
    engine.measure([Trial(0, ())])  # warm-up
    clean = sender_outputs(low, run_senders(low, problem.clean)) - problem.corrupted_senders
    chosen = {round(i * (len(decisions) - 1) / (count - 1)) for i in range(count)}
    whole, skipping, worst = [], [], 0.0
    for decision in decisions:
        if decision.index in chosen:
            start = time.perf_counter()
            loss = engine.measure([Trial(decision.edge, (decision.edge,))])[0]
            whole.append(time.perf_counter() - start)
            present = engine.present.clone()
            present[decision.edge] = False
            layer = problem.graph.edges[decision.edge].receiver.layer
            layer = (
                problem.graph.shape.layers if problem.graph.edges[decision.edge].receiver.kind == "logits" else layer
            )
            start = time.perf_counter()
            if layer < problem.graph.shape.layers:
                skipped = losses(gather_items(circuit_stream(problem, present, from_layer=layer, clean=clean), rows))
            else:
                mask = present[list(problem.graph.incoming(problem.graph.receivers[-1]))].to(clean)
                final = problem.corrupted.final + (mask @ clean.flatten(1)).view(clean.shape[1:])
                skipped = losses(gather_items(final, rows))
            skipping.append(time.perf_counter() - start)
            worst = max(worst, abs(loss - decision.after), abs(float(skipped) - decision.after))
        if decision.removed:
            engine.remove([decision.edge])
    return {"whole": whole, "skipping": skipping, "worst_loss_difference": worst}


def reference_peak(problem: Problem) -> int:
    """Peak bytes of one test by the reference engine, from the built problem on as for the searches."""
    memory = PeakMemory("cpu")
    ReferenceEngine(replace(problem)).measure([Trial(0, (0,))])  # a copy, whose caches go with it
    return memory.bytes()


def ratio(times: Sequence[float], tests: int, seconds: float) -> tuple[float, tuple[float, float]]:
    """Estimated baseline seconds over ``seconds``, with a 95% interval from the sample's standard error."""
    mean = statistics.fmean(times)
    error = 2.0 * statistics.stdev(times) / len(times) ** 0.5
    return mean * tests / seconds, ((mean - error) * tests / seconds, (mean + error) * tests / seconds)


def product_rate() -> float:
    """FLOP/s of one large matrix product on this machine, as the searches are run (best of five)."""
    left, right = torch.randn(3600, 768), torch.randn(768, 3072)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * left.numel() * right.shape[1] / best


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--density", choices=("sparse", "medium", "dense"), default="sparse")
    parser.add_argument("--vocabulary", type=int, default=5003)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--metric", choices=tuple(THRESHOLDS), default="kl")
    parser.add_argument("--threshold", type=float, help="instead of the density's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ideas", action="store_true", help="also run with each idea switched off")
    parser.add_argument("--products", action="store_true", help="only time products in bf16 beside float32's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    threshold = options.threshold or THRESHOLDS[options.metric][options.density]
    shape = Shape(layers=options.layers, vocabulary=options.vocabulary)
    with torch.no_grad():
        model, prompts = make_model(shape), make_prompts(shape, options.prompts)
        problem = build_problem(model, prompts, metric=options.metric)
        if options.products:
            policy = PrecisionConfig(name="bf16-products", format="float32", compute="bf16")
            low = build_problem(model, prompts, metric=options.metric, precision=policy)
            report = beside(problem, low, threshold, options.repeats)
        else:
            report = measure(problem, threshold, options.repeats, options.sample, options.ideas)
    report = {"settings": {k: v for k, v in vars(options).items() if k != "json"}} | report
    publish(report, options.json)
    return 0


def measure(problem: Problem, threshold: float, repeats: int, sample: int, ideas: bool) -> dict[str, Any]:
    """All figures of one setting."""
    reference_bytes = reference_peak(problem)
    runs = [search(problem, threshold) for _ in range(repeats)]
    middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
    decisions = middle.decisions
    tests, kept = len(decisions), sum(not decision.removed for decision in decisions)
    forwards = sample_forwards(problem, decisions, sample)
    rate = product_rate()
    with FlopCounterMode(display=False) as counter:
        search(problem, threshold)
    flops = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        ReferenceEngine(problem).measure([Trial(0, (0,))])
    reference_flops = counter.get_total_flops()
    to_reference, reference_interval = ratio(forwards["whole"], tests, middle.seconds)
    to_skip, skip_interval = ratio(forwards["skipping"], tests, middle.seconds)
    report = {
        "threshold": threshold,
        "edges": len(problem.graph.edges),
        "tests": tests,
        "kept": kept,
        "kept_fraction": kept / len(problem.graph.edges),
        "kept_of_tests": kept / tests,
        "seconds": middle.seconds,
        "seconds_all": [run.seconds for run in runs],
        "seconds_by_kind": middle.by_kind,
        "ratio_to_reference": to_reference,
        "ratio_to_reference_spread": reference_interval,
        "ratio_to_layer_skip": to_skip,
        "ratio_to_layer_skip_spread": skip_interval,
        "reference_seconds_per_test": statistics.fmean(forwards["whole"]),
        "layer_skip_seconds_per_test": statistics.fmean(forwards["skipping"]),
        "wasted_fraction": 1 - tests / middle.measured,
        "flops_per_test": flops / tests,
        "seconds_over_floor": middle.seconds / (flops / rate),
        "reference_share_of_product_rate": reference_flops / statistics.fmean(forwards["whole"]) / rate,
        "product_rate": rate,
        "peak_bytes": max(run.peak_bytes for run in runs),
        "reference_peak_bytes": reference_bytes,
        "worst_loss_difference": forwards["worst_loss_difference"],
        "smallest_margin": min(abs(decision.effect - threshold) for decision in decisions),
    }
    if ideas:
        seconds = {name: search(problem, threshold, **settings).seconds for name, settings in IDEAS.items()}
        report["seconds_by_idea"] = seconds
    return report


def beside(problem: Problem, low: Problem, threshold: float, repeats: int) -> dict[str, Any]:
    """Seconds of searches with products in bf16: as this processor takes them, and with operands rounded by hand.

    All ways take turns. Edges that differ are not float32's: a network in bf16 is another network.
    """
    ways = {"float32": (problem, True), "bf16": (low, True), "bf16 by hand": (low, False)}
    unit, runs = products._matrix_unit(), dict[str, list[Search]]()
    for _ in range(repeats):
        for name, (on, as_it_is) in ways.items():
            with mock.patch.object(products, "_matrix_unit", lambda on=unit and as_it_is: on):
                runs.setdefault(name, []).append(search(on, threshold))
    kept = {name: {d.edge for d in found[0].decisions if not d.removed} for name, found in runs.items()}
    report: dict[str, Any] = {"threshold": threshold, "matrix_unit": unit}
    for name, found in runs.items():
        report[name] = {
            "seconds": statistics.median(run.seconds for run in found),
            "seconds_all": [run.seconds for run in found],
            "over_float32": statistics.median(
                run.seconds / own.seconds for run, own in zip(found, runs["float32"], strict=True)
            ),
            "tests": len(found[0].decisions),
            "kept": len(kept[name]),
            "edges_differing": len(kept[name] ^ kept["float32"]),
        }
    return report


if __name__ == "__main__":
    sys.exit(main())
