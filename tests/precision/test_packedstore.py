"""The packed store: the very weights of the plain one, out of few bytes, whatever is prefetched and held."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.small_models import random_model
from torch import Tensor

from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError
from pahq.model import open_model, save_model
from pahq.model.layers import PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.model.products import rounded
from pahq.model.weights import Model
from pahq.precision import packedstore
from pahq.precision.packedstore import PackedStore
from pahq.precision.schedule import Threaded, Wait
from pahq.precision.slots import PinnedMaster
from pahq.precision.store import ATTENTION, MLP, NO_FOCUS, Focus, PrecisionStore

INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
POLICIES = [
    INT8,
    PrecisionConfig(name="fp8", format="fp8", scales="head"),
    PrecisionConfig(name="int4", format="int4", scales="group32", mlp="fp16"),
    PrecisionConfig(name="nf4", format="nf4", scales="group64", mlp="bf16"),
    PrecisionConfig(name="float32", format="float32"),
]
FAMILY = pytest.mark.parametrize("family", ["gpt2", "attention-only", "llama", "qwen"])


def everything(model: Model) -> Focus:
    return frozenset((layer, group) for layer in range(model.config.layers) for group in range(model.config.kv_heads))


def same(packed: LayerWeights, plain: LayerWeights) -> None:
    for field in fields(PlainLayer):
        mine, theirs = getattr(packed, field.name), getattr(plain, field.name)
        assert (mine is None) == (theirs is None), field.name
        if field.name == "local":
            assert mine == theirs
            continue
        assert mine is None or (torch.equal(mine, theirs) and mine.dtype == theirs.dtype), field.name


@FAMILY
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["loaded", "file"])
def test_layers_and_rows_are_those_of_the_plain_store(
    family: str, policy: PrecisionConfig, dtype: torch.dtype, where: str, tmp_path: Path
) -> None:
    model = random_model(family, dtype=dtype)
    plain, source = PrecisionStore.build(model, policy), model
    if where == "file":
        save_model(model, tmp_path)
        source = open_model(tmp_path, dtype=dtype)
    packed = PackedStore.build(source, policy, cached_layers=1)
    for focus in (NO_FOCUS, *(frozenset({at}) for at in everything(model)), everything(model)):
        for layer in range(model.config.layers):
            for letter, count in (("q", model.config.heads), ("k", model.config.kv_heads), ("o", model.config.heads)):
                for heads in ([0], [count - 1], list(range(count)), [count - 1, 0]):
                    rows = packed.rows(layer, letter, heads, focus)  # before the matrix is there, and then after
                    assert torch.equal(rows, plain.rows(layer, letter, heads, focus))
            same(packed.layer(layer, focus), plain.layer(layer, focus))
            assert torch.equal(packed.rows(layer, "v", [0], focus), plain.rows(layer, "v", [0], focus))
    for mine, theirs in zip(packed.network().layers, plain.network().layers, strict=True):
        same(mine, theirs)


@FAMILY
def test_the_focus_slice_is_the_masters_bit_by_bit(family: str, tmp_path: Path) -> None:
    """With grouped queries the whole group comes in; all other heads are those of the format."""
    model = random_model(family, dtype=torch.float32)
    save_model(model, tmp_path)
    store = PackedStore.build(open_model(tmp_path), INT8)
    low, size = PrecisionStore.build(model, INT8).low, model.config.heads // model.config.kv_heads
    for layer, group in everything(model):
        weights = store.layer(layer, frozenset({(layer, group)}))
        for name in ATTENTION:
            exact, coarse, mine = (getattr(w, name) for w in (model.layers[layer], low.layers[layer], weights))
            per = size if name in ("W_Q", "W_O") else 1
            for head in range(exact.shape[0]):
                expected = exact[head] if head // per == group else coarse[head]
                assert torch.equal(mine[head].view(torch.int32), expected.view(torch.int32))
                assert not torch.equal(exact[head], coarse[head])


def test_a_layer_in_hand_outlives_what_is_unpacked_after_it() -> None:
    """Buffers are reused, but never while anyone can still read them: not even through one row of one head."""
    model = random_model("gpt2", layers=4)
    plain, store = PrecisionStore.build(model, INT8), PackedStore.build(model, INT8, cached_layers=1)
    first = store.layer(0, frozenset({(0, 1)})).W_Q
    row = store.layer(1, NO_FOCUS).W_O[2][0]
    for layer in (2, 3, 0, 1, 2, 3):
        same(store.layer(layer, frozenset({(layer, 0)})), plain.layer(layer, frozenset({(layer, 0)})))
    assert torch.equal(first, plain.layer(0, frozenset({(0, 1)})).W_Q)
    assert torch.equal(row, plain.layer(1, NO_FOCUS).W_O[2][0])


def test_a_letter_s_weights_are_unpacked_without_those_of_others() -> None:
    store = PackedStore.build(random_model("gpt2"), INT8)
    layer = store.layer(1, NO_FOCUS)
    for letter in "qkv":
        before = {name for name, kept in store._unpacked.items() if kept}
        assert layer.weight(letter) is getattr(layer, f"W_{letter.upper()}")
        after = {name for name, kept in store._unpacked.items() if kept}
        assert after == before | {f"W_{letter.upper()}"}


def test_a_layer_is_told_by_its_number_and_its_focus() -> None:
    """Without a look at its matrices, which that would unpack."""
    store = PackedStore.build(random_model("gpt2"), INT8)
    layer = store.layer(1, frozenset({(1, 2)}))
    assert repr(layer) == "PackedLayer(1, {(1, 2)})"
    assert layer == store.layer(1, frozenset({(1, 2)}))
    assert layer != store.layer(1, NO_FOCUS)
    assert (layer.exact, store.layer(0, frozenset({(1, 2)})).exact) == ({2}, set())
    assert not any(store._unpacked.values())


@pytest.mark.parametrize("cached", [1, 2, 3])
def test_memory_is_reused_and_stays_bounded(cached: int) -> None:
    model = random_model("gpt2", layers=6)
    store, seen = PackedStore.build(model, INT8, cached_layers=cached), set()
    for turn in range(5):
        for layer in range(6):
            weights = store.layer(layer, frozenset({(layer, turn % 3)}))
            seen |= {
                getattr(weights, name).data_ptr() for name in ATTENTION + MLP if getattr(weights, name) is not None
            }
    names = len([name for name in ATTENTION + MLP if getattr(model.layers[0], name) is not None])
    assert len(seen) == names * cached
    matrices = sum(getattr(model.layers[0], name).nbytes for name in ATTENTION + MLP if name != "W_gate")
    buffers = store.nbytes - store.packed_nbytes - store.slots.nbytes
    ends = sum(t.nbytes for n, t in model.tensors().items() if not n.startswith("blocks"))
    small = sum(t.nbytes for n, t in model.tensors().items() if n.startswith("blocks") and ".W_" not in n)
    assert buffers == ends + small + cached * matrices


def test_places_that_were_needed_at_once_are_given_up_again() -> None:
    model = random_model("attention-only", layers=6)
    store = PackedStore.build(model, INT8, cached_layers=1)
    before = store.nbytes
    held = [store.layer(layer, NO_FOCUS).W_Q for layer in range(6)]
    most, one = store.nbytes, held[0].nbytes
    assert most == before + 6 * one
    del held
    store.layer(0, NO_FOCUS).W_Q  # noqa: B018
    store.layer(1, NO_FOCUS).W_Q  # noqa: B018
    assert store.nbytes <= before + 2 * one


@FAMILY
def test_no_full_precision_attention_weight_is_reachable_after_build(family: str, tmp_path: Path) -> None:
    """Of all tensors alive, none has an attention matrix's shape in a float dtype but the buffers and slots."""
    model = random_model(family, layers=5, d_model=20, d_head=6, dtype=torch.float32)
    shapes = {tuple(getattr(layer, name).shape) for layer in model.layers for name in ATTENTION}
    save_model(model, tmp_path)
    del model
    gc.collect()

    def floats(known: set[int]) -> int:
        found = [t for t in gc.get_objects() if type(t) is Tensor and tuple(t.shape) in shapes]
        return sum(t.dtype in (torch.float32, torch.float64) and t.data_ptr() not in known for t in found)

    before = floats(set())
    store = PackedStore.build(open_model(tmp_path), INT8)
    gc.collect()
    assert floats({t.data_ptr() for slot in store.slots._slots for t in slot.tensors.values()}) == before
    held = store.layer(0, NO_FOCUS).W_Q
    assert floats(set()) > before  # the count does see one
    del held
    expected = 0
    for weights in store._packed:
        for name in ATTENTION:
            heads, rows, out = weights[name].shape
            expected += heads * rows * out + 4 * heads * out  # int8, and one float32 scale to an output
    assert sum(w[name].nbytes for w in store._packed for name in ATTENTION) == expected


