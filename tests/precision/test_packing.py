"""From a model to what a packed store holds of it: copies of what no format touches, and codes as kernels read them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from support.small_models import random_model

from pahq.config.precision import PrecisionConfig
from pahq.model import open_model, save_model
from pahq.model.codes import Coded
from pahq.model.fused import Fused
from pahq.model.layers import SmallWeights
from pahq.model.streamed import EndWeights
from pahq.precision.formats import Format
from pahq.precision.packed import pack
from pahq.precision.packedstore import PackedStore
from pahq.precision.packing import codes_of, pack_matrix, small_weights
from pahq.precision.schedule import Serial
from pahq.precision.slots import PinnedMaster
from pahq.precision.store import ATTENTION, MLP, NO_FOCUS, PrecisionStore

WHERE = pytest.mark.parametrize("where", ["loaded", "file"])


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "shortformer"])
@WHERE
def test_what_no_format_touches_is_copied_but_for_the_models_table_of_positions(
    family: str, where: str, tmp_path: Path
) -> None:
    """A view would keep a whole checkpoint alive; a table of positions is one for all layers."""
    model = random_model(family, dtype=torch.float32)
    save_model(model, tmp_path)
    source = model if where == "loaded" else open_model(tmp_path)
    for index, layer in enumerate(model.layers):
        small = small_weights(source, index)
        for field in fields(SmallWeights):
            mine, exact = getattr(small, field.name), getattr(layer, field.name)
            if field.name == "local":
                assert mine == exact == (index in model.config.local_layers)
            elif exact is None:
                assert mine is None
            else:
                assert torch.equal(mine, exact)
                assert (mine.data_ptr() == exact.data_ptr()) == (field.name == "W_pos" and where == "loaded")
        assert (small.W_pos is None) == (family != "shortformer")


@WHERE
def test_a_matrix_that_a_model_lacks_is_none(where: str, tmp_path: Path) -> None:
    model = random_model("attention-only", dtype=torch.float32)
    save_model(model, tmp_path)
    source = model if where == "loaded" else open_model(tmp_path)
    assert pack_matrix(source, 0, "W_in", Format("bf16", "none")) is None
    packed = pack_matrix(source, 1, "W_K", Format("int8"))
    assert packed is not None
    assert torch.equal(packed.codes, pack(model.layers[1].W_K, Format("int8")).codes)


# ---- codes that are multiplied as they are


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("scales", ["row", "head"])
def test_codes_times_scales_are_the_formats_weights(family: str, form: str, scales: str) -> None:
    """Each output's codes lie side by side in memory, as products of codes read them."""
    model = random_model(family, dtype=torch.float32)
    policy = {"name": "p", "format": form, "scales": scales, "mlp": "bf16"}
    store = PackedStore.build(model, PrecisionConfig(**policy, compute=form, kernel="codes"))
    plain = PrecisionStore.build(model, PrecisionConfig(**policy))
    assert store.by_codes
    for index, low in enumerate(plain.low.layers):
        for letter in "qkv":
            count = model.config.count(letter)
            for heads in (None, [count - 1, 0]):
                coded = store.coded(index, letter, heads)
                assert isinstance(coded, Coded)
                assert coded.codes.element_size() == 1
                assert heads is not None or coded.codes.is_contiguous()
                found = (coded.codes.float() * coded.scale[..., None]).mT
                assert torch.equal(found, low.weight(letter)[list(range(count)) if heads is None else heads])
        assert torch.equal(store.layer(index, NO_FOCUS).W_O, low.W_O)


@pytest.mark.parametrize(
    ("form", "scales", "reach"),
    [("int8", "row", 40), ("int8", "head", 40), ("int4", "group32", 32), ("int4s", "row", 40)],
)
def test_a_fused_product_is_told_how_far_each_scale_reaches(form: str, scales: str, reach: int) -> None:
    model = random_model("gpt2", dtype=torch.float32, d_model=40)
    store = PackedStore.build(model, PrecisionConfig(name="p", format=form, scales=scales, mlp="bf16"))
    assert not store.by_codes
    layer = store._packed[1]
    for letter in "qkv":
        fused, packed = codes_of(layer, letter, "fused"), layer[f"W_{letter.upper()}"]
        assert isinstance(fused, Fused)
        assert (fused.form, fused.group) == (form, reach)
        for mine, theirs in ((fused.codes, packed.codes), (fused.scale, packed.scale), (fused.low, packed.low)):
            assert mine is theirs


# ---- bytes on a device that is no CPU


@pytest.mark.parametrize("cached", [1, 2, 9])
def test_off_the_cpu_room_for_matrices_counts_before_any_is_read(cached: int) -> None:
    """There memory stays taken once it was; so many layers' matrices are counted as are kept, but for those at rest."""
    model = random_model("gpt2", layers=3, dtype=torch.float32)
    for heads, names in (("int8", ATTENTION + MLP), ("float32", MLP)):
        built = PackedStore.build(model, PrecisionConfig(name="p", format=heads, mlp="bf16"))
        ends = replace(EndWeights.of(built.ends), W_E=model.W_E.to("meta"))  # its device is the store's
        master = PinnedMaster(model, pin=torch.clone)
        store = PackedStore(ends, built._packed, built._small, master, Serial(), cached_layers=cached)
        matrices = sum(
            getattr(model.layers[0], name).nbytes for name in names if getattr(model.layers[0], name) is not None
        )
        table = sum(t.nbytes for n, t in model.tensors().items() if not n.startswith("blocks"))
        small = sum(t.nbytes for n, t in model.tensors().items() if n.startswith("blocks") and ".W_" not in n)
        expected = table + small + store.packed_nbytes + store.slots.nbytes + min(cached, 3) * matrices
        assert store.nbytes == expected
