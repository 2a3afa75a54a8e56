"""The ground engines stand on: what absent edges carry, what the metric compares with, what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import small_models

from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.errors import PahqError
from pahq.model.forward import logits, unembed
from pahq.tasks.metrics import gather_items
from pahq.tasks.task import Prompts, last_items

random_model, random_prompts = small_models.random_model, small_models.random_prompts
INT4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")


def test_the_corrupted_run_is_the_low_models_own() -> None:
    model = random_model("gpt2")
    prompts = random_prompts(model)
    problem = build_problem(model, prompts, metric="kl", precision=INT4)
    expected = logits(problem.store.low, prompts.corrupted)
    assert torch.allclose(unembed(model, problem.corrupted.final), expected, rtol=1e-10)
    assert not torch.allclose(logits(model, prompts.corrupted), expected, rtol=1e-3)


def test_the_metric_compares_with_the_full_precision_model() -> None:
    model = random_model("gpt2")
    prompts = random_prompts(model)
    problem = build_problem(model, prompts, metric="kl", precision=INT4)
    clean = gather_items(logits(model, prompts.clean), prompts.items)
    assert float(problem.objective.loss(clean)) == pytest.approx(0.0, abs=1e-12)
    assert float(problem.objective.loss(gather_items(logits(problem.store.low, prompts.clean), prompts.items))) > 1e-6


@pytest.mark.parametrize("low", [False, True])
def test_another_metric_is_that_of_a_problem_made_with_it(low: bool) -> None:
    """With the logits of the full-precision network, whatever the network under test is."""
    model = random_model("gpt2", 0)
    prompts = random_prompts(model, 0, batch=3, length=4)
    precision = INT4 if low else None
    logits = torch.randn(len(prompts.items), model.config.d_vocab_out, dtype=torch.float64)
    first = build_problem(model, prompts, metric="logit_diff", precision=precision)
    assert first.measured_by("logit_diff") is first
    for metric in ("kl", "nll"):
        made = build_problem(model, prompts, metric=metric, precision=precision)
        assert torch.equal(first.measured_by(metric).objective.value(logits), made.objective.value(logits))
        assert torch.equal(made.measured_by("logit_diff").objective.value(logits), first.objective.value(logits))


@pytest.mark.parametrize("split", [True, False])
def test_position_order_permutes_the_corrupted_position_embedding_alone(split: bool) -> None:
    model = random_model("tracr")
    order = torch.tensor([3, 0, 4, 1, 2])
    prompts = random_prompts(model)
    permuted = dataclasses.replace(prompts, position_order=order)
    problem = build_problem(model, permuted, metric="kl", split_embed=split)
    plain = build_problem(model, prompts, metric="kl", split_embed=split)
    shuffled = model.W_pos[:5][order]
    token = model.W_E[prompts.corrupted]
    if split:
        assert torch.equal(problem.corrupted_senders[0], token)
        assert torch.equal(problem.corrupted_senders[1], shuffled.expand_as(token))
    else:
        assert torch.allclose(problem.corrupted_senders[0], token + shuffled)
    assert all(torch.equal(a, b) for a, b in zip(problem.clean, plain.clean, strict=True))


def test_zero_ablation_leaves_biases() -> None:
    """Every sender is zero, so a projection is W.norm(biases) + b: not zero."""
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl", ablation="zero")
    run, projections = problem.corrupted, problem.corrupted_projections[0]["q"]
    assert not problem.corrupted_senders.any()
    pre, mid = problem.corrupted_streams
    assert not pre[0].any()
    assert torch.allclose(mid[0], model.layers[0].b_O.expand_as(mid[0]))
    assert torch.allclose(run.final, (model.layers[0].b_O + model.layers[1].b_O).expand_as(run.final))
    # LayerNorm of a zero row is its bias
    expected = torch.einsum("d,hde->he", model.layers[0].ln1_b, model.layers[0].W_Q) + model.layers[0].b_Q
    assert torch.allclose(projections, expected[:, None, None].expand_as(projections))


def test_mean_ablation_carries_each_senders_mean_over_the_corrupted_prompts() -> None:
    model = random_model("llama")
    prompts = random_prompts(model)
    plain = build_problem(model, prompts, metric="kl").corrupted_senders
    problem = build_problem(model, prompts, metric="kl", ablation="mean")
    mean, senders = problem.corrupted, problem.corrupted_senders
    for sender, row in zip(plain, senders, strict=True):
        for example in row:
            assert torch.allclose(example, (sender[0] + sender[1] + sender[2]) / 3)
    assert torch.allclose(mean.final, senders.sum(0) + model.layers[0].b_O + model.layers[1].b_O)


def test_an_unknown_ablation_is_refused() -> None:
    model = random_model("gpt2")
    with pytest.raises(PahqError, match="unknown ablation 'noise'; known: corrupted, mean, zero"):
        build_problem(model, random_prompts(model), metric="kl", ablation="noise")


def test_prompts_that_do_not_fit_the_model_are_refused() -> None:
    model = random_model("gpt2")
    with pytest.raises(PahqError, match="prompts have 9 tokens; model 'gpt2' has 8 positions"):
        build_problem(model, random_prompts(model, length=9), metric="kl")
    sliding = random_model("llama", window=4)
    build_problem(sliding, random_prompts(sliding, length=4), metric="kl")
    with pytest.raises(PahqError, match="prompts have 5 tokens; model 'llama' attends within a sliding window of 4"):
        build_problem(sliding, random_prompts(sliding, length=5), metric="kl")
    good = torch.zeros(5, 4, dtype=torch.long)
    good[0, 0] = 10
    for bad in (11, -1):
        wrong = good.clone()
        wrong[2:4, 1] = bad  # the first of them is named
        for clean, corrupted, name in ((wrong, good, "clean"), (good, wrong, "corrupted")):
            with pytest.raises(PahqError, match=f"{name} prompt 2 has a token outside the vocabulary of 11"):
                build_problem(model, Prompts(clean, corrupted, last_items(5, 4)), metric="kl")


def test_rotary_models_have_no_position_embedding_to_split() -> None:
    model = random_model("qwen")
    with pytest.raises(PahqError, match="no position embedding to split"):
        build_problem(model, random_prompts(model), metric="kl", split_embed=True)
    assert build_problem(model, random_prompts(model, length=7), metric="kl").graph.senders[0].kind == "embed"


@pytest.mark.parametrize(("cache", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("family", ["gpt2", "llama", "attention-only"])
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_a_narrow_cache_holds_16_bits_of_what_absent_edges_carry(
    cache: str, dtype: torch.dtype, family: str, ablation: str
) -> None:
    """Senders are rounded once; the streams are sums of the rounded ones, so that the whole graph is still clean."""
    model = random_model(family)
    prompts, policy = random_prompts(model), PrecisionConfig(name="float32", format="float32", cache=cache)
    plain = build_problem(model, prompts, metric="kl", ablation=ablation)
    problem = build_problem(model, prompts, metric="kl", ablation=ablation, precision=policy)
    for name in ("start", "z", "mlp"):
        pairs = list(zip(getattr(problem.corrupted, name), getattr(plain.corrupted, name), strict=True))
        assert len(pairs) == len(getattr(plain.corrupted, name))
        if name == "start" or (name == "z" and ablation == "corrupted"):
            assert torch.equal(pairs[0][0], pairs[0][1].to(dtype).double())  # above, inputs are rounded already or not
    assert all(x.dtype == dtype for x in problem.corrupted.z.held)
    held = plain.corrupted.nbytes - plain.corrupted.final.nbytes
    assert problem.corrupted.nbytes == plain.corrupted.final.nbytes + held // 4  # float64 here
    biases = torch.stack([layer.b_O for layer in model.layers]).sum(0)
    assert torch.allclose(problem.corrupted.final, problem.corrupted_senders.sum(0) + biases, atol=1e-12)
    assert ReferenceEngine(problem).measure([Trial(0, ())])[0] == pytest.approx(0, abs=1e-12)


def test_what_a_narrow_cache_cannot_hold_is_refused() -> None:
    model = random_model("gpt2")
    huge = dataclasses.replace(model, W_E=model.W_E * 1e6)
    policy = PrecisionConfig(name="float32", format="float32", cache="fp16")
    with pytest.raises(PahqError, match=r"an activation of [\d.e+]+ does not fit cache=fp16; bf16 holds it"):
        build_problem(huge, random_prompts(model), metric="kl", precision=policy)


def test_what_an_engine_has_asked_for_can_be_read_where_there_are_gradients() -> None:
    """Kept values are made once; nothing of how they were made is kept with them."""
    model = random_model("gpt2")
    model.layers[0].W_Q.requires_grad_()
    problem = build_problem(model, random_prompts(model), metric="kl")
    with torch.inference_mode():
        made = [problem.corrupted_senders, *problem.corrupted_streams[0], *problem.corrupted_streams[1]]
        made += [value for layer in problem.corrupted_projections for value in layer.values()]
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    for value in made:
        assert not value.requires_grad
        (scale * value).sum().backward()


def storages(*stores: object) -> int:
    """Bytes of all tensors of plain stores' models, each once."""
    found = {}
    for store in stores:
        for model in (store.full, store.low):  # type: ignore[attr-defined]
            for holder in (model, *model.layers):
                held = [value for value in vars(holder).values() if isinstance(value, torch.Tensor)]
                found |= {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in held}
    return sum(found.values())


