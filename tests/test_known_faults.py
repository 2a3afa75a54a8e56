"""Faults of the PAHQ authors' released code, one test each: none of them can come back here unseen.

Found by reading and running that code (arXiv 2510.23264). Each test fails on an implementation with the fault, which
most tests show by building it in.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import small_models

from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.config.cell import CellConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_logits
from pahq.engine.suffix import SuffixEngine
from pahq.model import open_model, save_model
from pahq.model.forward import logits
from pahq.precision.formats import Format, round_trip
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import ATTENTION, NO_FOCUS, Focus, PrecisionStore, focus_of
from pahq.search.acdc import acdc
from pahq.search.speculate import speculate
from pahq.tasks.metrics import gather_items, kl

random_model, random_prompts = small_models.random_model, small_models.random_prompts
INT4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
STORES = pytest.mark.parametrize("store", ["plain", "packed"])
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "attention-only", "llama"])


def problem_of(family: str, *, store: str = "plain", focus: str = "receiver", seed: int = 3) -> Problem:
    model = random_model(family, seed, dtype=torch.float32)
    prompts = random_prompts(model, seed, every_item=True)
    return build_problem(model, prompts, metric="kl", precision=INT8, focus=focus, store=store)


def in_focus(problem: Problem) -> Callable[[int], Focus]:
    return lambda edge: focus_of(problem.graph, problem.graph.edges[edge], problem.focus)


@STORES
@FAMILIES
def test_a_patch_reaches_every_head(family: str, store: str) -> None:
    """Fault: with split inputs only head 0's input was read; edges into any other head had effect exactly 0."""
    problem = problem_of(family, store=store)
    engine = ReferenceEngine(problem)
    for i, edge in enumerate(problem.graph.edges):
        if edge.receiver.kind == "head":
            before, after = engine.measure([Trial(i, ()), Trial(i, (i,))])
            assert before != after, str(edge)


@STORES
@FAMILIES
@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_a_patch_on_head_0_moves_head_0_alone(family: str, store: str, letter: str) -> None:
    """Fault: head 0's patched input was broadcast, so a patch on head 0 moved every head.

    With all outputs of the other heads cut off, nothing of head 0's patch may arrive; with head 0's cut off, too.
    """
    problem = problem_of(family, store=store)
    graph = problem.graph
    group = graph.shape.heads // graph.shape.kv_heads
    mine = range(1) if letter == "q" else range(group)  # query heads that read the input
    patched = [i for i, e in enumerate(graph.edges) if str(e.receiver) == f"a1.h0<{letter}>" and not e.direct]
    for silent, arrives in ((set(range(graph.shape.heads)) - set(mine), True), (set(mine), False)):
        present = torch.ones(len(graph.edges), dtype=torch.bool)
        for i, edge in enumerate(graph.edges):
            if edge.sender is not None and edge.sender.kind == "head" and edge.sender.layer == 1:
                present[i] = edge.direct or edge.sender.head not in silent
        without = present.clone()
        without[patched] = False
        difference = (circuit_logits(problem, present) - circuit_logits(problem, without)).abs().max()
        assert (float(difference) > 1e-3) if arrives else (float(difference) == 0)


@STORES
@pytest.mark.parametrize("engine", [ReferenceEngine, SuffixEngine])
@FAMILIES
def test_the_focus_is_the_head_under_test(family: str, engine: type, store: str) -> None:
    """Fault: the high-precision head was set once and was stale for the edges then tested (right for 1 in 12).

    Every layer that a measurement asks for must be asked for under the focus of the edge under test.
    """
    problem = problem_of(family, store=store)
    search = acdc if engine is ReferenceEngine else speculate
    expected = {}
    for decision in acdc(ReferenceEngine(problem), Order(), 0.05, focus=in_focus(problem)):
        expected[decision.edge] = decision
    for decision in search(engine(problem), Order(), 0.05, focus=in_focus(problem)):
        theirs = expected[decision.edge]
        assert decision.removed == theirs.removed
        assert decision.effect == pytest.approx(theirs.effect, abs=2e-5)
    asked: list[tuple[int, Focus]] = []
    inner, reference = problem.store, ReferenceEngine(problem)

    class Listening:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def layer(self, index: int, focus: Focus) -> object:
            asked.append((index, focus))
            return inner.layer(index, focus)

    listening = ReferenceEngine(replace(problem, store=Listening()))  # type: ignore[arg-type]
    for i, edge in enumerate(problem.graph.edges):
        asked.clear()
        assert listening.measure([Trial(i, (i,))]) == reference.measure([Trial(i, (i,))])
        assert {focus for _, focus in asked} == {focus_of(problem.graph, edge, "receiver")}
    # and the weights under that focus are the exact ones of that head, the rounded ones of all others
    full, low = random_model(family, 3, dtype=torch.float32).layers[1], PrecisionStore.build
    rounded = low(random_model(family, 3, dtype=torch.float32), INT8).low.layers[1]
    for head in range(problem.graph.shape.kv_heads):
        weights = inner.layer(1, frozenset({(1, head)}))
        for other in range(problem.graph.shape.kv_heads):
            source = full if other == head else rounded
            assert torch.equal(weights.W_K[other], source.W_K[other])


