"""Calibrated rounding: the levels of a naive descent, never worse than the nearest, from a search's own inputs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import small_models
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.model import load_model, open_model, save_model
from pahq.model.forward import embeddings, final_stream, normalise
from pahq.model.layerweights import LayerWeights
from pahq.model.run import Run, run_senders
from pahq.model.streamed import Streamed
from pahq.model.weights import Model
from pahq.precision.calibrated import calibrated, damped, grams
from pahq.precision.formats import Format, dequantise, quantise
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import ATTENTION, NO_FOCUS, PrecisionStore
from pahq.tasks import build_task
from pahq.tasks.metrics import gather_items
from pahq.tasks.task import Prompts

random_model, random_prompts = small_models.random_model, small_models.random_prompts
FORMS = [
    *(Format("fp8"), Format("fp8", "head"), Format("fp8", "none"), Format("int8"), Format("int8", "head")),
    *(Format("int4", "group32"), Format("int4", "row"), Format("int4s", "group32"), Format("nf4", "group64")),
]
BY_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{form.scales}")
FP8 = PrecisionConfig(name="fp8", format="fp8", mlp="bf16", rounding="calibrated")


def drawn(seed: int, heads: int = 3, length: int = 70, width: int = 5, grams: int = 1) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that fill half of their space."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(heads, length, width, generator=generator)
    inputs = torch.randn(grams, 200, length // 2, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(grams, length // 2, length, generator=generator, dtype=torch.float64)
    return weight, inputs.mT @ inputs / 200


def read(weight: Tensor, form: Format, gram: Tensor | None) -> Tensor:
    stored = quantise(weight, form) if gram is None else calibrated(weight, form, gram)
    return dequantise(stored.codes.clone(), stored.scale, stored.low, form)


def error(weight: Tensor, low: Tensor, gram: Tensor) -> Tensor:
    """By output: the damped mean square by which it is off."""
    off = weight.double() - low.double()
    return torch.einsum("hio,hij,hjo->ho", off, damped(gram).expand(len(off), -1, -1), off)


@BY_FORM
@pytest.mark.parametrize("seed", range(3))
def test_no_output_is_off_by_more_than_rounded_to_the_nearest(form: Format, seed: int) -> None:
    weight, gram = drawn(seed)
    nearest, chosen = (error(weight, read(weight, form, by), gram) for by in (None, gram))
    assert (chosen <= nearest * (1 + 1e-9)).all()
    assert float(chosen.sum()) < 0.7 * float(nearest.sum())


@BY_FORM
@pytest.mark.parametrize("grams", [1, 3])
def test_levels_are_those_of_a_naive_descent(form: Format, grams: int) -> None:
    """One weight after the other, the error computed anew each time; no blocks (of 64 inputs), no heads together."""
    weight, gram = drawn(7, width=3, grams=grams)
    found = read(weight, form, gram).numpy()
    inputs = damped(gram).expand(3, -1, -1).numpy()
    stored = quantise(weight, form)
    value = dequantise(stored.codes.clone(), stored.scale, stored.low, form).double().numpy()
    exact = weight.double().numpy()
    levels = [[_levels(weight[head, :, out], form, stored, head, out) for out in range(3)] for head in range(3)]
    for _ in range(6):
        for i in range(weight.shape[1]):
            for head in range(3):
                for out in range(3):
                    ask = inputs[head, i] @ (exact[head, :, out] - value[head, :, out]) / inputs[head, i, i]
                    known = levels[head][out][i]
                    value[head, i, out] = known[np.abs(known - (value[head, i, out] + ask)).argmin()]
    assert np.array_equal(found, value.astype(np.float32))


def _levels(row: Tensor, form: Format, stored, head: int, out: int) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    """By input: every number that its code can stand for."""
    if form.name == "fp8":
        codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        codes = codes[torch.isfinite(codes)].unique()
    else:
        least, most = {"int8": (-127, 127), "int4": (0, 15), "int4s": (-7, 7), "nf4": (0, 15)}[form.name]
        codes = torch.arange(least, most + 1).float()
    size = {"group32": 32, "group64": 64}.get(form.scales, len(row))
    found = []
    for i in range(len(row)):
        at = head, i // size
        scale, low = (
            None if t is None else t[*at, min(out, t.shape[-1] - 1)].view(1, 1) for t in (stored.scale, stored.low)
        )
        numbers = dequantise(codes.clone()[:, None], scale, low, Format(form.name, _whole(form)))
        found.append(numbers.flatten().double().numpy())
    return found


def _whole(form: Format) -> str:
    """Scales by which all codes of a column are in one group."""
    return {"group32": "row", "group64": "group64"}.get(form.scales, form.scales)


@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), grams=st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_heads_are_rounded_each_on_its_own(seed: int, form: Format, grams: int) -> None:
    weight, gram = drawn(seed, length=20, grams=grams)
    changed = weight.clone()
    changed[1] = torch.randn(changed[1].shape, generator=torch.Generator().manual_seed(seed + 1))
    one, other = read(weight, form, gram), read(changed, form, gram)
    assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert not torch.equal(one[1], other[1])


def test_inputs_that_are_all_zero_leave_the_nearest() -> None:
    weight, gram = drawn(0)
    assert torch.equal(read(weight, Format("fp8"), gram * 0), read(weight, Format("fp8"), None))


def expected_grams(model: Model, prompts: Prompts, ablation: str) -> list[dict[str, Tensor]]:
    """Of two whole runs, kept, their streams added up from what senders send."""
    change = {
        "corrupted": lambda x: x,
        "zero": torch.zeros_like,
        "mean": lambda x: x.mean(-3, keepdim=True).expand_as(x),
    }
    exact = model.to(dtype=torch.float64)
    clean = run_senders(exact, embeddings(exact, prompts.clean, split=False))
    parts = embeddings(exact, prompts.corrupted, split=True)
    if prompts.position_order is not None and len(parts) == 2:
        parts[1] = parts[1][:, prompts.position_order]
    ablated = run_senders(exact, [torch.stack(parts).sum(0)]).map(change[ablation])
    found = []
    for index, layer in enumerate(exact.layers):
        pre = torch.cat([before(exact, run, index) for run in (clean, ablated)])
        v = normalise(model.config, pre, layer.ln1_w, layer.ln1_b) if model.config.pre_norms else pre
        qk = v if layer.W_pos is None else v + layer.W_pos[: v.shape[1]]
        z = torch.cat([clean.z[index], ablated.z[index]], 1).flatten(1, 2)[..., : model.config.d_head]
        o = torch.einsum("hri,hrj->hij", z, z) / z.shape[1]
        rows = {"W_Q": qk.flatten(0, 1), "W_K": qk.flatten(0, 1), "W_V": v.flatten(0, 1)}
        found.append({name: (x.T @ x / len(x))[None] for name, x in rows.items()} | {"W_O": o})
    return found


def before(model: Model, run: Run, index: int) -> Tensor:
    """The stream before a layer."""
    resid = torch.stack(list(run.start)).sum(0)
    for at, layer in enumerate(model.layers[:index]):
        behind = 1.0 if layer.ln1_post is None else layer.ln1_post
        sent = torch.einsum("hbpe,hed->bpd", run.z[at][..., : model.config.d_head], layer.W_O)
        if layer.b_sum is not None:  # behind a head's numbers stands the factor of its part of the bias
            sent = sent + run.z[at][..., model.config.d_head :].mean(0) * layer.b_sum
        resid = resid + sent * behind + layer.b_O
        resid = resid + run.mlp[at] if run.mlp else resid
    return resid


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
@pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
def test_levels_follow_what_heads_read_in_the_clean_and_in_the_ablated_run(family: str, ablation: str) -> None:
    """Shortformer's q and k read positions too, W_O reads z; embeddings may be split and their positions permuted."""
    model = random_model(family, dtype=torch.float32)
    prompts = random_prompts(model, 3)
    settings: dict[str, Any] = {"metric": "kl", "ablation": ablation, "precision": FP8}
    if model.config.positions == "learned":
        settings["split_embed"] = True
        prompts = replace(prompts, position_order=torch.arange(prompts.clean.shape[1]).flip(0))
    store = build_problem(model, prompts, **settings).store
    for index, by_name in enumerate(expected_grams(model, prompts, ablation)):
        for name in ATTENTION:
            expected = read(getattr(model.layers[index], name), Format("fp8"), by_name[name])
            assert torch.equal(getattr(store.layer(index, NO_FOCUS), name), expected), name


