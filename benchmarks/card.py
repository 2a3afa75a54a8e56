"""Searches on a GPU by factor: engine, CUDA graphs, windows, products, low bits and their kernels, streams.

    python benchmarks/card.py --shape gpt2 --json FILE
    python benchmarks/card.py --shape llama-3-8b --tests 2500 --whole --ways "int8;int8, tf32" --json FILE
    python benchmarks/card.py --shape tiny --device cpu            tries the program where there is no GPU

Random weights. Every way runs the same search (to its end, or for so many tests; ``--whole``: float32's once to its end
as well) a few times over, float32 before and after all others; reported are medians of the seconds a test, over
float32's, and the smallest and largest such ratio. Circuits differ where precision does, and with them the tests:
``tests`` and ``kept`` say how much. Memory is the allocator's peak while a problem is set up and searched, plus the
model's own tensors where the search uses them. ``floor_seconds``: below which the tests of a row cannot be done
(``benchmarks/floor.py``), from a search before the timed ones whose operations and bytes are counted (replayed rounds
are not, so that it runs without them).

The reference engine's row is a sample of whole patched forwards, first as they are, then recorded as one CUDA graph and
replayed, which leaves their sums alone. ``worst_loss_difference`` compares the losses of all three on the sample.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from floor import Device, Work, wait
from output import publish
from synthetic import GPT2_XL, LLAMA_3_8B, Shape, make_model, make_prompts
from tape import Tape
from torch import Tensor

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.losses import losses_for, rows_of
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_stream
from pahq.engine.suffix import ChangeEngine, SuffixEngine
from pahq.model.weights import Model
from pahq.precision.packedstore import PackedStore
from pahq.search.acdc import Decision
from pahq.search.start import search_by
from pahq.tasks.metrics import gather_items
from pahq.tasks.task import Prompts

TINY = Shape(layers=2, heads=4, d_model=32, d_head=8, vocabulary=211, positions=8)
SHAPES = {"gpt2": Shape(vocabulary=50257), "gpt2-xl": GPT2_XL, "llama-3-8b": LLAMA_3_8B, "tiny": TINY}
THRESHOLDS = {"gpt2": 0.004, "gpt2-xl": 0.001, "llama-3-8b": 0.004, "tiny": 0.004}
WARM = 300  # tests


@dataclass(frozen=True)
class Way:
    """How a search is run: precision of heads (float32: ACDC), its settings, those of the engine and of the store."""

    format: str = "float32"
    compute: str = "float32"
    kernel: str = "unpack"
    schedule: str = "overlapped"
    focus: str = "receiver"
    arithmetic: str = "network"
    recorded: bool = True
    engine: dict[str, Any] = field(default_factory=dict)

    def problem(self, model: Model, prompts: Prompts) -> Problem:
        if self.format == "float32" and self.arithmetic == "network":
            policy = PrecisionConfig(name="float32", format="float32", compute=self.compute)
            return build_problem(model, prompts, metric="kl", precision=policy)
        scales = "group32" if self.format.startswith("int4") else "row"
        mlp = "float32" if self.format == "float32" else "bf16"
        settings: dict[str, Any] = {"compute": self.compute, "kernel": self.kernel, "mlp": mlp, "scales": scales}
        policy = PrecisionConfig(name=self.format, format=self.format, **settings)
        return build_problem(
            model,
            prompts,
            metric="kl",
            precision=policy,
            focus=self.focus,
            store="packed",
            schedule=self.schedule,
            arithmetic=self.arithmetic,
        )


WAYS = {
    "float32": Way(),
    "float32, one test at a time": Way(engine={"widest": 1}),
    "float32, without composites": Way(engine={"composites": False}),
    "float32, CPU's windows": Way(engine={"rows": 1280}),
    "float32, windows of 8,192 rows": Way(engine={"rows": 8192}),
    "float32, not recorded": Way(recorded=False),
    "tf32": Way(compute="tf32"),
    "tf32, not recorded": Way(compute="tf32", recorded=False),
    "bf16": Way(compute="bf16"),
    "int8": Way("int8"),
    "int8, no focus": Way("int8", focus="none"),
    "int8, serial": Way("int8", schedule="serial"),
    "int8, fused": Way("int8", kernel="fused"),
    "int8, tf32": Way("int8", "tf32"),
    "int8, tf32, fused": Way("int8", "tf32", "fused"),
    "int4": Way("int4"),
    "int4, tf32, fused": Way("int4", "tf32", "fused"),
    "fp8, codes": Way("fp8", "fp8", "codes"),
    "tf32, changes": Way(compute="tf32", arithmetic="changes"),
    "bf16, changes": Way(compute="bf16", arithmetic="changes"),
    "int8, changes": Way("int8", arithmetic="changes"),
    "fp8, changes": Way("fp8", arithmetic="changes"),
}


@dataclass(frozen=True)
class Run:
    """One search, as far as it went."""

    seconds: float
    tests: int
    kept: int
    measured: int
    peak_bytes: int
    whole: bool
    floor: float


def searches(
    way: Way, model: Model, prompts: Prompts, threshold: float, tests: int | None, rounds: int, device: Device
) -> Iterator[Run]:
    """Set a problem up (not timed), warm up, and search it, the engine's own set-up included."""
    gc.collect()  # the last problem's tensors
    card = prompts.clean.is_cuda or next(iter(model.tensors().values())).is_cuda
    if card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if card else 0
    problem = way.problem(model, prompts)
    decide(way, problem, threshold, WARM)  # libraries are loaded and kernels are compiled on first use
    with Work() as work:
        decide(replace(way, recorded=False), problem, threshold, tests)
    on = "cuda" if card else "cpu"
    for _ in range(rounds):
        wait(on)
        clock = time.perf_counter()
        decisions, measured = decide(way, problem, threshold, tests)
        wait(on)
        seconds = time.perf_counter() - clock
        peak = torch.cuda.max_memory_allocated() - before + shared_bytes(problem, model) if card else 0
        kept = sum(not decision.removed for decision in decisions)
        whole = tests is None or len(decisions) < tests
        yield Run(seconds, len(decisions), kept, measured, peak, whole, device.floor(work))


