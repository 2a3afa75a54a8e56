"""CPR and CMD against curves worked out by hand, rankings, nested circuits."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from pahq.faithfulness.curve import FRACTIONS, Curve, nested, ranking


def test_mib_sizes() -> None:
    assert FRACTIONS == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@pytest.mark.parametrize(
    ("faithfulness", "cpr", "cmd", "cmd_small"),
    [
        ([1.0] * 10, 0.999, 0.0, 0.0),
        ([0.0] * 10, 0.0, 0.999, 1.0),
        ([2.0] * 10, 1.998, 0.999, 1.0),  # too much counts in CPR, and against a circuit in CMD
        (list(FRACTIONS), (1 - 1e-6) / 2, 0.999 - (1 - 1e-6) / 2, 1 - 0.051 / 2),  # the diagonal
        # up to 10% nothing, then everything: .5 * (.2 - .1) to rise, then .8
        ([0.0] * 7 + [1.0] * 3, 0.85, 0.099 + 0.05, 1.0),
        # from -1 to 1 between 50% and 100%: areas cancel below, distances 2 and 0 do not
        ([0.0] * 8 + [-1.0, 1.0], -0.15, 0.199 + 0.45 + 0.5, 1.0),
    ],
)
def test_areas_by_hand(faithfulness: list[float], cpr: float, cmd: float, cmd_small: float) -> None:
    curve = Curve(tuple(faithfulness))
    assert curve.cpr == pytest.approx(cpr, abs=1e-12)
    assert curve.cmd == pytest.approx(cmd, abs=1e-12)
    assert curve.cmd_small == pytest.approx(cmd_small, abs=1e-12)


def test_areas_against_numpy() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.6, len(FRACTIONS))
    curve = Curve(tuple(values))
    assert curve.cpr == pytest.approx(np.trapezoid(values, FRACTIONS))
    assert curve.cmd == pytest.approx(np.trapezoid(np.abs(1 - values), FRACTIONS))


def test_ranking_by_effect() -> None:
    effects = {0: 0.1, 1: 0.5, 2: -3.0, 3: math.nan, 5: 0.1}
    assert ranking(effects, 7) == [3, 1, 0, 5, 2, 4, 6]  # NaN kept its edge; no test comes last
    assert ranking(effects, 7, absolute=True) == [3, 2, 1, 0, 5, 4, 6]


def test_nested_circuits() -> None:
    circuits = nested(list(range(1000))[::-1])
    assert circuits.sum(1).tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert circuits[0].nonzero()[0].tolist() == [999]
    assert all((small <= large).all() for small, large in pairwise(circuits))
    assert nested(range(38)).sum(1).tolist() == [0, 0, 0, 0, 0, 1, 3, 7, 19, 38]
