"""A search does not know where its weights lie: with the packed store every loss is the plain store's, bit by bit.

And what the packed store is for, measured in processes of their own: the bytes it claims are the bytes it takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import small_models
from support.pairs import pairs
from support.places import ROOT

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError
from pahq.model import open_model, save_model
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import focus_of
from pahq.search.acdc import Decision, acdc
from pahq.search.speculate import speculate

random_model, random_prompts = small_models.random_model, small_models.random_prompts
INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
INT4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
FP8 = PrecisionConfig(name="fp8", format="fp8", scales="row", mlp="float32")
CALIBRATED = FP8.model_copy(update={"rounding": "calibrated"})
FLOAT32 = PrecisionConfig(name="float32", format="float32")
TF32 = PrecisionConfig(name="tf32", format="float32", compute="tf32")
INT8_INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16", compute="int8")
FP8_FP8 = PrecisionConfig(name="fp8", format="fp8", mlp="bf16", compute="fp8")
INT8_BF16 = PrecisionConfig(name="int8", format="int8", mlp="bf16", compute="bf16")


def decisions(problem: Problem, engine: str, order: Order, threshold: float) -> list[Decision]:
    def in_focus(edge: int) -> object:
        return focus_of(problem.graph, problem.graph.edges[edge], problem.focus)

    if engine == "reference":
        return list(acdc(ReferenceEngine(problem), order, threshold, focus=in_focus))
    return list(speculate(SuffixEngine(problem), order, threshold, focus=in_focus))


@pairs(
    {
        "engine": ["reference", "suffix"],
        "family": sorted(small_models.FAMILIES),
        "precision": [
            *[(INT8, "receiver"), (INT4, "receiver"), (FP8, "none"), (INT8, "both"), (FLOAT32, "receiver")],
            *[(TF32, "receiver"), (INT8_BF16, "receiver"), (INT8_INT8, "receiver"), (FP8_FP8, "none")],
            *[(CALIBRATED, "receiver")],
        ],
        "ablation": ["corrupted", "mean"],
    },
    without=lambda engine, family, precision, ablation: engine == "suffix" and precision[1] == "both",  # no such focus
)
def test_searches_are_the_same_bit_by_bit(
    engine: str, family: str, precision: tuple[PrecisionConfig, str], ablation: str, tmp_path: Path
) -> None:
    """Every decision with its losses, from a file (and a loaded model, which goes into one), in float32.

    At this threshold many senders lose all of their edges, so that fewer tests are left, of every layer.
    """
    policy, focus = precision
    model = random_model(family, 3, dtype=torch.float32)
    save_model(model, tmp_path)
    settings = {"metric": "kl", "ablation": ablation, "precision": policy, "focus": focus}
    prompts, order = random_prompts(model, 3), Order(indices="ascending" if focus == "none" else "descending")
    threshold = 0.05 if model.config.post_norms else 0.4  # what a norm lies behind changes less
    expected = decisions(build_problem(model, prompts, **settings), engine, order, threshold)
    assert {decision.removed for decision in expected} == {True, False}
    for source in [open_model(tmp_path)] if engine == "reference" else [model, open_model(tmp_path)]:
        problem = build_problem(source, prompts, store="packed", **settings)
        assert isinstance(problem.store, PackedStore)
        assert not hasattr(problem.store, "full")
        assert not hasattr(problem.store, "low")
        assert decisions(problem, engine, order, threshold) == expected
    if policy.format != "float32" and focus != "none" and model.config.kv_heads > 1:
        assert problem.store.slots.loads > 0  # the focus did come from the master
        assert problem.store.slots.hits > 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 50), st.sampled_from(["gpt2", "llama"]), st.lists(st.integers(0, 10**6), max_size=15))
def test_random_prefetches_between_trials_change_no_loss(seed: int, family: str, picks: list[int]) -> None:
    model = random_model(family, seed, dtype=torch.float32)
    prompts = random_prompts(model, seed)
    plain, packed = (
        ReferenceEngine(build_problem(model, prompts, metric="kl", precision=INT4, focus="both", store=store))
        for store in ("plain", "packed")
    )
    edges = [pick % len(plain.graph.edges) for pick in picks]
    for edge, other in zip(edges, reversed(edges), strict=True):
        packed.problem.store.prefetch(focus_of(packed.graph, packed.graph.edges[other], "both"))
        assert packed.measure([Trial(edge, (edge,))]) == plain.measure([Trial(edge, (edge,))])


def test_the_clean_logits_come_from_the_full_precision_model(tmp_path: Path) -> None:
    model = random_model("llama", dtype=torch.float32)
    save_model(model, tmp_path)
    prompts = random_prompts(model)
    packed = build_problem(open_model(tmp_path), prompts, metric="kl", precision=INT4, store="packed")
    plain = build_problem(model, prompts, metric="kl")
    assert torch.equal(packed.objective.clean, plain.objective.clean)


def test_a_file_serves_the_plain_store_too(tmp_path: Path) -> None:
    model = random_model("gpt2", dtype=torch.float32)
    save_model(model, tmp_path)
    prompts = random_prompts(model)
    one, two = (build_problem(m, prompts, metric="kl", precision=INT8) for m in (model, open_model(tmp_path)))
    assert decisions(one, "reference", Order(), 0.1) == decisions(two, "reference", Order(), 0.1)


def test_an_unknown_store_is_refused() -> None:
    model = random_model("gpt2")
    with pytest.raises(PahqError, match="unknown store 'disk'; known: packed, plain"):
        build_problem(model, random_prompts(model), metric="kl", store="disk")


MIB = 1 << 20
WIDE = ModelConfig(
    layers=8,
    heads=8,
    kv_heads=8,
    d_model=512,
    d_head=64,
    d_mlp=1536,
    d_vocab=64,
    d_vocab_out=64,
    context=16,
    norm="rms",
)
CHILD = """
import json, sys, torch
from pathlib import Path
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.model.memory import PeakMemory, frugal, give_back
from pahq.model import load_model, open_model
from pahq.tasks.task import Prompts, last_items

