"""The full-precision network beside a packed one: the model's own weights, read as needed, few of them kept."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from support.small_models import random_model

from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError
from pahq.model import open_model, save_model
from pahq.model.layers import PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.precision.masterstore import MasterStore
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import NO_FOCUS

INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16")


def same(mine: LayerWeights, theirs: LayerWeights) -> None:
    for field in fields(PlainLayer):
        ours, expected = getattr(mine, field.name), getattr(theirs, field.name)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(ours, expected), field.name
            assert ours.dtype == expected.dtype
        else:
            assert ours == expected, field.name


@pytest.mark.parametrize("family", ["gpt2", "llama", "attention-only", "gemma3"])
@pytest.mark.parametrize("where", ["loaded", "file"])
def test_its_layers_are_the_models_whatever_the_focus(family: str, where: str, tmp_path: Path) -> None:
    model = random_model(family, layers=3, dtype=torch.float32)
    save_model(model, tmp_path)
    store = PackedStore.build(model if where == "loaded" else open_model(tmp_path), INT8).beside()
    for focus in (NO_FOCUS, frozenset({(1, 0)})):
        for index, expected in enumerate(model.layers):
            for letter in "qkvo":
                count = model.config.count(letter)
                for heads in ([count - 1], [count - 1, 0], list(range(count))):  # before the matrix is read, and after
                    rows = store.rows(index, letter, heads, focus)
                    assert torch.equal(rows, expected.rows(letter, heads))
            same(store.layer(index, focus), expected)
            assert store.layer(index, focus).exact == frozenset()
            assert torch.equal(store.rows(index, "q", [0], focus), expected.W_Q[:1])
    for mine, theirs in zip(store.network().layers, model.layers, strict=True):
        same(mine, theirs)
    assert store.config == model.config
    assert (store.uniform, store.products, store.by_codes, store.schedule.name) == (True, "float32", False, "serial")
    store.prefetch(frozenset({(0, 0)}))  # nothing comes of it


def kept_of(layers: int, cached: int) -> tuple[MasterStore, int]:
    """A store, and the bytes of one layer's W_Q."""
    model = random_model("gpt2", layers=layers, dtype=torch.float32)
    beside = PackedStore.build(model, INT8).beside()
    return MasterStore(beside.ends, beside._small, beside._master, beside._shapes, cached_layers=cached), model.layers[
        0
    ].W_Q.nbytes


def test_the_layers_read_last_are_kept_and_the_others_read_again() -> None:
    store, size = kept_of(layers=3, cached=2)
    read = []
    for index in (0, 1, 0, 2, 0, 2, 1):
        store.matrix(index, "W_Q", NO_FOCUS)
        read.append(store.read_bytes // size)
    assert read == [1, 2, 2, 3, 3, 3, 4]  # layer 1 went when 2 came, since 0 had been read after it


@pytest.mark.parametrize("cached", [1, 2, 3])
def test_it_holds_no_more_than_so_many_layers_matrices(cached: int) -> None:
    store, size = kept_of(layers=5, cached=cached)
    for _ in range(2):
        for index in range(5):
            store.matrix(index, "W_Q", NO_FOCUS)
            assert store.nbytes <= cached * size
    assert store.nbytes == cached * size
    assert store.read_bytes == 10 * size


def test_of_a_matrix_that_is_not_kept_the_heads_that_are_asked_for_alone_are_read() -> None:
    store, size = kept_of(layers=2, cached=1)
    heads = store.config.heads
    store.rows(0, "q", [2, 0], NO_FOCUS)
    assert store.read_bytes == 2 * size // heads
    store.matrix(0, "W_Q", NO_FOCUS)
    assert store.read_bytes == 2 * size // heads + size
    store.rows(0, "q", [1], NO_FOCUS)
    assert store.read_bytes == 2 * size // heads + size


def test_two_layers_are_kept_as_a_rule() -> None:
    store = PackedStore.build(random_model("gpt2", layers=3, dtype=torch.float32), INT8).beside()
    for index in (0, 1, 0, 1):
        store.matrix(index, "W_O", NO_FOCUS)
    assert store.read_bytes == 2 * store.matrix(0, "W_O", NO_FOCUS).nbytes  # type: ignore[union-attr]


def test_what_a_model_lacks_is_none_and_codes_there_are_none() -> None:
    store = PackedStore.build(random_model("attention-only", dtype=torch.float32), INT8).beside()
    assert store.matrix(0, "W_in", NO_FOCUS) is None
    assert store.layer(0, NO_FOCUS).W_gate is None
    for ask in (store.coded, lambda index, letter, heads: store.layer(index, NO_FOCUS).coded(letter, heads)):
        with pytest.raises(PahqError, match="these layers hold weights, and no codes of them"):
            ask(0, "q", None)


@pytest.mark.parametrize(("cached", "held"), [(1, 1), (2, 2), (9, 3)])
def test_on_a_gpu_it_says_what_it_may_come_to_hold(cached: int, held: int) -> None:
    """There nobody but PyTorch knows what it holds: all matrices of as many layers as are kept, or of all there are."""
    model = random_model("gpt2", layers=3, dtype=torch.float32)
    beside = PackedStore.build(model, INT8).beside()
    ends = replace(beside.ends, W_E=beside.ends.W_E.to("meta"))
    store = MasterStore(ends, beside._small, beside._master, beside._shapes, cached_layers=cached)
    one = sum(getattr(model.layers[0], name).nbytes for name in beside._shapes)
    assert store.nbytes == held * one
