"""Changes alone in low precision: the reference against an independent twin, the suffix engine against that."""

from __future__ import annotations

import pytest
import torch
from support import changed_forward, small_models
from support.pairs import pairs

from pahq.circuits.order import Order, Visit
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.changereference import ChangeReference, changed_stream
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import ChangeEngine
from pahq.precision.packedstore import PackedStore
from pahq.precision.store import PrecisionStore
from pahq.search.acdc import Decision, Liveness, acdc
from pahq.search.rounds import RoundFollower
from pahq.search.start import build_engine, search_by

random_model, random_prompts = small_models.random_model, small_models.random_prompts

EVERY_FAMILY = sorted(small_models.FAMILIES)
EVERY_ABLATION = ["corrupted", "zero", "mean"]
FAMILIES = pytest.mark.parametrize("family", EVERY_FAMILY)
FORMATS = {
    "float32": PrecisionConfig(name="float32", format="float32"),
    "int8": PrecisionConfig(name="int8", format="int8", mlp="bf16"),
    "int4": PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16"),
    "bf16 products": PrecisionConfig(name="bf16", format="bf16", mlp="bf16", compute="bf16"),
}

LOW = [form for form in FORMATS if form != "float32"]


def problem_of(
    family: str,
    precision: PrecisionConfig,
    *,
    dtype: torch.dtype = torch.float64,
    length: int = 5,
    layers: int = 2,
    seed: int = 0,
    **setting: object,
) -> Problem:
    model = random_model(family, seed, dtype=dtype, layers=layers)
    prompts = random_prompts(model, seed, length=length)
    values: dict[str, object] = {"metric": "kl", "focus": "receiver", "arithmetic": "changes", "round_size": 5}
    return build_problem(model, prompts, precision=precision, **values | setting)  # type: ignore[arg-type]


LARGEST = 30  # times the format's own error: of any effect of a random model


def search(name: str, problem: Problem, threshold: float = 0.01, **more: object) -> list[Decision]:
    return list(search_by(build_engine(name, problem), problem, Order(), threshold, **more))  # type: ignore[arg-type]


def outcomes(decisions: list[Decision]) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


@pairs({"family": EVERY_FAMILY, "ablation": EVERY_ABLATION, "focus": [frozenset(), frozenset({(1, 0)})]})
def test_a_trial_equals_the_independent_twin(family: str, ablation: str, focus: frozenset[tuple[int, int]]) -> None:
    problem = problem_of(family, FORMATS["int4"], length=3, ablation=ablation)
    store = problem.changes
    assert isinstance(store, PrecisionStore)
    generator = torch.Generator().manual_seed(3)
    current = torch.rand(len(problem.graph.edges), generator=generator) < 0.8
    changed = current & (torch.rand(len(problem.graph.edges), generator=generator) < 0.8)
    found = problem.item_logits(changed_stream(problem, current, changed, focus))
    edges = [
        [str(edge) for edge, there in zip(problem.graph.edges, present, strict=True) if there]
        for present in (current, changed)
    ]
    prompts = problem.prompts
    slow = changed_forward.trial_logits(
        store.full, store.low, prompts.clean, prompts.corrupted, prompts.items, *edges, focus=focus, ablation=ablation
    )
    assert (found - slow).abs().max() < 1e-10
    every = frozenset((layer, group) for layer in range(2) for group in range(store.config.kv_heads))
    other = problem.item_logits(changed_stream(problem, current, changed, every))
    if not focus:
        assert (found - other).abs().max() > 1e-6  # the weights of a focus enter


@pairs({"family": EVERY_FAMILY, "ablation": EVERY_ABLATION, "form": LOW, "focus": ["receiver", "none"]})
def test_the_suffix_engine_decides_as_the_reference_does(family: str, ablation: str, form: str, focus: str) -> None:
    problem = problem_of(family, FORMATS[form], ablation=ablation, focus=focus)
    slow, fast = search("reference", problem), search("suffix", problem)
    assert outcomes(slow) == outcomes(fast)
    assert max(abs(a.effect - b.effect) for a, b in zip(slow, fast, strict=True)) < 1e-11


def test_a_window_takes_what_waits_from_some_receivers_before_others() -> None:
    """Its trials of one head have a sender that waits and one more; those of the next head the one that waits alone."""
    problem = problem_of("llama", FORMATS["int8"], layers=3, round_size=32)
    slow, fast = search("reference", problem), search("suffix", problem)
    assert outcomes(slow) == outcomes(fast)
    assert max(abs(a.effect - b.effect) for a, b in zip(slow, fast, strict=True)) < 1e-11


@pairs({"family": EVERY_FAMILY, "ablation": EVERY_ABLATION, "focus": ["receiver", "none"], "threshold": [0.01, 1e-5]})
def test_in_float32_it_is_acdc(family: str, ablation: str, focus: str, threshold: float) -> None:
    """With nothing rounded the two arithmetics are one: decisions and effects are ACDC's."""
    problem = problem_of(family, FORMATS["float32"], ablation=ablation, focus=focus)
    expected, found = search("suffix", problem.in_full_precision(), threshold), search("suffix", problem, threshold)
    assert outcomes(found) == outcomes(expected)
    assert max(abs(a.effect - b.effect) for a, b in zip(found, expected, strict=True)) < 1e-11


