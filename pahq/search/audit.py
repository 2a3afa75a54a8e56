"""Tests of a finished search measured again by another engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from pahq.engine.base import Engine
from pahq.search.acdc import Decision, is_removed
from pahq.search.follow import Follower
from pahq.search.rounds import RoundFollower


@dataclass(frozen=True)
class Audit:
    """Tests measured again, those whose decision falls the other way, and the largest difference of an effect."""

    tests: tuple[int, ...]
    flipped: tuple[int, ...]
    worst: float


def audit(
    engine: Engine,
    decisions: Sequence[Decision],
    chosen: Collection[int],
    threshold: float,
    *,
    absolute: bool = False,
    round_size: int | None = None,
    focus: Callable[[int], Hashable] = lambda edge: None,
) -> Audit:
    """Measure the chosen tests again, each in the state that the search was in, by a float64 ``engine``.

    The decisions before a test are taken as they fell: the audit asks of each test alone whether it would flip.
    ``round_size``: of the search (``pahq.search.rounds``). ``focus``: what ran in full precision under each test.
    """
    flipped, worst, wanted = [], 0.0, set(chosen)
    follower = Follower(engine, focus) if round_size is None else RoundFollower(engine, round_size)
    for decision in decisions:
        if decision.index in wanted:
            before, after = follower.losses(decision.edge)
            worst = max(worst, abs((after - before) - decision.effect))
            if is_removed(after - before, threshold, absolute=absolute) != decision.removed:
                flipped.append(decision.index)
        follower.decided(decision.edge, decision.removed)
    return Audit(tuple(sorted(wanted)), tuple(flipped), worst)
