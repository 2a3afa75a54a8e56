"""A network under test in float64: the store's own numbers, and problems that are those of a model of these weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pairs import pairs
from support.small_models import FAMILIES, random_model, random_prompts

from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError
from pahq.model import open_model, save_model
from pahq.model.layers import PlainLayer
from pahq.model.weights import Model
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import NO_FOCUS, PrecisionStore, WeightStore
from pahq.precision.wide import WideStore, wide_network

LOW = {
    "int8": PrecisionConfig(name="p", format="int8", scales="row", mlp="bf16"),
    "int4": PrecisionConfig(name="p", format="int4", scales="group32", mlp="bf16"),
    "fp8": PrecisionConfig(name="p", format="fp8", scales="row", mlp="fp16"),
    "calibrated": PrecisionConfig(name="p", format="int4", scales="row", mlp="bf16", rounding="calibrated"),
    "cache": PrecisionConfig(name="p", format="bf16", scales="none", mlp="bf16", cache="bf16"),
    "full": PrecisionConfig(name="float32", format="float32"),
}
FOCI = (NO_FOCUS, frozenset({(0, 0)}), frozenset({(0, 1), (1, 0)}))


def store_of(kind: str, low: str, family: str, folder: Path) -> WeightStore:
    model = random_model(family, dtype=torch.float32)
    save_model(model, folder)
    source = open_model(folder) if kind == "packed" else model
    precision = LOW[low]
    return build_problem(
        source, random_prompts(model), metric="kl", precision=precision, focus="receiver", store=kind
    ).store


def same(wide: torch.Tensor | bool | None, narrow: torch.Tensor | bool | None) -> bool:
    if not isinstance(wide, torch.Tensor) or not isinstance(narrow, torch.Tensor):
        return wide is narrow
    return wide.dtype == torch.float64 and torch.equal(wide, narrow.double())


@pairs(
    {
        "family": ["gpt2", "llama", "attention-only", "qwen"],
        "low": ["int8", "int4", "fp8"],
        "kind": ["plain", "packed"],
        "kept_bytes": [0, 3000, 2**28],
    }
)
def test_every_number_is_the_stores(kind: str, low: str, family: str, kept_bytes: int, tmp_path: Path) -> None:
    """Also where next to nothing is kept, so that what is read again is widened again, and under every focus."""
    store = store_of(kind, low, family, tmp_path)
    assert isinstance(store, PackedStore if kind == "packed" else PrecisionStore)
    wide = WideStore(store, kept_bytes)
    config = store.config
    for _ in range(2):
        for focus in [focus for focus in FOCI if all(group < config.kv_heads for _, group in focus)]:
            for index in range(config.layers):
                ours, theirs = wide.layer(index, focus), store.layer(index, focus)
                assert (ours.exact, ours.products, ours.by_codes) == (theirs.exact, theirs.products, False)
                assert repr(ours) == f"WideLayer({index}, {set(at for at in focus if at[0] == index)})"
                for field in fields(PlainLayer):
                    assert same(getattr(ours, field.name), getattr(theirs, field.name)), (field.name, focus)
                for head in range(config.heads):
                    assert same(ours.output(head), theirs.output(head))
                for letter in "qkvo":
                    heads = range(config.heads if letter in "qo" else config.kv_heads)
                    chosen = list(heads)[::-1]
                    assert same(wide.rows(index, letter, chosen, focus), store.rows(index, letter, chosen, focus))
                    assert same(ours.rows(letter, chosen[:1]), theirs.rows(letter, chosen[:1]))
    assert len(wide._kept) == 1 if kept_bytes == 0 else wide._kept_bytes <= kept_bytes
    assert (wide.uniform, wide.config, wide.schedule.name) == (store.uniform, config, "serial")
    for name in ("W_pos", "ln_final_w", "ln_final_b", "W_U", "b_U"):
        assert same(getattr(wide.ends, name), getattr(store.ends, name))
    tokens = torch.tensor([[3, 1], [0, 2]])
    assert same(wide.ends.W_E[tokens], store.ends.W_E[tokens])
    assert wide.ends.W_E.dtype == torch.float64
    assert wide.ends.W_E.device == store.ends.W_E.device


def test_bytes_are_the_stores_and_what_is_kept_beside_it(tmp_path: Path) -> None:
    store = store_of("plain", "int8", "gpt2", tmp_path)
    wide = WideStore(store)
    ends = sum(
        8 * x.numel()
        for name, x in vars(store.ends).items()
        if name in ("W_pos", "ln_final_w", "ln_final_b", "W_U", "b_U")
    )
    assert wide.nbytes == store.nbytes + ends
    layer = wide.layer(0, NO_FOCUS)
    read = [layer.W_Q, layer.W_in, layer.W_Q]
    assert wide.nbytes == store.nbytes + ends + 8 * (read[0].numel() + read[1].numel())
    assert read[0] is read[2]
    assert wide.layer(0, frozenset({(0, 1)})).W_in is read[1]  # a focus concerns attention alone


def test_ends_that_another_store_has_widened_are_counted_there(tmp_path: Path) -> None:
    store = store_of("plain", "int8", "gpt2", tmp_path)
    wide = WideStore(store)
    other = WideStore(store, ends=wide.ends)
    assert other.ends is wide.ends
    assert (other.own_nbytes, other.nbytes) == (0, store.nbytes)
    kept = other.layer(1, NO_FOCUS).W_K
    assert other.own_nbytes == kept.nbytes
    with pytest.raises(PahqError, match="these layers hold weights, and no codes of them"):
        other.layer(0, NO_FOCUS).coded("q", None)


def test_what_is_kept_is_what_was_read_last(tmp_path: Path) -> None:
    store = store_of("plain", "int8", "gpt2", tmp_path)
    size = 8 * store.layer(0, NO_FOCUS).W_Q.numel()
    wide = WideStore(store, 2 * size)
    layers = [wide.layer(index, NO_FOCUS) for index in (0, 1)]
    first, second = layers[0].W_Q, layers[1].W_Q
    assert layers[0].W_Q is first
    assert layers[0].W_K is not None  # for which the other layer's has to go
    assert layers[0].W_Q is first
    assert layers[1].W_Q is not second
    assert torch.equal(layers[1].W_Q, second)
    assert wide.own_nbytes - WideStore(store).own_nbytes <= 2 * size


def test_a_network_is_widened_layer_by_layer() -> None:
    model = random_model("llama", dtype=torch.float32)
    wide = wide_network(model)
    for _ in range(2):  # it can be walked again
        for ours, theirs in zip(wide.layers, model.layers, strict=True):
            assert all(same(getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(PlainLayer))
    assert same(wide.W_U, model.W_U)


# ---- problems


def dequantised(problem: Problem, model: Model) -> Model:
    """A float64 model whose weights are the ones that the store computes with."""
    assert isinstance(problem.store, PrecisionStore)
    return model.to(dtype=torch.float64) if problem.store.uniform else problem.store.low.to(dtype=torch.float64)


def trials_of(problem: Problem) -> list[Trial]:
    edges = len(problem.graph.edges)
    some = torch.randperm(edges, generator=torch.Generator().manual_seed(1)).tolist()
    return [Trial(0, ()), Trial(0, tuple(range(edges)))] + [
        Trial(e, tuple(some[: 1 + i])) for i, e in enumerate(some[:10])
    ]


@pairs(
    {
        "family": sorted(FAMILIES),
        "ablation": ["corrupted", "zero", "mean"],
        "low": ["full", "int8", "int4", "fp8", "calibrated"],
    }
)
def test_a_problem_in_float64_is_that_of_a_model_of_its_weights(family: str, ablation: str, low: str) -> None:
    model = random_model(family, dtype=torch.float32)
    prompts = random_prompts(model, every_item=True)
    split = model.config.positions == "learned"
    options: dict[str, Any] = {"metric": "mse", "ablation": ablation, "split_embed": split}
    problem = build_problem(model, prompts, precision=LOW[low], **options)
    weights = dequantised(problem, model)
    plain = build_problem(weights, prompts, **options)
    full = build_problem(model.to(dtype=torch.float64), prompts, **options)
    plain = replace(plain, objective=full.objective, reference=full.reference)  # which is the full-precision network's
    wide = problem.in_float64()
    assert wide.reference.dtype == torch.float64
    assert wide.in_float64() is wide
    # losses are taken by the full network's ends, which no format rounds
    expected = ReferenceEngine(plain).measure(trials_of(plain))
    assert ReferenceEngine(wide).measure(trials_of(wide)) == pytest.approx(expected, rel=1e-11, abs=1e-13)
    assert max(expected) > 1e-3
    rough = ReferenceEngine(problem).measure(trials_of(problem))
    assert rough != pytest.approx(expected, rel=1e-11, abs=1e-13)
    assert rough == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pairs(
    {
        "family": sorted(FAMILIES),
        "metric": ["kl", "logit_diff", "prob_diff", "margin", "nll"],
        "focus": ["none", "receiver"],
        "low": ["int4", "calibrated", "cache"],
    }
)
def test_both_engines_and_both_stores_give_one_problem_in_float64(
    family: str, metric: str, focus: str, low: str, tmp_path: Path
) -> None:
    model = random_model(family, dtype=torch.float32)
    save_model(model, tmp_path)
    prompts = random_prompts(model)
    options: dict[str, Any] = {"metric": metric, "precision": LOW[low], "focus": focus}
    plain = build_problem(model, prompts, **options)
    packed = build_problem(open_model(tmp_path), prompts, store="packed", **options)
    found = []
    for problem in (plain, packed):
        for engine in (ReferenceEngine, SuffixEngine):
            wide = problem.in_float64()
            incoming = [i for i, e in enumerate(problem.graph.edges) if e.receiver.kind == "logits"]
            trials = [Trial(incoming[0], ()), Trial(incoming[0], tuple(incoming)), Trial(incoming[1], (incoming[1],))]
            found.append(engine(wide).measure(trials))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-10, abs=1e-12)


def test_values_of_a_16_bit_cache_are_given_and_not_made_anew() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    problem = build_problem(model, random_prompts(model), metric="kl", precision=LOW["cache"])
    wide = problem.in_float64()
    for part in ("start", "z", "mlp"):
        for ours, theirs in zip(getattr(wide.corrupted, part), getattr(problem.corrupted, part), strict=True):
            assert torch.equal(ours, theirs.double())
    assert wide.corrupted.final.dtype == torch.float64
    assert torch.allclose(wide.corrupted.final, problem.corrupted.final.double(), atol=1e-5)
    assert not torch.equal(wide.corrupted.final, problem.corrupted.final.double())
