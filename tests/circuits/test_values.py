"""What circuits are made of are values: frozen, equal where their fields are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.values import is_frozen, values_of

import pahq.circuits

VALUES = list(values_of(pahq.circuits))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value.__name__)
def test_a_value_is_frozen(value: type) -> None:
    assert is_frozen(value)
    assert value.__hash__ is not object.__hash__  # equal ones are one key


def test_this_test_sees_a_value_that_is_not() -> None:
    @dataclass
    class Loose:
        field: int

    assert not is_frozen(Loose)
    assert len(VALUES) > 20
