"""What a round costs the host: torch operations and microseconds of one call of ``measure``, on a model so small that
arithmetic counts for little; and how many rounds a search takes beside the fewest that its wrong guesses allow.

    python benchmarks/rounds.py --json FILE
    python benchmarks/rounds.py --tasks nano-ioi nano-greaterthan nano-docstring nano-induction --json FILE

The model has 12 layers of 12 heads. ``operations_per_round`` counts the operators that compute something while a round
is measured: on a GPU each is a launch. ``dispatched_per_round`` counts views of tensors as well. Seconds are the
process's own on one thread, so that other processes matter little. ``bound`` is the wrong guesses + tests / the widest
window that the engine allows; a guess is wrong where tests behind it were in vain. ``card``: the rounds of the same
search in windows as wide as a GPU's, on this CPU. ``recorded``: the same once more with rounds that are recorded
(``pahq.engine.suffix.recorded``), by a double of CUDA graphs (``benchmarks/tape.py``): how many recordings were
``made``, how many rounds ``replayed`` them, and what else the host asks for in a round. ``guessed``: the same search in
a sweep, with guesses by the effects of one at 0.8 of its threshold.

With ``--tasks`` rounds are counted of whole searches on tasks of nano, 16 prompts, at four thresholds: ``with`` the
guess that an edge is kept where most of its like were (``pahq.search.likely``), and ``without``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from output import publish
from synthetic import Shape, make_model, make_prompts
from tape import Tape
from torch.utils._python_dispatch import TorchDispatchMode

from pahq.cell.run import load
from pahq.circuits.order import Order
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem, cell_problem
from pahq.engine.suffix import SuffixEngine, budget, inputs
from pahq.engine.suffix.budget import CARD, CPU, Sizes
from pahq.engine.suffix.graphs import Recorder
from pahq.experiments.compose import compose_runs
from pahq.search.acdc import Decision, is_removed
from pahq.search.likely import Likely
from pahq.search.speculate import speculate

SHAPE = Shape(layers=12, heads=12, d_model=96, d_head=8, vocabulary=211, positions=8)
PROMPTS = 4
THRESHOLDS = {"sparse": 0.004, "dense": 0.001}
EXAMPLES, NANO_THRESHOLDS = 16, (0.1, 0.03, 1e-3, 1e-5)


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators by name; ``views`` are those whose result shares its first operand's memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()
        self.views = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.__name__.removesuffix(".default")] += 1
        self.views += func.is_view
        return func(*args, **(kwargs or {}))


class Watched(SuffixEngine):
    """Counts its rounds, and operators and seconds within them."""

    def __init__(
        self, problem: Problem, counted: Counted | None, sizes: Sizes | None = None, record: Recorder | None = None
    ) -> None:
        self.windows: list[list[int]] = []
        self.widest, self.seconds, self.counted = 1, 0.0, counted
        with mock.patch.object(budget, "sizes_for", return_value=sizes or CPU):
            super().__init__(problem, record=record)

    def window(self, edge: int) -> int:
        width = super().window(edge)
        self.widest = max(self.widest, width)
        return width

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        self.windows.append([trial.edge for trial in trials])
        start = time.process_time()
        if self.counted is None:
            losses = super().measure(trials)
        else:
            with self.counted:
                losses = super().measure(trials)
        self.seconds += time.process_time() - start
        return losses


def measure(problem: Problem, threshold: float, repeats: int) -> dict[str, Any]:
    """All figures of one density."""
    counted = Counted()
    first = Watched(problem, counted)
    decisions = list(speculate(first, Order(), threshold))
    rounds, tests = len(first.windows), len(decisions)
    times = []
    for _ in range(repeats):
        engine = Watched(problem, None)
        start = time.process_time()
        again = list(speculate(engine, Order(), threshold))
        times.append((engine.seconds, time.process_time() - start))
        assert [(d.edge, d.removed) for d in again] == [(d.edge, d.removed) for d in decisions]
    wide = Watched(problem, Counted(), CARD)
    with as_on_a_card():
        again = list(speculate(wide, Order(), threshold))
    assert [(d.edge, d.removed) for d in again] == [(d.edge, d.removed) for d in decisions]
    return {
        "threshold": threshold,
        "tests": tests,
        "kept": sum(not decision.removed for decision in decisions),
        "measured": first.measured,
        "wrong_guesses": wrong_guesses(first.windows, [decision.edge for decision in decisions]),
        "widest": first.widest,
        "rounds": rounds,
        "bound": bound(first, decisions),
        **operations(first),
        "host_microseconds_per_round": 1e6 * statistics.median(seconds for seconds, _ in times) / rounds,
        "host_microseconds_per_round_all": [1e6 * seconds / rounds for seconds, _ in times],
        "search_seconds": statistics.median(seconds for _, seconds in times),
        "card": {
            "rounds": len(wide.windows),
            "measured": wide.measured,
            "widest": wide.widest,
            "bound": bound(wide, decisions),
            "wrong_guesses": wrong_guesses(wide.windows, [decision.edge for decision in decisions]),
            **operations(wide),
            "recorded": recorded(problem, threshold),
        },
        "guessed": {name: guessed(problem, threshold, sizes) for name, sizes in (("cpu", CPU), ("card", CARD))},
        "most_frequent": {name: count / rounds for name, count in counted.names.most_common(25)},
    }


def as_on_a_card() -> AbstractContextManager[object]:
    """What a CPU subtracts one after the other, a GPU subtracts in one operation."""
    return mock.patch.object(inputs, "SMALL", 1 << 60)


def guessed(problem: Problem, threshold: float, sizes: Sizes) -> dict[str, int]:
    """Rounds, trials and wrong guesses of a search that knows the effects of one at 0.8 of its threshold."""
    before = speculate(Watched(problem, None, sizes), Order(), 0.8 * threshold)
    guesses = {decision.edge: is_removed(decision.effect, threshold) for decision in before}
    engine = Watched(problem, None, sizes)
    decisions = list(speculate(engine, Order(), threshold, guesses=guesses))
    wrong = wrong_guesses(engine.windows, [decision.edge for decision in decisions])
    return {"rounds": len(engine.windows), "measured": engine.measured, "wrong_guesses": wrong}


def by_like(tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Rounds and wrong guesses of searches on tasks, with guesses by an edge's like and without."""
    found = []
    for task in tasks:
        cell = compose_runs([f"task={task}", f"task.examples={EXAMPLES}"])[0][0]
        model, prompts = load(cell, "cpu")
        problem = cell_problem(cell, model, prompts.search, full=True)
        for threshold in NANO_THRESHOLDS:
            row: dict[str, Any] = {"task": task, "threshold": threshold}
            for name, kept in (("with", Likely.kept), ("without", lambda likely, edge: False)):
                engine = Watched(problem, None)
                with mock.patch.object(Likely, "kept", kept):
                    decisions = list(speculate(engine, Order(), threshold))
                wrong = wrong_guesses(engine.windows, [decision.edge for decision in decisions])
                row[name] = {"rounds": len(engine.windows), "measured": engine.measured, "wrong_guesses": wrong}
                row |= {"tests": len(decisions), "kept": sum(not decision.removed for decision in decisions)}
            found.append(row)
    return found


