"""Values of the room are frozen: a weight at rest, its format, what it was calibrated on."""

from __future__ import annotations

from support.values import changeable

import pahq.precision


def test_nothing_can_be_changed_but_a_slot_whose_contents_come_and_go() -> None:
    assert changeable(pahq.precision) == {"_Slot"}
