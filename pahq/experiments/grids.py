"""Grids of thresholds, equally spaced in log10, and those that the papers sweep. No torch, no numpy.

A grid's thresholds have six significant digits, all that a cell's name shows: what is read in a name can be typed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pahq.errors import PahqError


def log_grid(start: float, stop: float, count: int) -> tuple[float, ...]:
    """10^linspace(start, stop, count), both ends included, to six significant digits; ``count`` is at least 2."""
    exponents = [start + (stop - start) * i / (count - 1) for i in range(count)]
    return tuple(float(f"{10**exponent:.6g}") for exponent in exponents)


def expand(value: object) -> list[Any]:
    """A ``threshold`` of an experiment's row as a list: a number, ``{log10: [start, stop, count]}``, or a list.

    PahqError for a mapping of another form; whether the rest are numbers is not checked here.
    """
    found: list[Any] = []
    for part in value if isinstance(value, list) else [value]:
        found += _expanded(part) if isinstance(part, Mapping) else [part]
    return found


def _expanded(part: Mapping[Any, Any]) -> tuple[float, ...]:
    ends = part.get("log10")
    wanted = "threshold: {log10: [start, stop, count]} with two exponents and a whole number of at least 2 was expected"
    if set(part) != {"log10"} or not isinstance(ends, list) or len(ends) != 3:
        raise PahqError(f"{wanted}, got {dict(part)}")
    start, stop, count = ends
    numbers = all(type(end) in (int, float) and math.isfinite(end) and abs(end) <= 300 for end in (start, stop))
    if not numbers or type(count) is not int or not 2 <= count <= 10_000:
        raise PahqError(f"{wanted}, got {dict(part)}")
    return log_grid(start, stop, count)


@dataclass(frozen=True)
class Grid:
    """A paper's thresholds; ``of``: the (task kind, search metric) they are swept for, empty for every one."""

    name: str
    thresholds: tuple[float, ...]
    source: str
    of: tuple[tuple[str, str], ...] = ()

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a series (``kind``, ``search_metric``) is one that the grid is swept for."""
        return not self.of or (row["kind"], row["search_metric"]) in self.of


_ACDC = "ACDC's code (Conmy et al. 2023)"
_PAHQ = "PAHQ's code (arXiv 2510.23264)"
GRIDS: tuple[Grid, ...] = (
    Grid("ACDC's sweep", log_grid(-6, 0, 31), _ACDC, (("ioi", "kl"), ("greaterthan", "kl"))),
    Grid("ACDC's sweep", log_grid(-3, -1, 21), _ACDC, (("greaterthan", "prob_diff"),)),
    Grid(
        "ACDC's sweep",
        log_grid(-4, 0, 21),
        _ACDC,
        (
            ("ioi", "logit_diff"),
            ("docstring", "kl"),
            ("docstring", "margin"),
            ("induction", "kl"),
            ("induction", "nll"),
        ),
    ),
    Grid("ACDC's sweep", log_grid(-5, -1, 21), _ACDC, (("tracr-reverse", "mse"), ("tracr-proportion", "mse"))),
    Grid("PAHQ's sweep", log_grid(-3, 0.5, 21), _PAHQ),
    Grid("PAHQ's three", (0.001, 0.005, 0.01), _PAHQ),
)