def operations(engine: Watched) -> dict[str, float]:
    """Operators of a round of an engine that counted them, and how often its plans come again."""
    counted, rounds = engine.counted, len(engine.windows)
    assert counted is not None
    total = sum(counted.names.values())
    return {
        "operations_per_round": (total - counted.views) / rounds,
        "dispatched_per_round": total / rounds,
    }


def recorded(problem: Problem, threshold: float) -> dict[str, float]:
    """What is left to the host of a search in a GPU's windows whose rounds are recorded."""
    tape = Tape()
    engine = Watched(problem, Counted(), CARD, tape)
    with as_on_a_card():
        list(speculate(engine, Order(), threshold))
    assert engine._recordings is not None
    return {
        "rounds": len(engine.windows),
        "made": engine._recordings.made,
        "replayed": engine._recordings.replayed,
        "operations_per_recording": statistics.mean(tape.operations),
        **operations(engine),
    }


def wrong_guesses(windows: Sequence[Sequence[int]], tested: Sequence[int]) -> int:
    """In how many windows some tests were measured in vain: they are measured again in the next one."""
    places = {edge: place for place, edge in enumerate(tested)}
    ends = [
        (places[window[0]], len(window)) for window in windows[1:]
    ]  # the first call asks for the whole graph's loss
    return sum(start + width > after for (start, width), (after, _) in pairwise(ends))


def bound(engine: Watched, decisions: Sequence[Decision]) -> float:
    """The fewest rounds that the engine's wrong guesses allow."""
    wrong = wrong_guesses(engine.windows, [decision.edge for decision in decisions])
    return wrong + len(decisions) / engine.widest


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.tasks:
        publish({"examples": EXAMPLES, "torch": torch.__version__, "searches": by_like(options.tasks)}, options.json)
        return 0
    with torch.no_grad():
        problem = build_problem(make_model(SHAPE), make_prompts(SHAPE, options.prompts), metric="kl")
        found = {name: measure(problem, threshold, options.repeats) for name, threshold in THRESHOLDS.items()}
    report = {"shape": asdict(SHAPE), "prompts": options.prompts, "torch": torch.__version__, "density": found}
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
