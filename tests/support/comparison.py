"""The package's searches beside the oracle's, test by test, in the very states that the package's decisions made.

``make oracle --minutes 10`` prints the figures and ends with status 1 on any disagreement.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.precision.formats import Format, round_trip
from pahq.precision.store import focus_of as package_focus
from pahq.search.acdc import Decision, acdc
from pahq.search.speculate import speculate
from pahq.search.twin import doubts_for
from support.numpy_oracle.formats import stored
from support.numpy_oracle.search import Test, focus_of, search
from support.random_cases import FORMATS, Both, draw
from support.random_weights import KINDS, weights

EXACT = 1e-10  # float64: an effect's error, times the loss where that is above 1; a margin below it is a tie
CIRCUIT = 1e-10  # float64: a loss's error, relative
ROUNDING = 1e-15  # float64: error that each logit's rounding may add, times the largest clean logit (at least 100)
NOISE = 1e-5  # float32: error of a logit, times the largest clean logit where that is above 1
SMALL_LOSS = 1e-8  # float32: error that forming the loss itself may add
SHOWN = 40  # disagreements that are printed
WAYS = tuple((engine, dtype) for dtype in ("float64", "float32") for engine in ("reference", "suffix"))


@dataclass(frozen=True)
class Complaint:
    """A disagreement: in which dtype and of which metric ("" of both for formats), and in words."""

    text: str
    dtype: str = ""
    metric: str = ""


@dataclass
class Tally:
    """What was compared and what came of it, by engine and dtype.

    ``worst`` is the largest error of an effect (of the loss, where that is above 1), ``share`` the largest part of what
    is allowed, ``ties`` tests whose margin is below that, ``flipped`` those of them decided otherwise, ``differed``
    other decisions that are not the oracle's, ``settled`` those that float64 took; ``kinds`` counts cases by what they
    are about.
    """

    weights: int = 0
    searches: int = 0
    circuits: int = 0
    tests: Counter[str] = field(default_factory=Counter)
    removed: int = 0
    ties: Counter[str] = field(default_factory=Counter)
    flipped: Counter[str] = field(default_factory=Counter)
    differed: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    share: dict[str, float] = field(default_factory=dict)
    worst_circuit: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    complaints: list[Complaint] = field(default_factory=list)

    def lines(self) -> list[str]:
        out = [
            f"weights rounded: {self.weights}",
            f"searches compared: {self.searches}; tests: {sum(self.tests.values())}, of which removed {self.removed}",
            f"circuits compared: {self.circuits}, worst error of a loss {self.worst_circuit:.2g} (relative)",
        ]
        for way in self.tests:
            out.append(
                f"{way}: {self.tests[way]} tests, worst error of an effect {self.worst[way]:.2g}"
                f" ({self.share[way]:.2g} of what is allowed), ties {self.ties[way]},"
                f" of them decided otherwise {self.flipped[way]}, other decisions that differ {self.differed[way]},"
                f" settled by float64 {self.settled[way]}"
            )
        out.append(f"disagreements: {len(self.complaints)}")
        about = Counter(f"{complaint.dtype} {complaint.metric}".strip() or "formats" for complaint in self.complaints)
        out += [f"  {kind}: {count}" for kind, count in about.items()]
        out += [complaint.text for complaint in self.complaints[:SHOWN]]
        more = len(self.complaints) - SHOWN
        return out + ([f"... and {more} more"] if more > 0 else [])


def package_search(both: Both, problem: Problem, engine: str) -> list[Decision]:
    """The package's decisions as a cell takes them: what float32 could decide either way, float64 settles.

    The suffix engine's windows vary with the case.
    """
    case, threshold = both.case, both.rule.threshold
    judge = doubts_for(problem, threshold, absolute=case.absolute)

    def focus(edge: int) -> object:
        return package_focus(problem.graph, problem.graph.edges[edge], problem.focus)

    if engine == "reference":
        built = ReferenceEngine(problem)
        return list(acdc(built, case.order, threshold, absolute=case.absolute, focus=focus, judge=judge))
    rng = random.Random(-case.seed)
    suffix = SuffixEngine(problem, rows=rng.choice([1, 40, None]), memory_bytes=rng.choice([None, 2**30]))
    way = rng.choice([{"widest": 1}, {"adaptive": False}, {}, {}])
    return list(speculate(suffix, case.order, threshold, absolute=case.absolute, focus=focus, judge=judge, **way))


def allowed(both: Both, dtype: str, test: Test) -> float:
    """How far an effect may be off.

    In float32 a logit may be off by some delta. A KL then by at most sqrt(2 KL) delta + delta^2 (Pinsker's inequality
    bounds how far the two distributions lie apart), a mean square by 2 sqrt(mse) delta + delta^2, others by 2 delta.
    """
    if dtype == "float64":
        return EXACT * max(1.0, abs(test.before), abs(test.after))
    delta = NOISE * max(1.0, both.logit_scale)
    factor = {"kl": math.sqrt(2), "mse": 2.0}.get(both.case.metric)
    if factor is None:
        return 4 * delta
    return sum(factor * math.sqrt(max(x, 0.0)) * delta + delta**2 + SMALL_LOSS for x in (test.before, test.after))


def compare_searches(both: Both, tally: Tally, ways: tuple[tuple[str, str], ...] = WAYS) -> None:
    """Every engine in every dtype on one case."""
    case = both.case
    problems = {dtype: both.problem(getattr(torch, dtype)) for dtype in {dtype for _, dtype in ways}}
    for engine, dtype in ways:
        if engine == "suffix" and case.focus in ("sender", "both"):
            continue  # which that engine refuses, in a sentence
        compare_search(both, tally, engine, dtype, package_search(both, problems[dtype], engine), problems[dtype])
    for kind in (case.family, case.metric, case.ablation, case.method, case.precision.format, case.focus):
        tally.kinds[kind] += 1


def compare_search(
    both: Both, tally: Tally, engine: str, dtype: str, decisions: list[Decision], problem: Problem
) -> None:
    """One search of the package, replayed."""
    way, where = f"{engine} {dtype}", f"{engine} {dtype}, {both.case}"

    def complain(text: str) -> None:
        tally.complaints.append(Complaint(f"{where}: {text}", dtype, both.case.metric))

    taken = [decision.removed for decision in decisions]
    replay = list(search(both.network.facts, both.loss, both.rule, taken))
    tally.searches += 1
    if len(replay) != len(decisions):
        complain(f"{len(decisions)} tests, and the oracle asks for {len(replay)} at least")
    for theirs, ours in zip(decisions, replay, strict=False):
        name = str(problem.graph.edges[theirs.edge])
        if name != ours.edge:
            complain(f"test {theirs.index} is of {name}, and {ours.edge} is due")
            return
        effects = [theirs.effect] + ([theirs.rough[1] - theirs.rough[0]] if theirs.rough else [])
        error, bound = max(abs(effect - ours.effect) for effect in effects), allowed(both, dtype, ours)
        tally.settled[way] += theirs.rough is not None
        margin = abs(both.rule.margin(ours.effect))
        at = f"test {theirs.index} of {name}"
        tally.tests[way] += 1
        tally.removed += theirs.removed
        relative = error / max(1.0, abs(ours.before), abs(ours.after))
        tally.worst[way] = max(tally.worst.get(way, 0.0), relative)
        tally.share[way] = max(tally.share.get(way, 0.0), error / bound)
        if not error <= bound:
            complain(
                f"{at}: effect {theirs.effect:.6g} and not {ours.effect:.6g} (loss {ours.before:.6g}),"
                f" off by {error:.2g} where {bound:.2g} is allowed"
            )
        if margin <= bound:
            tally.ties[way] += 1
            tally.flipped[way] += theirs.removed != ours.removed
        elif theirs.removed != ours.removed:
            tally.differed[way] += 1
            complain(f"{at}: removed={theirs.removed} where the margin is {margin:.2g}")


def compare_formats(seed: int, tally: Tally) -> None:
    """Every format with all its scales on weights of every kind, bit for bit, signs of zeros included."""
    for name, scales in FORMATS:
        for kind in KINDS:
            w = weights(name, kind, np.random.default_rng([seed, KINDS.index(kind)]))
            theirs = round_trip(torch.from_numpy(w), Format(name, scales)).numpy()
            with np.errstate(over="ignore"):  # of the largest float32 numbers, in both alike
                ours = stored(w, name, scales)
            tally.weights += w.size
            wrong = np.flatnonzero(theirs.view(np.int32) != ours.view(np.int32))
            if len(wrong):
                values = f"{w.flat[wrong[0]]!r} comes back as {theirs.flat[wrong[0]]!r} and not {ours.flat[wrong[0]]!r}"
                text = f"{name}/{scales}, {kind} weights {seed}: {len(wrong)} of {w.size} differ, {values}"
                tally.complaints.append(Complaint(text))


def compare_circuits(both: Both, tally: Tally, count: int = 3) -> None:
    """The losses of random circuits under random focus, in float64."""
    rng = random.Random(both.case.seed + 1)
    problem = both.problem(torch.float64)
    names = both.network.edges
    for share in rng.sample([0.0, 0.2, 0.5, 0.8, 0.95, 1.0], count):
        present = frozenset(name for name in names if rng.random() < share)
        tested = rng.choice(names)
        engine = ReferenceEngine(problem)
        engine.remove([problem.graph.index_of(name) for name in names if name not in present])
        theirs = engine.measure([Trial(problem.graph.index_of(tested), ())])[0]
        ours = both.loss(present, focus_of(both.network.facts, tested, both.case.focus))
        error, floor = abs(theirs - ours), ROUNDING * max(100.0, both.logit_scale)
        tally.circuits += 1
        tally.worst_circuit = max(tally.worst_circuit, error / max(abs(ours), floor / CIRCUIT))
        if not error <= CIRCUIT * abs(ours) + floor:
            text = f"a circuit of {len(present)} edges under the focus of {tested} has loss {theirs!r}, not {ours!r}"
            tally.complaints.append(Complaint(f"{both.case}: {text}", "float64", both.case.metric))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long to go on (default 10)")
    parser.add_argument(
        "--cases", type=int, help="stop after so many cases (of up to four searches each), whatever the time"
    )
    parser.add_argument("--first", type=int, default=100_000, help="number of the first case")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tally, number, begun = Tally(), given.first, time.monotonic()
    while number - given.first < given.cases if given.cases else time.monotonic() - begun < 60 * given.minutes:
        compare_formats(number, tally)
        both = Both(draw(number))
        compare_circuits(both, tally)
        compare_searches(both, tally)
        number += 1
    print(f"cases {given.first} to {number - 1}, {time.monotonic() - begun:.0f} s")
    print("\n".join(tally.lines()))
    print("cases by kind: " + ", ".join(f"{kind} {count}" for kind, count in sorted(tally.kinds.items())))
    return 1 if tally.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
