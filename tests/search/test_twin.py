"""The float64 twin: which engine it is, that it sums in another order than a float64 search, and what it takes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.changereference import ChangeReference
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import ChangeEngine, SuffixEngine
from pahq.engine.suffix.budget import least_bytes
from pahq.precision.wide import WideStore
from pahq.search.acdc import Decision
from pahq.search.start import start_search
from pahq.search.twin import TIGHT_BYTES, doubts_for, twin_bytes, twin_engine

INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16")


def problem_of(
    focus: str = "receiver", arithmetic: str = "network", dtype: torch.dtype = torch.float32, **sizes: Any
) -> Problem:
    model = random_model("gpt2", dtype=dtype, **sizes)
    setting = {"metric": "kl", "focus": focus, "arithmetic": arithmetic, "round_size": 4}
    return build_problem(model, random_prompts(model), precision=INT8, **setting)  # type: ignore[arg-type]


def ask(engine: Any, problem: Problem) -> list[float]:
    edges = [edge for edge in range(len(problem.graph.edges)) if problem.graph.edges[edge].receiver.kind == "logits"]
    losses: list[float] = engine.measure([Trial(edges[0], (edge,)) for edge in edges])
    return losses


@pytest.mark.parametrize("focus", ["receiver", "sender", "both", "none"])
@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_a_twin_measures_in_float64_what_the_search_measures(focus: str, arithmetic: str) -> None:
    """By the fast engine, where it knows the focus."""
    problem = problem_of(focus, arithmetic)
    twin = twin_engine(problem)
    slow = {"network": ReferenceEngine, "changes": ChangeReference}[arithmetic]
    fast = {"network": SuffixEngine, "changes": ChangeEngine}[arithmetic]
    assert type(twin) is (slow if focus in ("sender", "both") else fast)
    exact, rough = ask(slow(problem.in_float64()), problem), ask(slow(problem), problem)
    assert ask(twin, problem) == pytest.approx(exact, abs=1e-12)
    assert rough == pytest.approx(exact, abs=1e-4)
    assert rough != pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_the_twin_of_a_float64_search_adds_up_in_another_order(arithmetic: str) -> None:
    """Or it would repeat the search's own roundings, and say that there are none."""
    problem = problem_of(arithmetic=arithmetic, dtype=torch.float64)
    kind = SuffixEngine if arithmetic == "network" else ChangeEngine
    mine, twins = ask(kind(problem), problem), ask(twin_engine(problem), problem)
    assert mine == pytest.approx(twins, abs=1e-13)
    asked: list[dict[str, bool]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"pahq.search.twin.{kind.__name__}", lambda of, **options: asked.append(options))
        twin_engine(problem)
    assert asked == [dict.fromkeys(("composites", "positions", "cheap_losses"), False)]  # of all that saves work
    doubts = doubts_for(problem, 0.01)
    decisions = list(start_search("suffix", problem, Order(), 0.01, judge=doubts))
    doubts.finish()
    told = doubts.record(decisions)
    assert 0 < told["largest_error"] < 1e-13
    assert told["settled"] == 0


def test_a_twin_may_be_somebody_elses() -> None:
    problem, made = problem_of(), []
    doubts = doubts_for(problem, 0.01, twin=lambda: made.append(1) or ReferenceEngine(problem.in_float64()))
    doubts(Decision(0, len(problem.graph.edges) - 1, 0.0, 0.01, False))
    assert made == [1]


def test_nothing_is_settled_in_float64_nor_where_it_is_not_asked_for() -> None:
    near = Decision(0, len(problem_of().graph.edges) - 1, 0.0, 0.01, False)
    assert doubts_for(problem_of(), 0.01)(near).rough == (0.0, 0.01)
    assert doubts_for(problem_of(), 0.01, settle=False)(near) == near
    harmful = Decision(0, near.edge, 0.01, 0.0, True)
    assert doubts_for(problem_of(), 0.01)(harmful) == harmful
    assert doubts_for(problem_of(), 0.01, absolute=True)(harmful).rough == (0.01, 0.0)
    assert doubts_for(problem_of(dtype=torch.float64), 0.01)(near) == near


