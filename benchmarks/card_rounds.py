"""Rounds of searches on a GPU: how many, how long by their width, what recording them costs, how busy the card is.

    python benchmarks/card_rounds.py --prompts 16 --ways "float32;float32, not recorded;tf32" --json FILE
    python benchmarks/card_rounds.py --prompts 100 --recordings --busy --json FILE
    python benchmarks/card_rounds.py --device cpu                     tries the program where there is no GPU

GPT-2's shape with random weights, KL. ``searches``: whole searches, each after 300 tests to warm up; ``by_width`` has
the rounds of each width and their mean milliseconds, ``recordings`` how many were made and how many rounds replayed.
With --recordings every ninth round of the first way's search is recorded by itself, as a CUDA graph, and replayed (mean
milliseconds). ``busy``, with --busy: kernels' and wall milliseconds of 800 tests after 2,500, under torch's profiler.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from card import SHAPES, WARM, WAYS, Way, engine_of
from floor import wait
from output import publish
from synthetic import make_model, make_prompts
from tape import Tape
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pahq.circuits.order import Order
from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.suffix import SuffixEngine
from pahq.engine.suffix.graphs import CudaGraphs
from pahq.search.acdc import Decision
from pahq.search.start import search_by

SKIPPED, TRACED, EVERY = 2500, 800, 9  # tests; tests; rounds


def watched(engine: SuffixEngine) -> dict[int, list[float]]:
    """Seconds of every round of an engine from here on, by width."""
    found: dict[int, list[float]] = defaultdict(list)
    measure = engine.measure

    def timed(trials: Sequence[Trial]) -> list[float]:
        clock = time.perf_counter()
        losses = measure(trials)
        found[len(trials)].append(time.perf_counter() - clock)
        return losses

    engine.measure = timed  # type: ignore[method-assign]
    return found


def searched(way: Way, problem: Problem, threshold: float, device: str) -> dict[str, Any]:
    """One whole search, and its rounds."""
    list(islice(search_by(engine_of(way, problem), problem, Order(), threshold), WARM))
    engine = engine_of(way, problem)
    rounds = watched(engine)
    wait(device)
    clock = time.perf_counter()
    decisions: list[Decision] = list(search_by(engine, problem, Order(), threshold))
    wait(device)
    seconds, made = time.perf_counter() - clock, engine._recordings
    return {
        "seconds": seconds,
        "tests": len(decisions),
        "kept": sum(not decision.removed for decision in decisions),
        "kept_edges": [decision.edge for decision in decisions if not decision.removed],
        "measured": engine.measured,
        "rounds": sum(map(len, rounds.values())),
        "recordings": None if made is None else [made.made, made.replayed],
        "by_width": {
            width: {"rounds": len(times), "ms": 1e3 * statistics.mean(times)} for width, times in sorted(rounds.items())
        },
    }


class Sampled(SuffixEngine):
    """Records every ninth of its rounds by itself and replays it, beside the search."""

    def __init__(self, problem: Problem) -> None:
        self.rounds, self.rows = 0, list[dict[str, float]]()
        super().__init__(problem, record=False)

    def _evaluate(self, trials: Sequence[Trial]) -> Tensor:
        losses = super()._evaluate(trials)
        self.rounds += 1
        if self.rounds % EVERY == 0 and any(trial.removed for trial in trials):
            kept = self._wave, self._answers
            self.rows.append(self._sample(trials, losses))
            self._wave, self._answers = kept
        return losses

    def _sample(self, trials: Sequence[Trial], losses: Tensor) -> dict[str, float]:
        def again() -> Tensor:
            return self._carry(self._new_wave(len(trials), self._descent.stage.receivers), trials)

        again()
        eager = seconds(losses.device, again)
        record, found = CudaGraphs(losses.device) if losses.is_cuda else Tape(), list[Any]()
        recording = seconds(losses.device, lambda: found.append(record(again)))
        ((result, replay),) = found
        replay()
        replayed = seconds(losses.device, replay)
        off = float((result - losses).abs().max())
        return {"eager_ms": 1e3 * eager, "record_ms": 1e3 * recording, "replay_ms": 1e3 * replayed, "off": off}


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    wait(device.type)
    clock = time.perf_counter()
    work()
    wait(device.type)
    return time.perf_counter() - clock


def recordings(problem: Problem, threshold: float) -> dict[str, float]:
    engine = Sampled(problem)
    list(islice(search_by(engine, problem, Order(), threshold), SKIPPED))
    names = ("eager_ms", "record_ms", "replay_ms")
    means = {name: statistics.mean(row[name] for row in engine.rows) for name in names}
    return {"rounds": len(engine.rows), **means, "worst_loss_difference": max(row["off"] for row in engine.rows)}


def busy(way: Way, problem: Problem, threshold: float, device: str) -> dict[str, float]:
    decisions = search_by(engine_of(way, problem), problem, Order(), threshold)
    list(islice(decisions, SKIPPED))
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]) as traced:
        clock = time.perf_counter()
        list(islice(decisions, TRACED))
        wait(device)
        wall = time.perf_counter() - clock
    kernels = sum(event.self_device_time_total for event in traced.key_averages()) / 1e3
    return {"wall_ms": 1e3 * wall, "kernels_ms": kernels, "busy": kernels / (1e3 * wall)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threshold", type=float, default=0.001)
    parser.add_argument("--ways", default="float32;float32, not recorded;tf32;tf32, not recorded;bf16")
    parser.add_argument("--recordings", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU; --device cpu tries it without one")
    names = [name.strip() for name in options.ways.split(";")]
    if unknown := [name for name in names if name not in WAYS]:
        parser.error(f"unknown way {unknown[0]!r}; known: {'; '.join(WAYS)}")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    shape = SHAPES["gpt2" if options.device == "cuda" else "tiny"]
    model, prompts = make_model(shape, device="cpu").to(device=options.device), make_prompts(shape, options.prompts)
    rows = []
    for name in names:
        problem = WAYS[name].problem(model, prompts)
        row = {"way": name, **searched(WAYS[name], problem, options.threshold, options.device)}
        if options.busy:
            row["busy"] = busy(WAYS[name], problem, options.threshold, options.device)
        rows.append(row)
        print(f"{name}: {row['seconds']:.2f} s, {row['rounds']} rounds", file=sys.stderr, flush=True)
    sampled = recordings(WAYS[names[0]].problem(model, prompts), options.threshold) if options.recordings else None
    publish(
        {
            "settings": {name: value for name, value in vars(options).items() if name != "json"},
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "searches": rows,
            "recordings": sampled,
        },
        options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
