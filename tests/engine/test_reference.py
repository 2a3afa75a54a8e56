"""The reference engine against an independent slow twin, and what a patch must and must not move."""

from __future__ import annotations

import pytest
import torch
from support import small_models
from support.pairs import pairs
from support.patched_forward import circuit_logits as slow_logits

from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine import reference
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine, circuit_logits, logits_in_parts
from pahq.model.forward import logits
from pahq.model.weights import Model
from pahq.precision.store import PrecisionStore, focus_of
from pahq.search.acdc import Decision, acdc
from pahq.tasks.metrics import gather_items
from pahq.tasks.task import Prompts

random_model, random_prompts = small_models.random_model, small_models.random_prompts

FAMILIES = pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
ABLATIONS = pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
INT4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
FLOAT32 = PrecisionConfig(name="float32", format="float32")


def learned(family: str) -> bool:
    return family in ("gpt2", "attention-only", "tracr")


@FAMILIES
@ABLATIONS
def test_the_full_circuit_is_the_clean_model_and_the_empty_one_the_ablated_run(family: str, ablation: str) -> None:
    model = random_model(family)
    prompts = random_prompts(model, every_item=True)
    for split in (False, True) if learned(family) else (False,):
        problem = build_problem(model, prompts, metric="kl", ablation=ablation, split_embed=split)
        everything = torch.ones(len(problem.graph.edges), dtype=torch.bool)
        clean = gather_items(logits(model, prompts.clean), prompts.items)
        assert (circuit_logits(problem, everything) - clean).abs().max() < 1e-10
        ablated = problem.item_logits(problem.corrupted.final)
        assert (circuit_logits(problem, ~everything) - ablated).abs().max() < 1e-10
        assert (clean - ablated).abs().max() > 0.1  # the two ends differ
        if ablation == "corrupted":
            assert (ablated - gather_items(logits(model, prompts.corrupted), prompts.items)).abs().max() < 1e-10


@pairs(
    {
        "family": sorted(small_models.FAMILIES),
        "ablation": ["corrupted", "zero", "mean"],
        "drawn": [(True, 0.8), (True, 0.4), (False, 0.6)],  # with Direct edges, and the density
    }
)
def test_random_circuits_equal_the_slow_twin(family: str, ablation: str, drawn: tuple[bool, float]) -> None:
    direct_edges, density = drawn
    split = learned(family) and density == 0.4
    model = random_model(family, 1)
    prompts = random_prompts(model, 1, batch=2, length=3, every_item=True)
    order = torch.tensor([2, 0, 1]) if split else None
    prompts = Prompts(prompts.clean, prompts.corrupted, prompts.items, prompts.targets, position_order=order)
    graph = {"split_embed": split, "direct_edges": direct_edges}
    problem = build_problem(model, prompts, metric="kl", ablation=ablation, **graph)
    for seed in (1, 2):
        present = random_edges(problem, density, seed)
        slow = twin(problem, prompts, present, ablation=ablation, position_order=order, **graph)
        assert (circuit_logits(problem, present) - slow).abs().max() < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "attention-only", "llama", "parallel", "qwen", "gemma2", "gemma3", "olmo2"])
@pytest.mark.parametrize("focus", [frozenset(), frozenset({(1, 0)}), frozenset({(0, 0), (1, 0)})])
def test_mixed_precision_equals_the_slow_twin(family: str, focus: frozenset[tuple[int, int]]) -> None:
    """Heads in focus take their weights, and so their ablated projections, from the full-precision model."""
    model = random_model(family, 5)
    prompts = random_prompts(model, 5, batch=2, length=4)
    problem = build_problem(model, prompts, metric="kl", precision=INT4)
    for density in (0.9, 0.5):
        present = random_edges(problem, density, 6)
        fast, slow = circuit_logits(problem, present, focus), twin(problem, prompts, present, focus=focus)
        assert (fast - slow).abs().max() < 1e-10
        if focus:
            assert (fast - circuit_logits(problem, present)).abs().max() > 1e-6


def random_edges(problem: Problem, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(problem.graph.edges), generator=generator) < density