@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_what_is_in_doubt_is_settled_in_the_state_the_focus_and_the_round_of_the_search(arithmetic: str) -> None:
    """Losses that are no numbers are always in doubt, so that the twin takes a whole search's decisions again."""
    problem = problem_of(arithmetic=arithmetic)
    exact = list(start_search("suffix", problem.in_float64(), Order("ascending", "farthest"), 0.02, absolute=True))
    doubts = doubts_for(problem, 0.02, absolute=True)
    for decision in exact:
        found = doubts(Decision(decision.index, decision.edge, math.nan, math.nan, False))
        assert found.removed == decision.removed
        assert (found.before, found.after) == pytest.approx((decision.before, decision.after), abs=1e-11)
    assert any(d.effect < 0 and not d.removed for d in exact)
    assert 5 < sum(d.removed for d in exact) < len(exact) - 5


# ---- memory under a ceiling


@pytest.mark.parametrize("arithmetic", ["network", "changes"])
def test_a_twin_under_a_ceiling_keeps_few_widened_weights_and_stays_within_its_plan(arithmetic: str) -> None:
    problem = problem_of(arithmetic=arithmetic)
    free, tight = twin_engine(problem), twin_engine(problem, tight=True)
    assert isinstance(free, SuffixEngine)
    assert isinstance(tight, SuffixEngine)
    assert tight.budget.peak_bytes <= twin_bytes(problem) + problem.weight_bytes
    assert free.budget.peak_bytes > 0
    rooms = [_room(engine) for engine in (free, tight)]
    assert rooms[1] == TIGHT_BYTES < rooms[0]
    assert ask(tight, problem) == pytest.approx(ask(free, problem), abs=1e-12)


def _room(engine: SuffixEngine) -> int:
    """Bytes of widened weights that all stores of an engine may keep."""
    problem = engine.problem
    stores = [store for store in (problem.store, problem.changes) if store is not None]
    assert all(isinstance(store, WideStore) for store in stores)
    return sum(store._room for store in stores if isinstance(store, WideStore))


SIZES = {
    "layers": 3,
    "d_model": 48,
    "d_head": 16,
    "d_mlp": 96,
    "d_vocab": 300,
    "d_vocab_out": 21389,
}  # ends of just under 8 MiB


@pytest.mark.parametrize(
    ("arithmetic", "metric", "cache"),
    [
        ("network", "kl", "float32"),
        ("network", "nll", "bf16"),
        ("changes", "kl", "float32"),
        ("changes", "nll", "float32"),
    ],
)
def test_a_twins_bytes_are_enough_for_one_trial_and_hardly_more(arithmetic: str, metric: str, cache: str) -> None:
    """What its search needs at least, as the engine itself plans it, is at hand when kept weights have theirs too."""
    model = random_model("gpt2", dtype=torch.float32, **SIZES)
    prompts = random_prompts(model, batch=4, length=8)
    many = prompts.items[:1].repeat(70, 1)  # more items than rows: a loss may hold one row for each
    targets = {name: value[:1].repeat(70, *[1] * (value.ndim - 1)) for name, value in prompts.targets.items()}
    prompts = replace(prompts, items=many, targets=targets)
    problem = build_problem(
        model,
        prompts,
        metric=metric,
        precision=INT8.model_copy(update={"cache": cache}),
        focus="receiver",
        arithmetic=arithmetic,
    )
    wide = problem.in_float64(TIGHT_BYTES)
    needed = least_bytes(wide) - problem.weight_bytes + TIGHT_BYTES
    spare = twin_bytes(problem) - needed
    assert 0 <= spare < 3 << 19


def test_what_the_search_holds_in_16_bits_the_twin_holds_in_64() -> None:
    """A run that was narrowed leaves no less to spare than one that was not."""
    model = random_model("gpt2", dtype=torch.float32, d_vocab=50, layers=3, d_head=64, d_model=64, d_mlp=64)
    prompts, spares = random_prompts(model, batch=256, length=8), []
    for cache in ("float32", "bf16"):
        precision = INT8.model_copy(update={"cache": cache})
        problem = build_problem(model, prompts, metric="kl", precision=precision, focus="receiver")
        needed = least_bytes(problem.in_float64(TIGHT_BYTES)) - problem.weight_bytes + TIGHT_BYTES
        spares.append(twin_bytes(problem) - needed)
    assert problem.corrupted.nbytes > 3 << 20  # which the twin has four times, and two of them in float32
    assert spares[1] >= spares[0] >= 0
