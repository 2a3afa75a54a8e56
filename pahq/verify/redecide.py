"""A journal's decisions taken again, each in the state that the search had reached."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from pahq.cell.result import Certainty
from pahq.circuits.graph import Graph
from pahq.circuits.order import Order
from pahq.config.cell import CellConfig
from pahq.engine.base import Trial
from pahq.engine.changereference import ChangeReference
from pahq.engine.problem import Problem, full_problem
from pahq.engine.reference import ReferenceEngine
from pahq.errors import PahqError
from pahq.model.weights import Model
from pahq.search.acdc import Decision, acdc, is_removed, margin
from pahq.search.band import Calibration, layers_of
from pahq.search.follow import Follower
from pahq.search.rounds import RoundFollower
from pahq.search.start import focus_on
from pahq.verify.claimed import Claim

TOLERANCE = 1e-5  # of an effect, in the metric's units or in proportion to losses above 1


class _Silent:
    """An engine that is asked for nothing as long as the decisions last."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        raise PahqError(f"the journal ends before the test of {self.graph.edges[trials[0].edge]}")

    def remove(self, edges: Sequence[int]) -> None:
        """Nothing is here to be taken away."""


def order_fault(graph: Graph, cell: CellConfig, decisions: Sequence[Decision]) -> str | None:
    """Where the decisions are not the tests that the cell's search comes to, in its order; None if they are."""
    method = cell.method
    order, silent = Order(method.order, method.senders), _Silent(graph)
    try:
        for _ in acdc(silent, order, cell.search_threshold, absolute=method.absolute, done=decisions):
            pass
    except PahqError as fault:
        return str(fault)
    return None


def band_fault(problem: Problem, cell: CellConfig, decisions: Sequence[Decision]) -> str | None:
    """Of ``audit=band``, the first test that was not audited though the band asks for it, or the other way round."""
    absolute = cell.method.absolute
    known = Calibration(cell.band, cell.search_threshold, absolute, layers_of(problem.graph), problem.format_error)
    for decision in decisions:
        if cell.audit != "band" or known.hopeless:
            wanted = known.hopeless
        else:
            before, after = decision.low or (decision.before, decision.after)
            wanted = known.wants(replace(decision, before=before, after=after))
        if wanted != decision.audited:
            says = "audited" if decision.audited else "not audited"
            edge = problem.graph.edges[decision.edge]
            return f"test {decision.index} of {edge} was {says}, where audit={cell.audit} has it otherwise"
        if cell.audit == "band":
            known.note(decision)
    return None


def redecide(
    claim: Claim,
    cell: CellConfig,
    model: Model,
    problem: Problem,
    decisions: Sequence[Decision],
    certainty: Certainty,
    sample: int | None,
    seed: int,
) -> Claim:
    """The claim, with what measuring all tests again (or a ``sample``) found.

    ``certainty``: the cell's own word of how far off an effect can be, and of how many tests are at risk by that.
    """
    chosen, edges = chosen_tests(len(decisions), sample, seed), problem.graph.edges
    low, full = _follower(problem.in_float64()), None
    if cell.audit == "band":
        full = _follower(full_problem(cell, model, problem.prompts, problem).in_float64())
    equal, worst, at_risk, smallest, first = 0, 0.0, 0, math.inf, None
    for decision in decisions:
        if decision.index in chosen:
            again = _measured(decision, low, full, cell)
            off, away = abs(again.effect - decision.effect), _margin(again, cell)
            worst, smallest = max(worst, off), min(smallest, away)
            near = decision.rough is None and not _margin(decision, cell) > certainty.noise
            fault = _fault(decision, again, certainty.noise, flips=near and at_risk < certainty.at_risk)
            first = first or (fault and f"test {decision.index} of {edges[decision.edge]} {fault}")
            at_risk += fault is None and again.removed != decision.removed
            equal += fault is None
        for follower in (low, full):
            if follower is not None:
                follower.decided(decision.edge, decision.removed)
    return replace(
        claim,
        checked=len(chosen),
        equal=equal,
        worst=worst,
        margin=smallest,
        at_risk=at_risk,
        seed=seed if len(chosen) < len(decisions) else None,
        first=first,
    )


def chosen_tests(count: int, sample: int | None, seed: int) -> frozenset[int]:
    """Which of ``count`` tests a sample takes: by their sha256 with the seed, so the same ones on every machine."""
    if sample is None or sample >= count:
        return frozenset(range(count))
    ranked = sorted(range(count), key=lambda index: hashlib.sha256(f"{seed} {index}".encode()).digest())
    return frozenset(ranked[:sample])


def _follower(problem: Problem) -> Follower | RoundFollower:
    """The reference engine of a problem, brought to the journal's state when it is asked."""
    engine = ReferenceEngine(problem) if problem.changes is None else ChangeReference(problem)
    if problem.round_size is None:
        return Follower(engine, focus_on(problem))
    return RoundFollower(engine, problem.round_size)


def _measured(
    decision: Decision, low: Follower | RoundFollower, full: Follower | RoundFollower | None, cell: CellConfig
) -> Decision:
    """The decision as it falls here; where full precision decided, low precision is measured too if it was then."""
    below = None
    if decision.audited:
        assert full is not None
        below = None if decision.low is None else low.losses(decision.edge)
        before, after = full.losses(decision.edge)
    else:
        before, after = low.losses(decision.edge)
    removed = is_removed(after - before, cell.search_threshold, absolute=cell.method.absolute)
    return replace(decision, before=before, after=after, removed=removed, low=below)


def _fault(said: Decision, here: Decision, noise: float, *, flips: bool) -> str | None:
    """What a test differs in from the journal's; None if in nothing. ``flips``: whether it may fall the other way."""
    if here.removed != said.removed and not flips:
        told = [("removed" if one.removed else "kept", f"{one.effect:.6g}") for one in (here, said)]
        return f"{told[0][0]} it (effect {told[0][1]}), the bundle says {told[1][0]} ({told[1][1]})"
    pairs = [("effect", (here.before, here.after), (said.before, said.after))]
    if here.low is not None and said.low is not None:
        pairs.append(("effect in low precision", here.low, said.low))
    for what, again, recorded in pairs:
        found, stated = again[1] - again[0], recorded[1] - recorded[0]
        if not abs(found - stated) <= max(TOLERANCE * max(1.0, *map(abs, again)), noise):
            return f"has {what} {found:.6g}, the bundle says {stated:.6g}"
    return None


def _margin(decision: Decision, cell: CellConfig) -> float:
    return margin(decision.effect, cell.search_threshold, absolute=cell.method.absolute)