def test_the_bytes_of_weights_are_those_of_both_networks() -> None:
    model = random_model("llama", dtype=torch.float32)
    prompts, low = random_prompts(model), INT4
    network, apart = (
        build_problem(model, prompts, metric="kl", precision=low, arithmetic=arithmetic)
        for arithmetic in ("network", "changes")
    )
    assert network.weight_bytes == storages(network.store)
    assert apart.weight_bytes == storages(apart.store, apart.changes)
    packed = build_problem(model, prompts, metric="kl", precision=low, arithmetic="changes", store="packed")
    assert packed.weight_bytes == packed.store.nbytes + packed.changes.nbytes
    for narrow in (network, apart, packed):
        wide = narrow.in_float64()
        ReferenceEngine(wide.in_full_precision()).measure([Trial(0, (0,))])  # which widens weights
        if narrow.changes is not None:
            wide.changes.layer(0, frozenset()).W_Q  # noqa: B018
        stores = [store for store in (wide.store, wide.changes) if store is not None]
        kept = sum(value.nbytes for store in stores for value in store._kept.values())
        ends = [wide.store.ends.ln_final_w, wide.store.ends.W_U, wide.store.ends.b_U]  # one pair of them
        assert kept > 0
        assert wide.weight_bytes == narrow.weight_bytes + kept + sum(x.nbytes for x in ends)