def decide(way: Way, problem: Problem, threshold: float, tests: int | None) -> tuple[list[Decision], int]:
    """The search's first decisions, or all; and how many trials were measured for them."""
    engine = engine_of(way, problem)
    decisions = search_by(engine, problem, Order(), threshold)
    return list(islice(decisions, tests)), engine.measured


def engine_of(way: Way, problem: Problem) -> SuffixEngine:
    """A GPU records CUDA graphs where the way records at all; on a CPU a double of theirs does, which gains nothing."""
    kind = SuffixEngine if problem.changes is None else ChangeEngine
    recorder = None if problem.corrupted.final.is_cuda else Tape()
    options = way.engine | {"record": recorder if way.recorded else False}
    return kind(problem, **options)


def shared_bytes(problem: Problem, model: Model) -> int:
    """Bytes of the model's tensors that the problem's network reads: they were there before."""
    held = list(model.tensors().values())
    if isinstance(problem.store, PackedStore):
        ends = problem.store.ends
        held = [getattr(ends, name) for name in ("W_E", "W_pos", "ln_final_w", "ln_final_b", "W_U", "b_U")]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if isinstance(t, Tensor)}
    return sum(storages.values())


def reference(problem: Problem, decisions: Sequence[Decision], count: int) -> dict[str, Any]:
    """Seconds of a whole patched forward with its loss, eager and as a CUDA graph, at states of the search."""
    chosen = {round(i * (len(decisions) - 1) / max(1, count - 1)) for i in range(count)}
    engine = ReferenceEngine(problem)
    engine.measure([Trial(decisions[0].edge, ())])
    recorded = record(problem)
    eager: list[float] = []
    graph: list[float] = []
    worst = 0.0
    for decision in decisions:
        if decision.index in chosen:
            losses = []
            for times, way in ((eager, engine), (graph, recorded)):
                torch.cuda.synchronize()
                clock = time.perf_counter()
                losses.append(way.measure([Trial(decision.edge, (decision.edge,))])[0])
                times.append(time.perf_counter() - clock)
            worst = max(worst, *(abs(loss - decision.after) for loss in losses))
        if decision.removed:
            engine.remove([decision.edge])
            recorded.remove([decision.edge])
    return {
        "eager_seconds": statistics.median(eager),
        "graph_seconds": statistics.median(graph),
        "graph_over_eager": statistics.median(b / a for a, b in zip(eager, graph, strict=True)),
        "record_seconds": recorded.seconds,
        "worst_loss_difference": worst,
    }


@dataclass
class Recorded:
    """The reference engine's forward as one CUDA graph: replayed with other edges in the place it reads them from."""

    present: Tensor
    replay: Callable[[], None]
    loss: Tensor
    seconds: float
    reads: Problem  # whose tensors the graph reads: they must live as long as it does

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        losses = []
        for trial in trials:
            here = self.present.clone()
            self.present[list(trial.removed)] = False
            self.replay()
            losses.append(float(self.loss))
            self.present.copy_(here)
        return losses

    def remove(self, edges: Sequence[int]) -> None:
        self.present[list(edges)] = False