@pytest.mark.parametrize("scales", ["row", "head"])
def test_a_format_of_8_bits_has_scales(scales: str) -> None:
    """Fault: FP8 was a bare cast. Weights of usual size then lie below 2^-6, where E4M3 loses its mantissa."""
    w = 0.004 * torch.randn(4, 64, 16, generator=torch.Generator().manual_seed(0))

    def error(form: Format) -> float:
        return float((round_trip(w, form) - w).norm() / w.norm())

    bare = Format("fp8", "none")
    assert error(bare) > 0.1 > 3 * error(Format("fp8", scales))
    assert torch.equal(round_trip(w, bare), w.to(torch.float8_e4m3fn).float())  # that is the bare cast
    assert Format("fp8").scales != "none"
    assert PrecisionConfig(name="fp8", format="fp8").scales != "none"


@STORES
@FAMILIES
def test_kl_is_measured_against_the_full_precision_model(family: str, store: str) -> None:
    """Fault: the reference of the KL was the quantised model itself, so quantisation cost nothing by definition."""
    model = random_model(family, dtype=torch.float32)
    prompts = random_prompts(model)
    problem = build_problem(model, prompts, metric="kl", precision=INT4, store=store)
    clean = gather_items(logits(model, prompts.clean), prompts.items)
    low = gather_items(logits(problem.store.network(), prompts.clean), prompts.items)
    [start] = ReferenceEngine(problem).measure([Trial(0, ())])
    assert start == pytest.approx(float(kl(low, clean.log_softmax(-1))), rel=1e-3)
    assert start > 1e-4
    assert float(problem.objective.loss(clean)) == pytest.approx(0, abs=1e-6)


def test_low_bit_copies_replace_the_full_precision_weights(tmp_path: Path) -> None:
    """Fault: FP8 copies came on top of the float32 weights, which stayed on the device, so memory could only grow."""
    model = random_model("gpt2", layers=4, heads=8, kv_heads=8, d_model=64, d_head=8, dtype=torch.float32)
    whole = sum(getattr(layer, name).nbytes for layer in model.layers for name in ATTENTION)
    save_model(model, tmp_path)
    prompts = random_prompts(model)
    del model
    problem = build_problem(open_model(tmp_path), prompts, metric="kl", precision=INT8, store="packed")
    gc.collect()
    store = problem.store
    assert isinstance(store, PackedStore)
    at_rest = sum(weights[name].nbytes for weights in store._packed for name in ATTENTION)
    assert at_rest < 0.4 * whole  # 8 bits of 32 and the scales, of which heads 8 wide have many
    reachable: dict[int, int] = {}
    seen, todo = set(), [problem]
    while todo:  # everything that the problem keeps alive
        for thing in gc.get_referents(todo.pop()):
            if id(thing) in seen or isinstance(thing, type | type(gc)):
                continue
            seen.add(id(thing))
            if isinstance(thing, torch.Tensor):
                exact = thing.dtype == torch.float32 and tuple(thing.shape) in ((8, 64, 8), (8, 8, 64))
                reachable |= {thing.data_ptr(): thing.nbytes} if exact else {}
            elif not callable(thing) or hasattr(thing, "__dict__"):
                todo.append(thing)
    assert (
        whole / 4 <= sum(reachable.values()) <= 2 * whole / 4
    )  # two unpacked layers at work, and none of the master's


@STORES
@FAMILIES
def test_rtn_q_protects_no_head(family: str, store: str) -> None:
    """Fault: RTN-Q kept the selected head in float32, which is PAHQ and no baseline for it."""
    with pytest.raises(ValueError, match="method rtn-q cannot have focus 'receiver'"):
        CellConfig.model_validate(
            {
                "task": {"name": "t", "kind": "ioi", "examples": 1, "metric": "kl"},
                "model": {"name": "nano", "source": "nano"},
                "method": {"name": "rtn-q", "focus": "receiver"},
                "precision": INT8.model_dump(),
                "threshold": 0.1,
            }
        )
    problem, model = problem_of(family, store=store, focus="none"), random_model(family, 3, dtype=torch.float32)
    for edge in problem.graph.edges:
        assert focus_of(problem.graph, edge, problem.focus) == NO_FOCUS
    for layer, weights in enumerate(problem.store.network().layers):
        for name in ATTENTION:
            exact = getattr(model.layers[layer], name)
            for mine, head in zip(getattr(weights, name), exact, strict=True):
                assert not torch.equal(mine, head)
                assert torch.equal(mine, round_trip(head, Format("int8")))


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
@FAMILIES
def test_the_empty_circuit_keeps_placeholders(family: str, ablation: str) -> None:
    """Fault: the empty circuit lost the placeholders too (q, k, v to a head's output, MLP input to output).

    With them it is the ablated run: each head still computes its output from its ablated q, k and v.
    """
    model = random_model(family)
    prompts = random_prompts(model, every_item=True)
    problem = build_problem(model, prompts, metric="kl", ablation=ablation)
    present = torch.tensor(Circuit.from_indices(problem.graph, ()).present)
    assert not present.any()
    found = circuit_logits(problem, present)
    assert torch.allclose(found, problem.item_logits(problem.corrupted.final), atol=1e-10)
    if ablation == "corrupted":
        assert torch.allclose(found, gather_items(logits(model, prompts.corrupted), prompts.items), atol=1e-10)
    silent = problem.corrupted.final - problem.corrupted_senders[len(problem.clean) :].sum(
        0
    )  # heads and MLPs say nothing
    if ablation != "zero":
        assert not torch.allclose(found, problem.item_logits(silent), atol=1e-3)
    for edge in problem.graph.edges:  # placeholders are no edges: they can be neither tested nor removed
        assert edge.receiver is not None
        assert edge.direct or edge.sender is not None