@FAMILIES
def test_the_state_is_in_full_precision_however_coarse_the_format(family: str) -> None:
    """After any removals the loss of the state is full precision's, and so is a trial that is asked exactly."""
    problem = problem_of(family, FORMATS["int4"])
    graph = problem.graph
    for engine in (ChangeEngine(problem), ChangeReference(problem)):
        full, live = build_engine("reference", problem.in_full_precision()), Liveness(graph)
        for receiver in reversed(graph.receivers):
            edges, others = list(graph.incoming(receiver))[::2], tuple(graph.incoming(receiver))[1::2]
            engine.remove(edges)
            full.remove(edges)
            for edge in edges:
                live.take(edge)
            if not live.needed(Visit(receiver, direct=False)):
                continue
            asked = [Trial(edges[0], ()), Trial(edges[0], others)]
            exact = full.measure(asked)
            assert engine.measure(asked[:1]) == pytest.approx(exact[:1], abs=1e-12)
            assert engine.exactly.measure(asked) == pytest.approx(exact, abs=1e-12)


@FAMILIES
@pytest.mark.parametrize("form", LOW)
def test_errors_of_effects_are_in_proportion_to_the_format(family: str, form: str) -> None:
    """Half of the effects of whole searches are off by less than the format's own error, all by less than 30 of it."""
    problem = problem_of(family, FORMATS[form], layers=3, round_size=32)
    engine, errors = ChangeEngine(problem), []
    exact = RoundFollower(engine.exactly, 32, moves=False)

    def judge(decision: Decision) -> Decision:
        before, after = exact.losses(decision.edge)
        errors.append(abs(decision.effect - (after - before)) / (abs(after - before) + 0.01) / problem.format_error)
        exact.decided(decision.edge, decision.removed)
        return decision

    assert list(search_by(engine, problem, Order(), 0.01, judge=judge))
    assert 0 < max(errors) < LARGEST
    assert sorted(errors)[len(errors) // 2] < 1


@FAMILIES
def test_a_packed_store_searches_as_a_plain_one_bit_by_bit(family: str) -> None:
    """Full precision comes from the master then, a layer at a time."""
    for form in ("int8", "int4"):
        plain = problem_of(family, FORMATS[form], dtype=torch.float32)
        packed = problem_of(family, FORMATS[form], dtype=torch.float32, store="packed")
        assert isinstance(packed.changes, PackedStore)
        expected, found = search("suffix", plain), search("suffix", packed)
        assert [(d.edge, d.before, d.after) for d in found] == [(d.edge, d.before, d.after) for d in expected]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_float64_twin_is_the_same_search_to_float_noise(family: str) -> None:
    problem = problem_of(family, FORMATS["int8"], dtype=torch.float32)
    fine = problem.in_float64()
    for rough, exact in zip(search("suffix", problem), search("suffix", fine), strict=True):
        assert rough.edge == exact.edge
        assert rough.effect == pytest.approx(exact.effect, abs=2e-6, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 32])
@pytest.mark.parametrize("engine", ["suffix", "reference"])
def test_a_search_goes_on_from_anywhere_in_a_round(size: int, engine: str) -> None:
    problem = problem_of("gpt2", FORMATS["int8"], round_size=size)
    whole = search(engine, problem)
    stops = (1, 2, 5, len(whole) // 2, len(whole) - 1, len(whole))
    for stop in stops if engine == "suffix" else stops[2:4]:
        rest = search(engine, problem, done=whole[:stop])
        assert outcomes(rest) == outcomes(whole[stop:])
        assert all(abs(a.after - b.after) < 1e-12 for a, b in zip(rest, whole[stop:], strict=True))


def test_the_length_of_a_round_is_no_matter_where_nothing_is_rounded() -> None:
    found = [search("suffix", problem_of("llama", FORMATS["float32"], round_size=size)) for size in (1, 4, 1000)]
    assert outcomes(found[0]) == outcomes(found[1]) == outcomes(found[2])


def test_removals_of_a_round_wait_and_then_enter_together() -> None:
    """The engine is told of them at the end of a round, of the stage or of five tests."""
    problem = problem_of("gpt2", FORMATS["int8"])
    engine = ChangeReference(problem)
    told: list[list[int]] = []
    remove = engine.remove

    def noted(edges: list[int]) -> None:
        if len(edges):
            told.append(list(edges))
        remove(edges)

    engine.remove = noted  # type: ignore[method-assign, assignment]
    decisions = list(acdc(engine, Order(), 0.01, round_size=5))
    removed = {decision.edge for decision in decisions if decision.removed}
    rounds = [edges for edges in told if set(edges) <= removed]
    assert max(map(len, rounds)) > 1
    assert all(len(edges) <= 5 for edges in rounds)


@pytest.mark.gpu
@pytest.mark.parametrize("store", ["plain", "packed"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen"])
def test_on_a_gpu_the_decisions_are_the_cpu_s(family: str, store: str) -> None:
    """Packed: full precision comes from pinned memory of the host, MLPs too."""
    model = random_model(family, dtype=torch.float64)
    setting = {"metric": "kl", "precision": FORMATS["int8"], "focus": "receiver", "arithmetic": "changes"}
    cpu, card = (
        search("suffix", build_problem(on, random_prompts(model), store=store, **setting))  # type: ignore[arg-type]
        for on in (model, model.to(device="cuda"))
    )
    assert outcomes(card) == outcomes(cpu)
    assert max(abs(a.effect - b.effect) for a, b in zip(card, cpu, strict=True)) < 1e-9
