"""Many thresholds of one problem: what two searches have in common is computed once.

Two thresholds take the same decisions until an effect falls between them. So a search starts from the longest prefix of
a finished one that holds under its own threshold too, and forks there. From then on the effects that the search before
it measured are guesses of what goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pahq.search.acdc import Decision, is_removed

Start = Callable[[float, Sequence[Decision], Mapping[int, bool]], Iterator[Decision]]


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
    """Search every threshold, ascending; ``start(threshold, done, guesses)`` begins a search that goes on.

    ``done``: the decisions that it goes on after. ``guesses``: whether an edge (its index) has too small an effect for
    this threshold in the search before, so that it is likely to go.
    ``doubtful``: whether float noise could decide a test at another threshold, so that it is to be taken anew.
    """
    finished: list[Swept] = []
    for threshold in sorted(set(thresholds)):
        prefixes = [
            common_prefix(other.decisions, threshold, absolute=absolute, doubtful=doubtful) for other in finished
        ]
        done = max(prefixes, key=len, default=())
        before = finished[-1].decisions if finished else ()
        guesses = {decision.edge: is_removed(decision.effect, threshold, absolute=absolute) for decision in before}
        decisions = (*done, *start(threshold, done, guesses))
        finished.append(Swept(threshold, decisions, len(done)))
        yield finished[-1]