steps = st.lists(
    st.tuples(
        st.sampled_from(["prefetch", "layer", "rows", "hold"]), st.integers(0, 2), st.integers(0, 3), st.booleans()
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.sampled_from(["gpt2", "llama"]), st.integers(1, 2), st.sampled_from(["thread", "late", "now"]))
def test_no_order_of_prefetches_and_reads_changes_a_result(
    done: list[tuple[str, int, int, bool]], family: str, cached: int, when: str
) -> None:
    model = random_model(family, layers=3, dtype=torch.float32)
    plain, start = PrecisionStore.build(model, INT8), {"thread": Threaded().load, "late": late, "now": now}[when]
    store = PackedStore.build(model, INT8, cached_layers=cached)
    store.slots._start = start
    held: list[tuple[Tensor, Tensor]] = []
    for action, layer, group, both in done:
        at = layer, group % model.config.kv_heads
        focus = frozenset({at, ((layer + 1) % 3, 0)} if both else {at})
        if action == "prefetch":
            store.prefetch(focus)
        elif action == "layer":
            same(store.layer(layer, focus), plain.layer(layer, focus))
        elif action == "rows":
            assert torch.equal(store.rows(layer, "q", [1, 0], focus), plain.rows(layer, "q", [1, 0], focus))
        else:
            held.append((store.layer(layer, focus).W_O[0], plain.layer(layer, focus).W_O[0]))
    assert all(torch.equal(mine, theirs) for mine, theirs in held)


def late(work: Callable[[], None]) -> Wait:
    """As late as can be: nothing is loaded before someone waits for it."""
    return work


def now(work: Callable[[], None]) -> Wait:
    work()
    return lambda: None


def test_going_through_the_heads_brings_the_next_one_in() -> None:
    """Heads are visited in one direction, letter by letter: after two of them the rest are there when asked for."""
    model = random_model("gpt2", heads=6, kv_heads=6)
    store = PackedStore.build(model, INT8, cached_layers=1)
    for letter in "vkq":
        for head in reversed(range(6)):
            store.rows(1, letter, [head], frozenset({(1, head)}))
    assert store.slots.hits >= 16
    assert store.slots.loads <= 19


def test_at_least_one_layer_is_kept() -> None:
    with pytest.raises(PahqError, match="cached_layers must be at least 1, got 0"):
        PackedStore.build(random_model("gpt2"), INT8, cached_layers=0)


def test_a_weight_that_does_not_fit_its_format_is_refused() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    model.layers[1].W_K[0, 0, 0] = 1e6
    with pytest.raises(PahqError, match="does not fit fp16"):
        PackedStore.build(model, PrecisionConfig(name="fp16", format="fp16"))


@pytest.mark.parametrize("products", ["tf32", "bf16"])
@pytest.mark.parametrize("heads", ["int8", "bf16", "fp16"])
@pytest.mark.parametrize("numbers", [1, 50, 1 << 18])
def test_weights_are_rounded_for_their_products_in_parts(
    products: str, heads: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = PrecisionConfig(name="x", format=heads, mlp="bf16", compute=products)
    model = random_model("gpt2", dtype=torch.float32)
    monkeypatch.setattr(packedstore, "_PART", numbers)
    store, plain = PackedStore.build(model, policy), PrecisionStore.build(model, policy)
    same(store.layer(1, NO_FOCUS), plain.layer(1, NO_FOCUS))


@pytest.mark.parametrize("mlp", ["bf16", "fp16"])
def test_a_matrix_is_rounded_in_few_operations(mlp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each is a launch: a matrix rounded row by row once made searches 20 times slower."""
    sizes: list[int] = []

    def counted(x: Tensor, products: str) -> Tensor:
        sizes.append(x.numel())
        return rounded(x, products)

    monkeypatch.setattr(packedstore, "rounded", counted)
    monkeypatch.setattr(packedstore, "_CARD_PART", 1)  # which is a GPU's
    policy = PrecisionConfig(name="x", format="int8", mlp=mlp, compute="bf16" if mlp == "fp16" else "tf32")
    layer = PackedStore.build(random_model("gpt2", dtype=torch.float32), policy).layer(1, NO_FOCUS)
    assert layer.W_in is not None
    assert sizes == ([layer.W_in.numel()] if mlp == "fp16" else [])  # TF32 reads all of bf16
    assert layer.W_Q.shape[0] > 1
    assert len(sizes) == 1 + (mlp == "fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_on_a_gpu_a_file_is_packed_without_the_model_in_between(family: str, tmp_path: Path) -> None:
    model = random_model(family, layers=3, dtype=torch.float32)
    save_model(model, tmp_path)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    file = open_model(tmp_path, device="cuda")
    store = PackedStore.build(file, INT8)
    largest = max(weight.nbytes for weight in model.tensors().values())
    assert torch.cuda.max_memory_allocated() - before < store.nbytes + 8 * largest + 64 * 512  # in blocks of 512 bytes
    plain = PrecisionStore.build(model.to(device="cuda"), INT8)
    for layer in range(3):
        for focus in (NO_FOCUS, frozenset({(layer, 0)})):
            same(store.layer(layer, focus), plain.layer(layer, focus))
    tokens = torch.tensor([[1, 2, 1]])
    assert torch.equal(file.ends.W_E[tokens.cuda()], model.W_E[tokens].cuda())
    back = file.load()
    assert all(torch.equal(value.cpu(), model.tensors()[name]) for name, value in back.tensors().items())
    assert all(value.is_cuda for value in back.tensors().values())


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_on_a_gpu_the_store_gives_the_same_weights(family: str) -> None:
    model = random_model(family, layers=3, dtype=torch.float32).to(device="cuda")
    plain, store = PrecisionStore.build(model, INT8), PackedStore.build(model, INT8, cached_layers=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        layer = int(torch.randint(3, (), generator=generator))
        group = int(torch.randint(model.config.kv_heads, (), generator=generator))
        focus = frozenset({(layer, group)})
        same(store.layer(layer, focus), plain.layer(layer, focus))
        store.prefetch(frozenset({(int(torch.randint(3, (), generator=generator)), 0)}))
        assert torch.equal(store.rows(layer, "v", [group], focus), plain.rows(layer, "v", [group], focus))


@pytest.mark.gpu
def test_a_pinned_master_is_page_locked() -> None:
    master = PinnedMaster(random_model("gpt2"))
    assert all(weight.is_pinned() for layer in master._layers for weight in layer.values())