def twin(problem: Problem, prompts: Prompts, present: torch.Tensor, **settings: object) -> torch.Tensor:
    edges = Circuit(problem.graph, tuple(present.tolist())).edges
    store = problem.store
    return slow_logits(store.full, store.low, prompts.clean, prompts.corrupted, prompts.items, edges, **settings)


@pytest.mark.parametrize("letter", ["q", "k", "v"])
@pytest.mark.parametrize("direct", [True, False])
def test_a_patch_on_head_3_moves_head_3_alone(monkeypatch: pytest.MonkeyPatch, letter: str, direct: bool) -> None:
    seen = attention_outputs(monkeypatch)
    model = random_model("attention-only", heads=4, kv_heads=4)
    problem = build_problem(model, random_prompts(model), metric="kl")
    everything = torch.ones(len(problem.graph.edges), dtype=torch.bool)
    patched = everything.clone()
    patched[problem.graph.index_of(f"a1.h3<{letter}>" if direct else f"a0.h1->a1.h3<{letter}>")] = False
    circuit_logits(problem, everything)
    before = [z.clone() for z in seen]
    seen.clear()
    circuit_logits(problem, patched)
    assert torch.equal(before[0], seen[0])
    assert torch.equal(before[1][:3], seen[1][:3])
    assert (before[1][3] - seen[1][3]).abs().max() > 1e-3