@torch.no_grad()
def record(problem: Problem) -> Recorded:
    """Without focus: what a change of focus does is no part of a graph."""
    device = problem.corrupted.final.device
    prompts = replace(problem.prompts, items=problem.prompts.items.to(device))
    moved = replace(problem, prompts=prompts)
    losses, rows = losses_for(moved), rows_of(moved)[0]
    present = torch.ones(len(problem.graph.edges), dtype=torch.bool, device=device)

    def forward() -> Tensor:
        return losses(gather_items(circuit_stream(moved, present), rows))

    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(2):
            forward()
    torch.cuda.current_stream(device).wait_stream(aside)
    torch.cuda.synchronize()
    clock, graph = time.perf_counter(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = forward()
    torch.cuda.synchronize()
    return Recorded(present, graph.replay, loss, time.perf_counter() - clock, moved)


def summary(name: str, runs: Sequence[Run], base: Sequence[Run]) -> dict[str, Any]:
    per_test, last = [run.seconds / run.tests for run in runs], runs[-1]
    of_base = [run.seconds / run.tests for run in base]
    return {
        "way": name,
        "seconds": statistics.median(run.seconds for run in runs),
        "seconds_all": [run.seconds for run in runs],
        "ms_per_test": 1e3 * statistics.median(per_test),
        "over_float32": statistics.median(per_test) / statistics.median(of_base),
        "over_float32_range": [min(per_test) / max(of_base), max(per_test) / min(of_base)],
        **{"tests": last.tests, "kept": last.kept, "measured": last.measured, "whole": last.whole},
        "peak_bytes": max(run.peak_bytes for run in runs),
        "floor_seconds": last.floor,
        "over_floor": statistics.median(run.seconds for run in runs) / last.floor,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ways", help="their names, separated by semicolons (default: all)")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--tests", type=int, help="stop each search after so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=12, help="reference forwards; 0: none")
    parser.add_argument("--seconds", type=float, default=600, help="begin no further way after so long")
    parser.add_argument("--whole", action="store_true", help="with --tests: one search in float32 to its end as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this benchmark needs a CUDA GPU; --device cpu --shape tiny tries it without one")
    wanted = list(WAYS) if options.ways is None else [name.strip() for name in options.ways.split(";")]
    if unknown := [name for name in wanted if name not in WAYS]:
        parser.error(f"unknown way {unknown[0]!r}; known: {'; '.join(WAYS)}")
    ways = {name: WAYS[name] for name in wanted}
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    shape, start = SHAPES[options.shape], time.perf_counter()
    threshold = THRESHOLDS[options.shape] if options.threshold is None else options.threshold
    small = options.shape in ("gpt2", "tiny")
    model = make_model(shape, device="cpu" if small else options.device).to(device=options.device)
    prompts = make_prompts(shape, options.prompts)
    device = Device.measured(options.device, 8192 if options.device == "cuda" else 1024)
    problem = WAYS["float32"].problem(model, prompts)
    decisions = decide(WAYS["float32"], problem, threshold, options.tests)[0]
    sampled = reference(problem, decisions, options.sample) if options.sample and options.device == "cuda" else None
    edges = len(problem.graph.edges)
    del problem
    runs: dict[str, list[Run]] = {}
    for name in ["float32", *(name for name in ways if name != "float32"), "float32"]:
        if name == "float32" or time.perf_counter() - start < options.seconds:
            found = list(searches(WAYS[name], model, prompts, threshold, options.tests, options.rounds, device))
            runs.setdefault(name, []).extend(found)
            print(f"{time.perf_counter() - start:7.1f} s  {name}: {found[-1]}", file=sys.stderr, flush=True)
    rows = [summary(name, found, runs["float32"]) for name, found in runs.items()]
    if options.whole and options.tests:
        whole = list(searches(WAYS["float32"], model, prompts, threshold, None, 1, device))
        rows.append(summary("float32, whole search", whole, runs["float32"]))
    publish(
        {
            "settings": {k: v for k, v in vars(options).items() if k != "json"},
            "threshold": threshold,
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "operations_a_second": device.operations,
            "bytes_a_second": device.bytes,
            "torch": torch.__version__,
            "edges": edges,
            "reference": sampled,
            "rows": rows,
        },
        options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