@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_widened_weights_are_kept_within_their_bytes(arithmetic: str) -> None:
    model = random_model("llama", dtype=torch.float32)
    problem = build_problem(model, random_prompts(model), metric="kl", precision=INT4, arithmetic=arithmetic)
    wide = problem.in_float64(kept_bytes=1 << 14)
    stores = [store for store in (wide.store, wide.changes) if store is not None]
    for store in stores:
        for index in range(2):
            for name in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_gate"):
                store.field(index, name, frozenset())
    kept = [sum(value.nbytes for value in store._kept.values()) for store in stores]
    assert 1 << 13 < sum(kept) <= 1 << 14
    assert wide.in_float64() is wide


def test_the_error_of_a_format_is_that_of_the_weights_that_changes_are_multiplied_with() -> None:
    """Of heads, which int4 rounds more coarsely than bf16 rounds MLPs; and it is worked out once."""
    model = random_model("gpt2", dtype=torch.float32)
    settings = {"metric": "kl", "precision": INT4, "arithmetic": "changes"}
    problem = build_problem(model, random_prompts(model), **settings)
    pairs = zip(problem.changes.full.layers, problem.changes.low.layers, strict=True)
    weights = [(getattr(full, f"W_{at}"), getattr(low, f"W_{at}")) for full, low in pairs for at in "QKVO"]
    off = sum(float((low - full).double().square().sum()) for full, low in weights)
    assert problem.format_error == pytest.approx((off / sum(float(full.square().sum()) for full, _ in weights)) ** 0.5)
    assert "format_error" in vars(problem)
    assert problem.in_full_precision().format_error == 1.0
