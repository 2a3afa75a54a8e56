"""What a search asks of an engine. No tensors: searches see floats, so a fake engine of ten lines can test them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from pahq.circuits.graph import Graph


@dataclass(frozen=True, slots=True)
class Trial:
    """One question: the loss with the edges ``removed`` taken out of the current state, ``edge`` being under test.

    Edges are indices of the engine's graph. ``removed=()`` asks for the current state, under the focus of ``edge``.
    """

    edge: int
    removed: tuple[int, ...]


class Engine(Protocol):
    """A graph some of whose edges are gone: at first none, then those that ``remove`` took.

    What a caller must keep, since an engine may rely on it (``SuffixEngine`` does and refuses what breaks it with a
    PahqError that leaves it as it was; ``ReferenceEngine`` answers any question in any order):

    - Stages come in the order of ``pahq.circuits.order.visits``, from the output down, and may be skipped. Whoever has
      named an edge of a stage, in any call, names no edge of an earlier one afterwards, until a ``reset``.
    - The edges of one call, tested or removed, belong to one stage. The trials of one call share one focus.
    - What the network computes stays the same: the problem's weights and prompts do not change under an engine.

    What a caller may rely on:

    - ``measure`` takes no edge away. The same trials asked again at once have the very same losses, bit for bit.
    - After other questions, or in another company of trials, a loss is the same but for rounding: an engine carries
      values along, and chooses its way of adding up by what it was asked.
    - ``remove`` needs no ``measure`` before it. Only ``reset``, where an engine has it, brings edges back.
    """

    @property
    def graph(self) -> Graph: ...

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        """The loss of each trial. May move the engine on to the trials' stage and focus."""

    def remove(self, edges: Sequence[int]) -> None:
        """Take edges of one stage away. May move the engine on to that stage."""


class Resettable(Engine, Protocol):
    """An engine that searches can share, one after the other."""

    def reset(self) -> None:
        """Back to the whole graph and before the first stage."""


@runtime_checkable
class WindowEngine(Engine, Protocol):
    """An engine that measures many trials at once for less than they cost apart (``pahq.search.speculate``)."""

    def window(self, edge: int) -> int:
        """How many trials around ``edge`` to ask for at once. May move the engine on to the stage and focus of it."""

    @property
    def drift(self) -> float:
        """The largest difference, since the last ``reset``, of a loss that was carried along from the same anew."""


@runtime_checkable
class CostlyRounds(Protocol):
    """An engine that knows what a call of ``measure`` costs however many trials it is asked."""

    def overhead(self, edge: int) -> float:
        """That cost at the stage of ``edge``, in trials there. Told by sizes, never by a clock: so that the same
        search asks the same windows everywhere."""


def takes_windows(engine: Engine) -> TypeGuard[WindowEngine]:
    """Whether an engine is one to measure windows by; others are asked for one test at a time."""
    return isinstance(engine, WindowEngine)