@pytest.mark.parametrize("letter", ["k", "v"])
def test_a_patch_on_a_key_value_head_moves_its_group_alone(monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    seen = attention_outputs(monkeypatch)
    model = random_model("llama")
    problem = build_problem(model, random_prompts(model), metric="kl")
    everything = torch.ones(len(problem.graph.edges), dtype=torch.bool)
    patched = everything.clone()
    patched[problem.graph.index_of(f"m0->a1.h0<{letter}>")] = False
    circuit_logits(problem, everything)
    before = [z.clone() for z in seen]
    seen.clear()
    circuit_logits(problem, patched)
    assert torch.equal(before[1][2:], seen[1][2:])
    assert all((before[1][head] - seen[1][head]).abs().max() > 1e-3 for head in (0, 1))


def attention_outputs(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The list to which every layer's z [head, batch, pos, d_head] is added from now on."""
    seen: list[torch.Tensor] = []
    mix = reference.mix

    def spy(*arguments: object) -> torch.Tensor:
        seen.append(mix(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(reference, "mix", spy)
    return seen


@FAMILIES
@pytest.mark.parametrize("precision", [FLOAT32, INT8], ids=["float32", "int8"])
def test_every_edge_of_every_head_has_an_effect(family: str, precision: PrecisionConfig) -> None:
    """In the authors' release only head 0's input is read: edges into any other head have effect exactly 0."""
    model = random_model(family, 3)
    problem = build_problem(model, random_prompts(model, 3, every_item=True), metric="kl", precision=precision)
    engine = ReferenceEngine(problem)
    edges = [i for i, edge in enumerate(problem.graph.edges) if edge.receiver.kind == "head"]
    state = engine.measure([Trial(edges[0], ())])[0]
    for edge in edges:
        effect = engine.measure([Trial(edge, (edge,))])[0] - state
        assert abs(effect) > 1e-9, str(problem.graph.edges[edge])


def test_measure_changes_nothing_and_remove_does() -> None:
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl", precision=INT8, focus="receiver")
    engine, twice = ReferenceEngine(problem), ReferenceEngine(problem)
    trials = [Trial(edge, (edge, edge - 1)) for edge in range(1, 60, 7)] + [Trial(3, ())]
    senders = problem.corrupted_senders.clone()
    first = engine.measure(trials)
    assert engine.measure(trials) == first == [twice.measure([trial])[0] for trial in trials]
    assert bool(engine.present.all())
    assert torch.equal(senders, problem.corrupted_senders)
    engine.remove([5, 9])
    assert (~engine.present).nonzero().flatten().tolist() == [5, 9]
    assert engine.measure([Trial(12, (12,))]) == twice.measure([Trial(12, (5, 9, 12))])
    assert engine.measure(trials) != first
    assert engine.measure([]) == []


def test_the_start_of_a_quantised_search_is_above_zero() -> None:
    """KL is measured against the full-precision model, so the quantised one starts with a distance to it."""
    model = random_model("gpt2")
    prompts = random_prompts(model)
    start = {}
    for precision in (FLOAT32, INT8, INT4):
        engine = ReferenceEngine(build_problem(model, prompts, metric="kl", precision=precision))
        start[precision.name] = engine.measure([Trial(0, ())])[0]
    assert abs(start["float32"]) < 1e-12 < 1e-7 < start["int8"] < start["int4"]


def run(
    model: Model, prompts: Prompts, threshold: float, *, precision: PrecisionConfig = FLOAT32, focus: str = "none"
) -> list[Decision]:
    problem = build_problem(model, prompts, metric="kl", precision=precision, focus=focus)

    def in_focus(edge: int) -> object:
        return focus_of(problem.graph, problem.graph.edges[edge], focus)

    return list(acdc(ReferenceEngine(problem), Order(), threshold, focus=in_focus))


@FAMILIES
@pytest.mark.parametrize("focus", ["receiver", "sender", "both"])
def test_pahq_with_float32_as_low_format_is_acdc(family: str, focus: str) -> None:
    seed = len(focus)
    model = random_model(family, seed, dtype=torch.float32)
    prompts = random_prompts(model, seed)
    plain, mixed = run(model, prompts, 0.02), run(model, prompts, 0.02, focus=focus)
    assert [(d.edge, d.removed) for d in plain] == [(d.edge, d.removed) for d in mixed]
    assert max(abs(a.effect - b.effect) for a, b in zip(plain, mixed, strict=True)) < 1e-6
    assert {d.removed for d in plain} == {True, False}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rtn_q_is_acdc_on_the_rounded_model(family: str) -> None:
    model = random_model(family, 7, dtype=torch.float32)
    prompts = random_prompts(model, 7)
    quantised = run(model, prompts, 0.02, precision=INT4)
    rounded = PrecisionStore.build(model, INT4).low
    problem = build_problem(rounded, prompts, metric="kl")
    # the reference of the metric is the one thing that does not come from the rounded model
    clean = build_problem(model, prompts, metric="kl")
    of_clean = {"objective": clean.objective, "reference": clean.reference}
    engine = ReferenceEngine(Problem(**{**vars(problem), **of_clean}))
    assert quantised == list(acdc(engine, Order(), 0.02))
    assert quantised != run(model, prompts, 0.02)


@pytest.mark.parametrize("focus", ["receiver", "sender", "both"])
def test_no_change_of_precision_is_booked_on_an_edge(focus: str) -> None:
    """Each effect is the difference of two measurements under one and the same focus."""
    model = random_model("gpt2", 8, dtype=torch.float32)
    prompts = random_prompts(model, 8)
    problem = build_problem(model, prompts, metric="kl", precision=INT4, focus=focus)
    engine, replay = ReferenceEngine(problem), ReferenceEngine(problem)

    def in_focus(edge: int) -> object:
        return focus_of(problem.graph, problem.graph.edges[edge], focus)

    remeasured = 0
    for decision in acdc(engine, Order(), 0.02, focus=in_focus):
        untested = [i for i in range(len(problem.graph.edges)) if not engine.present[i]]
        replay.present[:] = True
        replay.remove([i for i in untested if i != decision.edge])
        before, after = replay.measure([Trial(decision.edge, ()), Trial(decision.edge, (decision.edge,))])
        assert (decision.before, decision.after) == pytest.approx((before, after), abs=1e-7)
        remeasured += abs(before - replay.problem.objective.loss(circuit_logits(problem, replay.present))) > 1e-7
    assert remeasured > 20  # the focus does change what is measured


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_some_prompts_at_a_time_give_the_same_logits(ablation: str) -> None:
    model = random_model("gpt2")
    prompts = random_prompts(model, every_item=True)
    problem = build_problem(model, prompts, metric="kl", ablation=ablation)
    present = torch.rand(len(problem.graph.edges), generator=torch.Generator().manual_seed(1)) < 0.5
    whole = circuit_logits(problem, present)
    for part_bytes in (1, 5 * whole.element_size() * 10**4):
        assert torch.allclose(logits_in_parts(problem, present, part_bytes=part_bytes), whole, rtol=0, atol=1e-12)