def test_levels_do_not_hang_on_the_engines_dtype() -> None:
    """audit=float64 must measure the very network that was searched."""
    model = load_model("nano")
    prompts = random_prompts(model, 8)
    settings = {"metric": "kl", "precision": FP8.model_copy(update={"mlp": "float32"})}
    single, double = (build_problem(m, prompts, **settings).store for m in (model, model.to(dtype=torch.float64)))
    for index in range(model.config.layers):
        for name in ATTENTION:
            mine, theirs = (getattr(store.layer(index, NO_FOCUS), name) for store in (single, double))
            assert torch.equal(mine.double(), theirs)


def test_activations_that_are_no_numbers_are_refused() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    parts = [torch.full((1, 3, model.config.d_model), float("inf"))]
    with pytest.raises(PahqError, match="an activation of the full-precision model is NaN or infinite"):
        next(grams(model, parts, parts))


def test_a_streamed_layer_is_gone_while_its_grams_are_read(tmp_path: Path) -> None:
    model = random_model("gpt2", dtype=torch.float32)
    save_model(model, tmp_path)
    file, alive = open_model(tmp_path), list[weakref.ref[LayerWeights]]()

    class Watched:
        def __iter__(self) -> Iterator[LayerWeights]:
            for index in range(model.config.layers):
                held = [file.layer(index)]
                alive.append(weakref.ref(held[0]))
                yield held.pop()

    network = Streamed.through(file.ends, Watched())
    parts = embeddings(network, random_prompts(model, 2).clean, split=True)
    for count, _ in enumerate(grams(network, parts, parts), start=1):
        assert len(alive) == count
        assert all(ref() is None for ref in alive)


