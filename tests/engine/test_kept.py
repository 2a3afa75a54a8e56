"""What is kept to save work: while there is room, and never another value than making it anew would give."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.gathered import Gathered
from pahq.engine.suffix.kept import KeptInputs

ONE, TWO, THREE = (Receiver("mlp", layer) for layer in range(3))
CLEAN, FRESH = torch.zeros(5), torch.full((5,), 7.0)
BYTES = 5 * 4


def inputs_with(capacity: int | None) -> KeptInputs:
    found = KeptInputs(lambda receiver: CLEAN + receiver.layer, lambda receiver: FRESH + receiver.layer, capacity)
    for receiver in (ONE, TWO):
        found.open(receiver)
    return found


def test_an_input_is_clean_until_something_touches_it() -> None:
    inputs = inputs_with(None)
    assert ONE in inputs
    assert THREE not in inputs
    assert inputs.untouched(TWO)
    assert torch.equal(inputs[TWO], CLEAN + 1)
    inputs[TWO] = FRESH
    assert not inputs.untouched(TWO)
    assert inputs.untouched(ONE)


def test_what_is_kept_is_a_copy_that_changes_are_added_to() -> None:
    inputs, given = inputs_with(None), torch.arange(5.0)
    inputs[ONE] = given
    given += 100
    assert torch.equal(inputs[ONE], torch.arange(5.0))
    inputs.add(ONE, torch.ones(5))
    assert torch.equal(inputs[ONE], torch.arange(5.0) + 1)
    inputs[ONE] = torch.zeros(5)
    assert torch.equal(inputs[ONE], torch.zeros(5))
    inputs.add(TWO, torch.ones(5))  # to the clean one
    assert torch.equal(inputs[TWO], CLEAN + 1 + 1)


def test_what_does_not_fit_is_formed_anew_and_what_is_kept_stays() -> None:
    for capacity, kept in ((0, 0), (BYTES - 1, 0), (BYTES, 1), (2 * BYTES - 1, 1), (2 * BYTES, 2), (None, 2)):
        inputs = inputs_with(capacity)
        for receiver in (ONE, TWO, ONE):
            inputs[receiver] = torch.full((5,), 3.0)
        for receiver, there in ((ONE, kept > 0), (TWO, kept > 1)):
            assert inputs.grows(receiver) == there
            inputs.add(receiver, torch.ones(5))
            assert torch.equal(inputs[receiver], torch.full((5,), 4.0) if there else FRESH + receiver.layer)
    assert inputs_with(0).grows(ONE)  # from its clean value


def test_rows_put_together_are_kept_by_name_and_layer() -> None:
    gathered, made, one, other = Gathered(2 * BYTES), list[int](), object(), object()

    def making(number: int) -> Callable[[], torch.Tensor]:
        return lambda: made.append(number) or torch.full((5,), float(number))  # type: ignore[func-returns-value]

    assert gathered("W", making(1), one)[0] == 1
    assert gathered("W", making(2), one)[0] == 1
    assert gathered("W", making(3), other)[0] == 3
    for number in (4, 5):  # no room is left
        assert gathered("b", making(number), one)[0] == number
    assert gathered("W", making(6), one)[0] == 1
    assert gathered("W", making(7), other)[0] == 3
    assert made == [1, 3, 4, 5]
    assert Gathered(BYTES - 1)("W", making(8))[0] == 8
