"""One search spread over several processes, against as many searches side by side on the same cores.

    python benchmarks/spread.py --processes 1 2 4 --threshold 0.004 --json FILE

Every process holds the same problem and the same state. The trials of a window are divided among them, the losses
gathered (``torch.distributed``, gloo), and every process takes the same greedy decisions from them; they must be those
of one process alone, edge for edge. A window's last trial, whose state the search most likely goes on from, is measured
by everyone, so that its removals need no computation of their own.

What counts on a machine that others use are CPU seconds, of all processes together: with as many cores as processes and
nobody waiting, ``throughput`` (searches per CPU second, over that of searches side by side) is the most that spreading
can reach, and ``speedup`` (CPU seconds of one process alone over those of the busiest process) the most that one search
gains. ``seconds`` and what follows from them are of this machine at that moment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from output import publish
from synthetic import Shape, make_model, make_prompts
from torch import distributed
from torch.multiprocessing.spawn import spawn

from pahq.cell.provenance import versions
from pahq.circuits.graph import Graph
from pahq.circuits.order import Order
from pahq.engine.base import Trial, WindowEngine
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import SuffixEngine
from pahq.search.speculate import speculate

PATIENCE = timedelta(minutes=30)  # of a process that waits for the others


class SpreadEngine:
    """See ``pahq.engine.base.WindowEngine``: the losses of an engine that every process has, each a share of them.

    ``cost``: what a window costs each process beside its trials, in trials.
    """

    def __init__(self, engine: WindowEngine, rank: int, processes: int, cost: float) -> None:
        self._engine, self._rank, self._processes, self._cost = engine, rank, processes, cost
        self.rounds, self.waited = 0, 0.0

    @property
    def graph(self) -> Graph:
        return self._engine.graph

    @property
    def drift(self) -> float:
        return self._engine.drift

    def window(self, edge: int) -> int:
        return (self._engine.window(edge) - 1) * self._processes + 1

    def overhead(self, edge: int) -> float:
        """See ``pahq.engine.base.CostlyRounds``: every process pays for a window, whose trials are all of theirs."""
        return self._cost * self._processes

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        if self._processes == 1:
            return self._engine.measure(trials)
        *divided, last = trials
        share = -(-len(divided) // self._processes)  # of everyone but those at the end, who may have less
        own = divided[self._rank * share : (self._rank + 1) * share]
        losses = self._engine.measure([last, *own])
        sent = torch.tensor(losses + [float("nan")] * (share - len(own)), dtype=torch.float64)
        got = [torch.empty_like(sent) for _ in range(self._processes)]
        start = time.perf_counter()
        distributed.all_gather(got, sent)
        self.waited += time.perf_counter() - start
        self.rounds += 1
        gathered = torch.cat([one[1:] for one in got])[: len(divided)]
        return [*gathered.tolist(), got[0][0].item()]  # of the last trial the first process's, whatever its rounding

    def remove(self, edges: Sequence[int]) -> None:
        self._engine.remove(edges)


def search(problem: Problem, threshold: float, rank: int, processes: int, overhead: float) -> dict[str, Any]:
    """One whole search as this process takes part in it.

    ``overhead``: what a window costs beside its trials, in trials of one process, by which its width is chosen.
    """
    distributed.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    inner = SuffixEngine(problem)
    engine = SpreadEngine(inner, rank, processes, overhead)
    decisions = list(speculate(engine, Order(), threshold))
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "waited": engine.waited,
        "rounds": engine.rounds,
        "measured": inner.measured,
        "margin": min(abs(decision.effect - threshold) for decision in decisions),
        "decided": [(decision.edge, decision.removed) for decision in decisions],
        "losses": [decision.after for decision in decisions],
    }


def _work(rank: int, processes: int, store: str, options: argparse.Namespace, spread: bool, place: str) -> None:
    """A process's part; what came of it goes to a file of its own."""
    torch.set_num_threads(1)
    method = f"file://{store}"
    distributed.init_process_group("gloo", init_method=method, rank=rank, world_size=processes, timeout=PATIENCE)
    with torch.no_grad():
        sizes = {"layers": options.layers, "heads": options.heads, "vocabulary": options.vocabulary}
        shape = Shape(d_model=64 * options.heads, **sizes)
        problem = build_problem(make_model(shape), make_prompts(shape, options.prompts), metric="kl")
        shares = (rank, processes) if spread else (0, 1)
        found = [search(problem, options.threshold, *shares, options.overhead) for _ in range(options.repeats)]
    Path(place, f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def together(processes: int, options: argparse.Namespace, *, spread: bool) -> list[list[dict[str, Any]]]:
    """What every process found in every repeat: ``[process][repeat]``."""
    with tempfile.TemporaryDirectory() as place:
        words = (processes, f"{place}/store", options, spread, place)
        spawn(_work, args=words, nprocs=processes)  # type: ignore[no-untyped-call]
        return [json.loads(Path(place, f"{rank}.json").read_text()) for rank in range(processes)]


def row(found: list[list[dict[str, Any]]], alone: dict[str, Any], *, spread: bool) -> dict[str, Any]:
    """The repeat of least CPU seconds; its decisions, and everybody's in every repeat, must be those of one alone."""
    for one in (one for process in found for one in process):
        if one["decided"] != alone["decided"]:
            raise SystemExit("spread.py: other decisions than those of one process")
    best = min(zip(*found, strict=True), key=lambda ones: sum(one["cpu_seconds"] for one in ones))
    searches = 1 if spread else len(found)
    cpu = [one["cpu_seconds"] for one in best]
    seconds = [max(one["seconds"] for one in ones) / searches for ones in zip(*found, strict=True)]
    differences = [abs(a - b) for one in best for a, b in zip(one["losses"], alone["losses"], strict=True)]
    return {
        "processes": len(found),
        "spread": spread,
        "cpu_seconds_per_search": sum(cpu) / searches,
        "cpu_seconds_of_each": cpu,
        "seconds_per_search": min(seconds),
        "seconds_per_search_all": seconds,
        "seconds_waited": [one["waited"] for one in best],
        "gathered": best[0]["rounds"],
        "measured": [one["measured"] for one in best],
        "worst_loss_difference": max(differences),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threshold", type=float, default=0.004)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=5003)
    parser.add_argument("--overhead", type=float, default=1.0, help="of a window, in trials of one process")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-side-by-side", action="store_true", help="only the spread searches")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    load = os.getloadavg()[0]
    [process] = together(1, options, spread=True)
    alone = min(process, key=lambda one: one["cpu_seconds"])
    rows = [row([process], alone, spread=True)]
    for count in (count for count in options.processes if count > 1):
        rows.append(row(together(count, options, spread=True), alone, spread=True))
        if not options.no_side_by_side:
            rows.append(row(together(count, options, spread=False), alone, spread=False))
    for one in rows:
        one["speedup"] = alone["cpu_seconds"] / max(one["cpu_seconds_of_each"])
        one["throughput"] = alone["cpu_seconds"] / one["cpu_seconds_per_search"]
    report = {
        "settings": {key: value for key, value in vars(options).items() if key != "json"},
        "versions": versions(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(load, 1),
        "tests": len(alone["decided"]),
        "kept": sum(not removed for _, removed in alone["decided"]),
        "smallest_margin": alone["margin"],
        "rows": rows,
    }
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