def level(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

def run(source, store):
    tokens = torch.arange(12).view(2, 6)
    prompts = Prompts(tokens, tokens + 7, last_items(2, 6))
    policy = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
    problem = build_problem(source, prompts, metric="kl", precision=policy, focus="receiver", store=store)
    del source
    engine = ReferenceEngine(problem)
    with frugal():  # what the C library keeps of freed blocks is not the store's, and never the same
        losses = [engine.measure([Trial(e, (e,))])[0] for e in range(0, len(problem.graph.edges), 997)]
    return problem, losses

torch.set_num_threads(1)
from pahq.model.sources.find import save_model
import os
small = os.environ["SMALL"]
run(open_model(small), "packed"); run(load_model(small), "plain")  # what libraries take once
peak, anonymous = PeakMemory("cpu"), level("RssAnon")
store = sys.argv[2]
opener = open_model if store == "packed" else load_model
problem, losses = run(opener(sys.argv[1]), store)
high = peak.bytes()
give_back()  # held is what is in use, not what the C library keeps
print(json.dumps({"peak": high, "anon": level("RssAnon") - anonymous, "nbytes": problem.store.nbytes,
                  "losses": losses}))
"""


def wide_model(config: ModelConfig) -> Model:
    generator = torch.Generator().manual_seed(0)
    shapes = tensor_shapes(config)
    return model_from_tensors(config, {n: 0.05 * torch.randn(s, generator=generator) for n, s in shapes.items()})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_what_a_process_holds_is_what_the_store_claims(tmp_path: Path) -> None:
    """80 MB of weights, of which attention 34 and MLPs 50: packed 8 + 25 and two layers at work, the rest on disk."""
    save_model(wide_model(WIDE), tmp_path / "wide")
    save_model(wide_model(WIDE.model_copy(update={"layers": 1, "d_mlp": 64})), tmp_path / "small")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SMALL": str(tmp_path / "small")}
    found = {}
    for store in ("packed", "plain"):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "wide"), store]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[store] = json.loads(done.stdout)
    packed, plain = found["packed"], found["plain"]
    assert packed["losses"] == plain["losses"]
    attention, mlp = 8 * 4 * 512 * 512, 8 * 2 * 512 * 1536  # numbers
    at_rest = attention * (1 + 4 / 512) + mlp * 2
    layer = 4 * (attention + mlp) / 8
    assert packed["nbytes"] < at_rest * 1.02 + 2 * layer + 2 * MIB
    # one matrix in float32 while it is packed, and the allocator's own
    assert packed["anon"] < packed["nbytes"] + 12 * MIB
    assert packed["peak"] < packed["nbytes"] + 15 * MIB
    assert packed["peak"] < 4 * (attention + mlp)  # less than the model itself in full precision
    assert plain["peak"] > 7.9 * (attention + mlp)  # which the plain store holds twice
