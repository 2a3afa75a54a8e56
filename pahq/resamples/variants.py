"""What a further search changes: the prompts drawn, the order of the search, or the prompts' seed. Values, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pahq.circuits.order import Order
from pahq.errors import PahqError
from pahq.experiments.jobs import RESAMPLES, SEARCHES, Asked

Kind = Literal["resamples", "orders", "seeds"]
KINDS: tuple[Kind, ...] = ("resamples", "orders", "seeds")
SEEDS = Asked(resamples=RESAMPLES).seeds  # other seeds by default: 5 beside 20 resamples


@dataclass(frozen=True)
class Variant:
    """One more search, by ``name``. ``resample``: the number of a draw; ``seed``: how far from the original's seed."""

    kind: Kind
    name: str
    order: Order
    resample: int | None = None
    seed: int = 0


def check_counts(n: int, seeds: int = 0) -> None:
    """Raise PahqError unless ``n`` resamples can be compared in pairs, ``seeds`` is not negative, and both end."""
    for name, value in (("n", n), ("seeds", seeds)):
        if type(value) is not int:
            raise PahqError(f"{name}: a whole number was expected (got {value!r})")
    if n < 2:
        raise PahqError(f"n={n} resamples cannot be compared with each other; at least 2 are needed")
    if seeds < 0:
        raise PahqError(f"seeds={seeds} is no number of further seeds; 0 or more are expected")
    for name, value in (("n", n), ("seeds", seeds)):
        if value > SEARCHES:
            raise PahqError(f"{name}={value} is too many searches of one cell; at most {SEARCHES} are expected")


def resample_variants(count: int, order: Order) -> list[Variant]:
    """``count`` resamples of the prompts, searched in the original's order."""
    return [Variant("resamples", f"resample-{i:03}", order, resample=i) for i in range(count)]


def order_variants(order: Order) -> list[Variant]:
    """The three other orders: heads of a layer descending or ascending, senders' layers nearest or farthest first."""
    return [Variant("orders", f"{other.indices}-{other.senders}", other) for other in _orders() if other != order]


def seed_variants(count: int, order: Order) -> list[Variant]:
    """The next ``count`` seeds after the original's."""
    return [Variant("seeds", f"seed-plus-{i}", order, seed=i) for i in range(1, count + 1)]


def _orders() -> Iterator[Order]:
    for indices in ("descending", "ascending"):
        for senders in ("nearest", "farthest"):
            yield Order(indices, senders)
