"""Slots of the heads in focus: each reader gets the very weights it asked for, or is told that it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_models import random_model
from torch import Tensor

from pahq.errors import PahqError
from pahq.model import open_model, save_model
from pahq.model.sources.modelfile import ModelFile, spill
from pahq.model.weights import Model
from pahq.precision.schedule import Threaded, Wait
from pahq.precision.slots import FocusSlots, PinnedMaster, StaleWeights

CPU = torch.device("cpu")


def late(work: Callable[[], None]) -> Wait:
    """As late as can be: nothing is loaded before someone waits for it."""
    return work


def now(work: Callable[[], None]) -> Wait:
    work()
    return lambda: None


def slots_of(
    model: Model, start: Callable[[Callable[[], None]], Wait] = now, count: int = 2
) -> tuple[FocusSlots, ModelFile]:
    master = spill(model)
    return FocusSlots(model.config, master, start, dtype=model.W_E.dtype, device=CPU, count=count), master


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_a_group_is_a_key_value_head_and_the_query_heads_that_read_it(family: str) -> None:
    model = random_model(family)
    slots, _ = slots_of(model)
    config = model.config
    size = config.heads // config.kv_heads
    for layer in range(config.layers):
        for group in range(config.kv_heads):
            ticket = slots.take((layer, group))
            for name, count in (("W_Q", size), ("W_O", size), ("W_K", 1), ("W_V", 1)):
                exact = getattr(model.layers[layer], name)
                assert torch.equal(ticket[name], exact[group * count : (group + 1) * count])
    assert slots.nbytes == 2 * (2 * size + 2) * config.d_model * config.d_head * 8  # float64


def test_a_stale_ticket_is_refused() -> None:
    slots, _ = slots_of(random_model("gpt2"))
    ticket = slots.take((0, 1))
    assert ticket["W_Q"].shape == (1, 12, 4)
    slots.take((0, 2))
    assert torch.isfinite(ticket["W_Q"]).all()  # two slots: still here
    slots.take((1, 0))
    with pytest.raises(StaleWeights, match=r"focus \(0, 1\) was read after"):
        ticket["W_Q"]
    again = slots.take((0, 1))  # the same focus in another load is another ticket
    with pytest.raises(StaleWeights):
        ticket["W_Q"]
    assert torch.isfinite(again["W_Q"]).all()


def test_a_slot_that_is_being_loaded_again_is_refused_before_it_is_written() -> None:
    slots, _ = slots_of(random_model("gpt2"), late)
    ticket = slots.take((0, 1))
    slots.take((0, 2))
    slots.prefetch((1, 1))
    with pytest.raises(StaleWeights):
        ticket["W_K"]


def test_a_poisoned_slot_is_refused() -> None:
    """Slots start as NaN and become NaN before each load, so weights that never came are no weights."""
    slots, master = slots_of(random_model("gpt2"))
    ticket = slots.take((0, 1))
    slots._slots[0].tensors["W_O"][0, 0, 0] = float("nan")
    with pytest.raises(StaleWeights, match=r"W_O of focus \(0, 1\) was read, but its slot is poisoned"):
        ticket["W_O"]
    master.read_heads = lambda *args: None  # type: ignore[method-assign]  # a load that loads nothing
    with pytest.raises(StaleWeights, match="poisoned"):
        slots.take((1, 2))["W_Q"]


def test_a_load_that_fails_is_raised_where_the_weights_are_asked_for_and_can_be_tried_again() -> None:
    slots, master = slots_of(random_model("gpt2"), Threaded().load)
    read, broken = master.read_heads, [True]

    def sometimes(*args: object) -> None:
        if broken[0]:
            raise PahqError("the disk is gone")
        read(*args)  # type: ignore[arg-type]

    master.read_heads = sometimes  # type: ignore[method-assign]
    slots.prefetch((0, 1))
    with pytest.raises(PahqError, match="the disk is gone"):
        slots.take((0, 1))
    broken[0] = False
    assert torch.isfinite(slots.take((0, 1))["W_Q"]).all()


def test_what_was_prefetched_is_not_loaded_twice() -> None:
    slots, _ = slots_of(random_model("gpt2"), Threaded().load)
    slots.prefetch((1, 1))
    slots.take((1, 1))
    slots.prefetch((1, 2))
    slots.prefetch((1, 2))
    slots.take((1, 2))
    assert (slots.loads, slots.hits) == (2, 2)


def test_the_slot_that_was_read_least_lately_takes_the_next_focus() -> None:
    for count in (2, 3):
        slots, _ = slots_of(random_model("gpt2", layers=3), count=count)
        kept = [slots.take((0, head)) for head in range(count)]
        slots.take((0, 0))
        slots.take((1, 0))
        assert torch.isfinite(kept[0]["W_Q"]).all()
        with pytest.raises(StaleWeights, match=r"load 1 of focus \(0, 1\) was read after slot took \(1, 0\)"):
            kept[1]["W_Q"]
        assert (slots.loads, slots.hits) == (count + 1, 1)
        assert all(torch.isfinite(ticket["W_K"]).all() for ticket in kept[2:])


def test_a_load_under_way_is_waited_for_and_never_written_over() -> None:
    model, order = random_model("gpt2"), list[str]()

    def start(work: Callable[[], None]) -> Wait:
        number = slots.loads

        def wait() -> None:
            order.append(f"end of {number}")
            work()

        order.append(f"begin of {number}")
        return wait

    slots, _ = slots_of(model, start, count=1)
    slots.prefetch((0, 1))
    slots.prefetch((0, 2))  # the only slot is being loaded: this one waits until it is asked for
    assert order == ["begin of 1"]
    assert torch.equal(slots.take((0, 2))["W_Q"], model.layers[0].W_Q[2:3])
    assert order == ["begin of 1", "end of 1", "begin of 2", "end of 2"]
    assert torch.equal(slots.take((0, 2))["W_O"], model.layers[0].W_O[2:3])
    assert (slots.loads, slots.hits) == (2, 1)


def test_while_a_load_is_under_way_its_slot_cannot_be_read() -> None:
    slots, _ = slots_of(random_model("gpt2"), late, count=1)
    ticket = slots.take((0, 1))
    slots.prefetch((0, 2))
    with pytest.raises(StaleWeights):
        ticket["W_Q"]
    with pytest.raises(StaleWeights):
        replace(ticket, group=(0, 2), number=2)["W_Q"]  # the right load, which has not ended


@pytest.mark.parametrize("where", ["loaded", "file"])
def test_a_pinned_master_has_the_models_weights_by_head(where: str, tmp_path: Path) -> None:
    model = random_model("llama", dtype=torch.float32)
    save_model(model, tmp_path)
    source = model if where == "loaded" else open_model(tmp_path)
    master = PinnedMaster(source, pin=Tensor.clone)
    attention = sum(getattr(layer, name).nbytes for layer in model.layers for name in ("W_Q", "W_K", "W_V", "W_O"))
    assert master.nbytes == attention
    for index, layer in enumerate(model.layers):
        out = torch.empty(2, *layer.W_Q.shape[1:])
        master.read_heads(index, "W_Q", out, 1)
        assert torch.equal(out, layer.W_Q[1:3])
    more = PinnedMaster(source, pin=Tensor.clone, fields=("W_in",))
    out = torch.empty_like(model.layers[1].W_in)
    more.read_heads(1, "W_in", out, 0)
    assert torch.equal(out, model.layers[1].W_in)
    assert more.nbytes == sum(layer.W_in.nbytes for layer in model.layers)
