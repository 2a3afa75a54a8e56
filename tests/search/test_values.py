"""Values of a search are frozen: what was decided stays as it was."""

from __future__ import annotations

from support.values import changeable

import pahq.search


def test_nothing_can_be_changed_but_what_a_band_has_learnt() -> None:
    assert changeable(pahq.search) == {"Calibration"}
