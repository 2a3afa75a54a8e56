"""Searches that are much like one another, beside the same searches on their own: a sweep of thresholds, and resamples.

    python benchmarks/together.py --json FILE

Whole searches in float32 on tasks of nano, in ACDC's order. ``sweep``: so many thresholds of one problem, evenly spread
in their logarithms, ``alone`` (every search from the whole graph, guessing by what became of an edge's like), with
equal ``prefixes`` of decisions taken over from a search before (``pahq.search.sweep``), with ``guesses`` by the effects
that the search before measured, and with ``both``, as ``pahq.sweep`` has them. ``resamples``: searches on prompts drawn
anew with replacement, ``alone`` and ``guessed`` by the circuit of the prompts themselves, as ``pahq.stability`` does;
and how many rounds the prompts' own search has ``by_scores``: if it guesses that an edge is kept where EAP-IG's score
of it is above the threshold.

``seconds`` are the process's own on one thread, the engine's set-up included and the model's and prompts' left out.
``rounds`` are calls of the engine for losses, ``measured`` the tests in them. ``card_rounds``: the same in windows as
wide as a GPU's. All ways are checked to take the same decisions. It takes half an hour.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from output import publish
from rounds import EXAMPLES, Watched

from pahq.cell.run import load
from pahq.circuits.order import Order
from pahq.engine.problem import Problem, cell_problem
from pahq.engine.suffix.budget import CARD, CPU, Sizes
from pahq.experiments.compose import compose_runs
from pahq.resamples.resample import draw, resample
from pahq.scores.start import score
from pahq.search import sweep as sweeping
from pahq.search.acdc import Decision, circuit_of
from pahq.search.likely import as_in
from pahq.search.speculate import speculate

TASKS = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")
LOWEST, HIGHEST = 1e-3, 1.0  # of a sweep's thresholds
THRESHOLDS = (0.1, 0.01, 1e-3)  # of the searches whose prompts are drawn anew
WAYS = {  # of a sweep: whether prefixes are taken over, and whether effects are guesses
    "alone": (False, False),
    "prefixes": (True, False),
    "guesses": (False, True),
    "both": (True, True),
}


class Counted:
    """Adds up seconds, rounds and tests of searches."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.seconds, self.rounds, self.measured = sizes, 0.0, 0, 0

    def search(
        self,
        problem: Problem,
        threshold: float,
        done: Sequence[Decision] = (),
        guesses: Mapping[int, bool] | None = None,
    ) -> list[Decision]:
        start = time.process_time()
        engine = Watched(problem, None, self.sizes)
        found = list(speculate(engine, Order(), threshold, done=done, guesses=guesses))
        self.seconds += time.process_time() - start
        self.rounds += len(engine.windows)
        self.measured += engine.measured
        return found


def told(decisions: Sequence[Decision]) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


def swept(problem: Problem, thresholds: Sequence[float]) -> dict[str, Any]:
    """A sweep in every way."""
    row: dict[str, Any] = {}
    expected: list[list[tuple[int, bool]]] = []
    for name, (prefixes, guessed) in WAYS.items():
        for sizes in (CPU, CARD):
            counted = Counted(sizes)
            found = _swept(counted, problem, thresholds, prefixes, guessed)
            expected = expected or found
            assert found == expected
            row.setdefault(name, {}).update(_figures(counted))
    return row


def _swept(
    counted: Counted, problem: Problem, thresholds: Sequence[float], prefixes: bool, guessed: bool
) -> list[list[tuple[int, bool]]]:
    """What a sweep decides at each threshold."""

    def start(threshold: float, done: Sequence[Decision], guesses: Mapping[int, bool]) -> Iterator[Decision]:
        return iter(counted.search(problem, threshold, done, guesses if guessed else None))

    with mock.patch.object(sweeping, "common_prefix", sweeping.common_prefix if prefixes else _nothing):
        return [told(one.decisions) for one in sweeping.sweep(start, thresholds)]


def _nothing(*_: object, **__: object) -> Sequence[Decision]:
    return ()


def _figures(counted: Counted) -> dict[str, float]:
    if counted.sizes is CARD:
        return {"card_rounds": counted.rounds, "card_measured": counted.measured}
    return {"seconds": counted.seconds, "rounds": counted.rounds, "measured": counted.measured}


def drawn_anew(problem: Problem, others: Sequence[Problem], threshold: float) -> dict[str, Any]:
    """Searches on prompts drawn anew, alone and guessed by the circuit of the prompts themselves."""
    row: dict[str, Any] = {}
    scored = {edge: not value > threshold for edge, value in enumerate(score(problem, "eap-ig").values)}
    for sizes in (CPU, CARD):
        own, by_scores = Counted(sizes), Counted(sizes)
        decisions = own.search(problem, threshold)
        guesses = as_in(circuit_of(problem.graph, decisions))
        row |= {"tests": len(decisions), "kept": sum(not decision.removed for decision in decisions)}
        assert told(by_scores.search(problem, threshold, guesses=scored)) == told(decisions)
        for name, counted in (("own", own), ("by_scores", by_scores)):
            row.setdefault(name, {}).update(_figures(counted))
        alone, guessed = Counted(sizes), Counted(sizes)
        for other in others:
            assert told(alone.search(other, threshold)) == told(guessed.search(other, threshold, guesses=guesses))
        for name, counted in (("alone", alone), ("guessed", guessed)):
            row.setdefault(name, {}).update(_figures(counted))
    return row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--thresholds", type=int, default=21, help="of a sweep")
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    points = torch.logspace(torch.tensor(LOWEST).log10(), torch.tensor(HIGHEST).log10(), options.thresholds)
    sweeps, resamples = [], []
    with torch.no_grad():
        for task in options.tasks:
            cell = compose_runs([f"task={task}", f"task.examples={EXAMPLES}"])[0][0]
            model, prompts = load(cell, "cpu")
            problem = cell_problem(cell, model, prompts.search, full=True)
            sweeps.append({"task": task} | swept(problem, [float(point) for point in points]))
            chosen = [draw(len(prompts.search.clean), 0, number) for number in range(options.resamples)]
            others = [cell_problem(cell, model, resample(prompts.search, at, copies=False), full=True) for at in chosen]
            for threshold in THRESHOLDS:
                row = {"task": task, "threshold": threshold}
                resamples.append(row | drawn_anew(problem, others, threshold))
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    publish({"settings": settings, "torch": torch.__version__, "sweeps": sweeps, "resamples": resamples}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
