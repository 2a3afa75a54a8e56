"""A window's states of an input, by one running sum and by hand."""

from __future__ import annotations

import pytest
import torch
from support import small_models

from pahq.circuits.graph import Receiver
from pahq.engine.problem import build_problem
from pahq.engine.suffix import SuffixEngine
from pahq.engine.suffix.inputs import in_steps, left_out, less_and_less, project_together, without
from pahq.model.forward import project


def by_hand(current: torch.Tensor, gone: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for piece in reversed(gone):
        current = current - piece
        found.append(current)
    return found


@pytest.mark.parametrize("senders", [1, 2, 40])
def test_one_running_sum_is_a_subtraction_after_the_other(senders: int) -> None:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    gone = torch.randn(senders, 3, 5, 7, generator=generator, dtype=torch.float64)
    assert torch.equal(less_and_less(current, gone, []), torch.stack(by_hand(current, gone)))


def test_a_running_sum_leaves_out_what_stands_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    gone = torch.randn(5, 3, 5, 7, generator=generator, dtype=torch.float64)
    found, last = less_and_less(current, gone, [0, 2, 3]), gone.flip(0)
    expected = [[0], [1], [1, 2], [1, 3], [1, 4]]
    for one, members in zip(found, expected, strict=True):
        assert (one - (current - last[members].sum(0))).abs().max() < 1e-12
    assert torch.equal(last, gone.flip(0))


@pytest.mark.parametrize(
    ("sets", "alone"),
    [
        ([(5,), (5, 3), (5, 3, 0)], []),
        ([(5,), (3,), (3, 0)], [0]),
        ([(5,), (5, 3), (5, 0)], [1]),
        ([(5,), (3,), (0,)], [0, 1]),
        ([(5,)], None),  # of three senders
        ([(5,), (5, 3), (5, 3)], None),
        ([(5,), (5, 3), (5, 3, 0), (5, 3, 0)], None),
        ([(5,), (3,), (5, 3, 0)], None),
        ([(5,), (5, 0), (5, 0, 3)], None),
        ([(0,), (0, 3), (0, 3, 5)], None),
    ],
)
def test_a_running_sum_is_for_sets_that_take_senders_one_by_one(
    sets: list[tuple[int, ...]], alone: list[int] | None
) -> None:
    assert left_out(sets, [0, 3, 5]) == alone


@pytest.mark.parametrize(
    "sets",
    [
        [(5,), (5, 3), (5, 3, 0)],
        [(5,), (5, 3), (5, 0), (5, 0, 3)],
        [(5, 3), (5,)],  # the state that the first is one sender away from comes after it
        [(5, 3, 0), (5, 3), (5,), (0,)],
        [(3, 5), (3, 5, 0), (3, 0), (3,)],
        [(0, 3, 5), (3, 5), (0, 5), (5, 0)],
        [(5,), (), (5, 3)],
    ],
)
def test_states_without_any_sets_of_senders_in_any_order(sets: list[tuple[int, ...]], monkeypatch) -> None:
    """Memory that nobody has written to is full of NaN here, so that whoever reads it is seen."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    pieces = {sender: torch.randn(3, 5, 7, generator=generator, dtype=torch.float64) for sender in (0, 3, 5)}
    receiver = Receiver("mlp", 1)

    class Stand:
        def __init__(self) -> None:
            self.inputs = {receiver: current}

        def receiver_need(self, _: Receiver) -> int:
            return 2

        def clean_difference(self, senders: list[int], _: int) -> torch.Tensor:
            return torch.stack([pieces[sender] for sender in senders])

    made = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: made(*a, **k).fill_(float("nan")))
    found = without(Stand(), receiver, sets)  # type: ignore[arg-type]
    for values, members in zip(found, sets, strict=True):
        expected = current - sum(pieces[sender] for sender in members)
        assert (values - expected).abs().max() < 1e-12


@pytest.mark.parametrize("same", [0, 2])
@pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
def test_projections_together_are_projections_one_by_one(family: str, same: int) -> None:
    """Of all inputs of heads of a layer, of one alone, of two letters; where earlier positions are left out too."""
    model = small_models.random_model(family)
    problem = build_problem(model, small_models.random_prompts(model, same=same), metric="kl")
    engine = SuffixEngine(problem)
    engine.window(problem.graph.incoming(Receiver("head", 0, 0, "v"))[0])
    state, weights = engine._state, model.layers[0]
    inputs = [at for at in problem.graph.head_inputs if at.layer == 0]
    every = torch.randn(len(inputs), 4, 3, state.length, 12, generator=torch.Generator().manual_seed(0)).double()
    for chosen in (range(len(inputs)), [len(inputs) - 1], [0, len(inputs) - 1]):
        receivers = [inputs[i] for i in chosen]
        found = project_together(state, receivers, weights, every[list(chosen)])
        for at, receiver in enumerate(receivers):
            x = every[chosen[at]].flatten(0, 1)[None]
            alone = project(model.config, weights, receiver.letter, x, first=state.first, rows=[receiver.head])
            assert (found[at].flatten(0, 1) - alone[0]).abs().max() < 1e-12


@pytest.mark.gpu
@pytest.mark.parametrize("senders", [1, 2, 64])
def test_on_a_gpu_it_is_so_bit_for_bit_in_float32(senders: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    current = torch.randn(16, 15, 768, generator=generator, device="cuda")
    gone = torch.randn(senders, 16, 15, 768, generator=generator, device="cuda")
    assert torch.equal(less_and_less(current, gone, []), torch.stack(by_hand(current, gone)))


@pytest.mark.parametrize(
    ("sets", "subtractions"),
    [
        ([(5,), (5, 3), (5, 3, 0)], 3),  # each an earlier one and one sender more
        ([(5, 3), (5,), (5, 3, 0)], 4),
        ([(5,), (3,), (0,), (5, 3), (3, 0)], 5),
        ([(5, 3, 0, 1)], 4),
        ([(5,), (), (5, 3)], None),  # one takes nothing
        (
            [tuple((at + i) % 12 for i in range(11)) for at in range(12)],
            None,
        ),  # nothing in common: a product is cheaper
    ],
)
def test_states_begin_with_an_earlier_one_where_they_can(sets: list[tuple[int, ...]], subtractions: int | None) -> None:
    senders = sorted({sender for members in sets for sender in members})
    steps = in_steps(sets, senders)
    if subtractions is None:
        assert steps is None
        return
    assert steps is not None
    assert sum(len(rest) for _, rest in steps) == subtractions
    found: list[tuple[int, ...]] = []
    for earlier, rest in steps:
        found.append((() if earlier is None else found[earlier]) + tuple(senders[place] for place in rest))
    assert found == sets