def test_a_little_is_added_to_the_diagonal_of_each_head() -> None:
    gram = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.zeros(2, 2)]).double()
    assert torch.allclose(damped(gram)[0], torch.diag(torch.tensor([1.06, 3.06], dtype=torch.float64)))
    assert torch.equal(damped(gram)[1], torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
def test_both_stores_hold_the_same_levels(family: str, ablation: str, tmp_path: Path) -> None:
    model = random_model(family, dtype=torch.float32)
    save_model(model, tmp_path)
    settings = {"metric": "kl", "ablation": ablation, "precision": FP8, "focus": "receiver"}
    prompts = random_prompts(model, 3)
    plain = build_problem(model, prompts, **settings).store
    nearest = PrecisionStore.build(model, FP8.model_copy(update={"rounding": "nearest"}))
    for source in (model, open_model(tmp_path)):
        packed = build_problem(source, prompts, store="packed", **settings).store
        for layer in range(model.config.layers):
            for name in ATTENTION:
                mine, theirs = (getattr(store.layer(layer, NO_FOCUS), name) for store in (packed, plain))
                assert torch.equal(mine, theirs)
                assert not torch.equal(mine, getattr(nearest.low.layers[layer], name))
                focused = getattr(packed.layer(layer, frozenset({(layer, 0)})), name)
                assert torch.equal(focused[0], getattr(model.layers[layer], name)[0])


def test_a_store_without_inputs_says_what_is_missing() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    for store in (PrecisionStore, PackedStore):
        with pytest.raises(PahqError, match="rounding=calibrated needs the inputs of a search's prompts"):
            store.build(model, FP8)


def test_on_nano_logits_are_off_by_little_more_than_half_of_what_the_nearest_gives() -> None:
    model = load_model("nano")
    config = TaskConfig(name="nano-ioi", kind="ioi", examples=20, metric="kl")
    prompts = build_task(config, model, 0).search
    exact = gather_items(final_stream(model, prompts.clean), prompts.items)
    off = []
    for rounding in ("nearest", "calibrated"):
        policy = FP8.model_copy(update={"rounding": rounding})
        network = build_problem(model, prompts, metric="kl", precision=policy).store.network()
        off.append(float((gather_items(final_stream(network, prompts.clean), prompts.items) - exact).norm()))
    assert off[1] < 0.6 * off[0]
