"""What the room of scores hands on are values: frozen."""

from __future__ import annotations

import pytest
from support.values import is_frozen, values_of

import pahq.scores

VALUES = list(values_of(pahq.scores))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_a_value_is_frozen(value: type) -> None:
    assert is_frozen(value)
    assert len(VALUES) > 5
