"""Long tables of settings made short: every value of one setting meets every value of each other.

A test over seven families, three ablations and three formats has 63 cases; 21 of them suffice for every family to meet
every ablation and every format, and for every ablation to meet every format. A fault that needs three settings at once
may be missed by those, so ``PAHQ_EVERY_CASE=1`` (``make every-case``) runs them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import product

import pytest
from allpairspy import AllPairs

EVERY = os.environ.get("PAHQ_EVERY_CASE") == "1"


def pairs(
    settings: dict[str, Sequence[object]], *, without: Callable[..., bool] = lambda *values: False, every: bool = EVERY
) -> pytest.MarkDecorator:
    """Cases in which all pairs of values meet; none for which ``without`` (given the values in their order) holds."""
    names, values = list(settings), [list(values) for values in settings.values()]

    def wanted(row: Sequence[object]) -> bool:
        return len(row) < len(names) or not without(*row)

    rows = list(filter(wanted, product(*values))) if every else AllPairs(values, filter_func=wanted)
    return pytest.mark.parametrize(names, [tuple(row) for row in rows])
