"""What a search asks of an engine. No tensors: searches see floats, so a fake engine of ten lines can test them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pahq.circuits.graph import Graph


@dataclass(frozen=True, slots=True)
class Trial:
    """One question: the loss with the edges ``removed`` taken out of the current state, ``edge`` being under test.

    Edges are indices of the engine's graph. ``removed=()`` asks for the current state, under the focus of ``edge``.
    """

    edge: int
    removed: tuple[int, ...]


class Engine(Protocol):
    """``measure`` changes nothing; ``remove`` is for good."""

    @property
    def graph(self) -> Graph: ...

    def measure(self, trials: Sequence[Trial]) -> list[float]: ...

    def remove(self, edges: Sequence[int]) -> None: ...
