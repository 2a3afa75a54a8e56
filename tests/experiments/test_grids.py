"""Grids of thresholds: numpy's logspace to six digits, faults in one sentence, the papers' own sweeps."""

from __future__ import annotations

import numpy as np
import pytest

from pahq.errors import PahqError
from pahq.experiments.grids import GRIDS, expand, log_grid


@pytest.mark.parametrize("ends", [(-4, 0, 21), (-6, 0, 31), (-3, 0.5, 21), (-5, -1, 21), (0, 1, 2)])
def test_a_grid_is_numpys_to_six_digits(ends: tuple[float, float, int]) -> None:
    found = log_grid(*ends)
    np.testing.assert_allclose(found, np.logspace(*ends), rtol=5e-6)
    assert all(float(f"{value:g}") == value for value in found)  # a cell's name shows all of it
    assert len(set(found)) == ends[2]


def test_round_numbers_are_round() -> None:
    assert {0.0001, 0.001, 0.01, 0.1, 1.0} < set(log_grid(-4, 0, 21))


def test_mappings_stand_alone_and_among_numbers() -> None:
    assert expand(0.3) == [0.3]
    assert expand({"log10": [-2, 0, 3]}) == [0.01, 0.1, 1.0]
    assert expand([0.005, {"log10": [-2, 0, 3]}, 2]) == [0.005, 0.01, 0.1, 1.0, 2]


@pytest.mark.parametrize(
    "value",
    [
        {"log10": [-2, 0]},
        {"log10": [-2, 0, 2.0]},
        {"log10": [-2, 0, 1]},
        {"log10": [-2, 0, True]},
        {"log10": ["-2", 0, 3]},
        {"log10": [-2, float("nan"), 3]},
        {"log10": [-2, 400, 3]},
        {"log10": 3},
        {"log2": [-2, 0, 3]},
        {"log10": [-2, 0, 3], "round": 2},
        {},
    ],
)
def test_another_form_is_told_in_one_sentence(value: object) -> None:
    with pytest.raises(PahqError, match=r"\{log10: \[start, stop, count\]\} .* was expected, got"):
        expand([0.1, value])


def test_a_series_has_one_sweep_of_acdcs() -> None:
    pairs = [pair for grid in GRIDS for pair in grid.of]
    assert len(set(pairs)) == len(pairs) == 10
    kl, metric = ({"kind": "greaterthan", "search_metric": name} for name in ("kl", "prob_diff"))
    [grid] = [grid for grid in GRIDS if grid.fits(kl) and grid.of]
    # 10^linspace(-6, -4, 11), extended to 1 in its own steps
    assert set(log_grid(-6, -4, 11)) < set(grid.thresholds)
    assert (min(grid.thresholds), max(grid.thresholds), len(grid.thresholds)) == (1e-6, 1.0, 31)
    assert [grid.thresholds for grid in GRIDS if grid.fits(metric) and grid.of] == [log_grid(-3, -1, 21)]
    assert [grid.name for grid in GRIDS if not grid.of] == ["PAHQ's sweep", "PAHQ's three"]
