"""Many thresholds of one problem: what two searches have in common is computed once.

Two thresholds take the same decisions until an effect falls between them. So a search starts from the longest prefix of
a finished one that holds under its own threshold too, and forks there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pahq.search.acdc import Decision, is_removed

Start = Callable[[float, Sequence[Decision]], Iterator[Decision]]


@dataclass(frozen=True)
class Swept:
    """The search of one threshold; the first ``shared`` of its decisions came from another one's."""

    threshold: float
    decisions: tuple[Decision, ...]
    shared: int


def common_prefix(
    decisions: Sequence[Decision],
    threshold: float,
    *,
    absolute: bool = False,
    doubtful: Callable[[Decision, float], bool] = lambda decision, threshold: False,
) -> Sequence[Decision]:
    """A finished search's decisions up to the first that falls the other way under ``threshold``, or is in doubt."""
    for i, decision in enumerate(decisions):
        if is_removed(decision.effect, threshold, absolute=absolute) != decision.removed:
            return decisions[:i]
        if doubtful(decision, threshold):
            return decisions[:i]
    return decisions


def sweep(
    start: Start,
    thresholds: Sequence[float],
    *,
    absolute: bool = False,
    doubtful: Callable[[Decision, float], bool] = lambda decision, threshold: False,
) -> Iterator[Swept]:
    """Search every threshold, ascending; ``start(threshold, done)`` begins a search that goes on after ``done``.

    ``doubtful``: whether float noise could decide a test at another threshold, so that it is to be taken anew.
    """
    finished: list[Swept] = []
    for threshold in sorted(set(thresholds)):
        prefixes = [
            common_prefix(other.decisions, threshold, absolute=absolute, doubtful=doubtful) for other in finished
        ]
        done = max(prefixes, key=len, default=())
        decisions = (*done, *start(threshold, done))
        finished.append(Swept(threshold, decisions, len(done)))
        yield finished[-1]
