"""What a budget counts is what an engine holds: estimates against the tensors themselves, and parts against the sum."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import synthetic
import torch
from support.allocated import peak_bytes
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import ChangeEngine, SuffixEngine, budget
from pahq.engine.suffix.budget import GIB, Budget, before_bytes, least_bytes, plan, reference_bytes
from pahq.errors import PahqError
from pahq.model.run import run_senders, streams

FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gemma3", "olmo2"])
INT8 = PrecisionConfig(name="int8", format="int8", mlp="bf16")
BF16_PRODUCTS = PrecisionConfig(name="bf16", format="bf16", mlp="bf16", compute="bf16")


def problem_of(
    family: str = "gpt2", *, layers: int = 2, batch: int = 3, metric: str = "kl", **setting: object
) -> Problem:
    """Every position is read, so that every node is needed everywhere."""
    model = random_model(family, layers=layers)
    prompts = random_prompts(model, batch=batch, every_item=True)
    return build_problem(model, prompts, metric=metric, **setting)  # type: ignore[arg-type]


def held_streams(problem: Problem) -> int:
    """Bytes of the residual streams before heads and MLPs, of the clean and of the ablated run."""
    network = problem.store.network()
    runs = run_senders(network, problem.clean), problem.corrupted
    return sum(x.nbytes for run in runs for part in streams(network, run) for x in part)


@FAMILIES
def test_what_the_reference_takes_is_counted_to_the_byte(family: str) -> None:
    problem = problem_of(family)
    stream, network = problem.corrupted.final.nbytes, problem.store.network()
    expected = problem.weight_bytes + budget.WORKSPACE + 2 * problem.corrupted_senders.nbytes
    expected += sum(x.nbytes for layer in problem.corrupted_projections for x in layer.values())
    expected += sum(x.nbytes for part in streams(network, problem.corrupted) for x in part) + stream
    assert reference_bytes(problem) == expected + 3 * problem.store.config.heads * stream  # one layer's inputs


def values_of_a_search(family: str, layers: int) -> tuple[int, int, int]:
    """Of a whole graph, with the least memory: bytes that are held, bytes that were counted for it, and of a stream."""
    problem = problem_of(family, layers=layers)
    least = least_bytes(problem)
    engine = SuffixEngine(problem, memory_bytes=least)
    engine.window(0)  # down to the lowest stage: every layer has been entered
    state, run = engine._state, problem.corrupted
    assert state.inputs._kept == {}
    values = [*state.z, *state.raw.values(), *state.projections.values(), *state.mlp, *state.start]
    counted = least - problem.weight_bytes - budget.WORKSPACE - engine.budget.window_bytes
    return sum(x.nbytes for x in values) + run.nbytes, counted, run.final.nbytes


@pytest.mark.parametrize(
    ("family", "most"),
    [
        *((family, 1.06) for family in ("gpt2", "attention-only", "llama", "gemma2")),
        *((family, 1.13) for family in ("gemma3", "olmo2")),  # projections count as wide as z, a number wider there
    ],
)
def test_the_least_that_is_asked_for_is_little_more_than_a_search_holds(family: str, most: float) -> None:
    """A twentieth of what every layer holds, and the temporaries of one layer: some dozens of streams."""
    (held, counted, stream), (more_held, more_counted, _) = (values_of_a_search(family, layers) for layers in (2, 7))
    assert 1 < (more_counted - counted) / (more_held - held) < most
    assert held + 20 * stream < counted < 1.05 * held + 40 * stream


@FAMILIES
def test_what_changes_are_added_to_is_counted_to_the_byte(family: str) -> None:
    problem = problem_of(family, precision=INT8, arithmetic="changes")
    engine, config = ChangeEngine(problem), problem.store.config
    engine.window(0)
    current = engine._current
    for layer in range(config.layers):
        current.before(layer)
        if config.post_norms:
            current.sum_of_heads(layer)
            current.sent(layer)
    for receiver in problem.graph.head_inputs:
        if config.qk_norm and not config.qk_joint and receiver.letter != "v":
            current.raw(receiver)
    kept = [*current._raw.values(), *current._sums.values(), *current._sent.values()]
    kept += [x for before in current._before.values() for x in before]
    assert before_bytes(problem) == sum(x.nbytes for x in kept)
    asked, edge = ChangeEngine(problem), problem.graph.incoming(Receiver("head", 0, 0, "v"))[0]
    asked.measure([Trial(edge, (edge,))])  # which keeps no more, and what norms need alone
    own = asked._current
    assert own._before.keys() == current._before.keys()
    for some, every in ((own._raw, current._raw), (own._sums, current._sums), (own._sent, current._sent)):
        assert some.keys() <= every.keys()  # type: ignore[operator]
        assert bool(some) == bool(every)
    assert before_bytes(problem.in_full_precision()) == 0
    apart = least_bytes(problem) - least_bytes(problem.in_full_precision())
    assert apart == before_bytes(problem) + problem.weight_bytes - problem.in_full_precision().weight_bytes


def test_a_trial_of_a_window_takes_what_is_planned_for_it() -> None:
    """Of a model of usual proportions, in which every node changes: no more bytes, and hardly fewer."""
    shape = synthetic.Shape(layers=4, heads=8, d_model=256, d_head=32, vocabulary=503)
    with torch.no_grad():
        problem = build_problem(synthetic.make_model(shape), synthetic.make_prompts(shape, 6), metric="kl")
    engine, edge = SuffixEngine(problem, memory_bytes=GIB), problem.graph.incoming(Receiver("mlp", 0))[0]
    trial, peaks = Trial(edge, (edge,)), []
    engine.measure([trial])
    for count in (2, 6):
        engine._wave, engine._answers = None, {}  # which is given back before the next one is made
        peaks.append(peak_bytes(lambda count=count: engine.measure([trial] * count)))  # type: ignore[misc]
    assert engine._wave is not None
    stacks = engine._wave._changes._stacks
    assert stacks is not None
    changes = sum(stack.nbytes for stack in stacks.values()) / 6
    planned = budget.trial_bytes(problem, 6 * shape.positions, 4) + changes
    assert 0.8 * planned < (peaks[1] - peaks[0]) / 4 < planned


def test_the_least_window_is_one_trial_and_without_mlps_it_holds_none_of_their_outputs() -> None:
    problem = problem_of()
    assert (
        plan(problem, least_bytes(problem)).window_bytes == budget.trial_bytes(problem, 15, 8) + 2 * 8 * budget.TILE
    )  # one trial, and logits with what is made of them
    tall = random_model("gpt2", layers=5, d_mlp=100), random_model("attention-only", layers=5)
    made = [build_problem(model, random_prompts(model), metric="kl") for model in tall]
    more = budget.trial_bytes(made[0], 7, 8) - budget.trial_bytes(made[1], 7, 8)
    scores = 2 * 3 * 5  # of three heads at five positions, and their patterns: narrower than the hidden layer
    assert more == 7 * 8 * (5 * 12 + 2 * 100 - scores)  # outputs of all MLPs, and one hidden layer twice


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_a_trial_of_many_tokens_takes_what_was_planned_for_scores_and_patterns(family: str) -> None:
    model = random_model(family, dtype=torch.float32, context=400)
    problem = build_problem(model, random_prompts(model, batch=2, length=400), metric="kl")
    searched = SuffixEngine(problem, memory_bytes=least_bytes(problem))
    edge = problem.graph.incoming(Receiver("head", 0, 0, "v"))[0]
    searched.window(edge)
    assert peak_bytes(lambda: searched.measure([Trial(edge, (edge,))])) <= budget.trial_bytes(problem, 2 * 400, 4)


def granted(found: Budget, problem: Problem) -> int:
    """What a plan gives in all, beyond one trial's window."""
    least = plan(problem, least_bytes(problem))
    parts = ("input_bytes", "gathered_bytes", "difference_bytes", "composite_bytes", "head_logits_bytes")
    assert all(asdict(found)[name] >= 0 == asdict(least)[name] for name in parts)
    given = sum(asdict(found)[name] for name in parts) + found.window_bytes - least.window_bytes
    given += held_streams(problem) if found.hold_streams else 0
    tiles = 2 * budget.TILES * problem.reference.element_size()  # logits, and what is made of them
    return given + tiles * (found.tile - budget.TILE)


@pytest.mark.parametrize("sizes", ["CPU", "CARD"])
@pytest.mark.parametrize("metric", ["kl", "nll"])
def test_what_a_plan_gives_adds_up_to_its_peak(metric: str, sizes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "sizes_for", lambda device: getattr(budget, sizes))
    problem = problem_of(metric=metric)
    least = least_bytes(problem)
    assert granted(plan(problem, least), problem) == 0
    for more in (0, 1, 10_000, 100_000, 10**6, 10**8, 10**9, 4 * GIB):
        found = plan(problem, least + more)
        assert found.peak_bytes == least + granted(found, problem) <= least + more
        assert found.hold_streams == (more >= 100_000)
    assert (found.tile > budget.TILE) == (sizes == "CARD" and metric == "kl")
    network = problem.store.config
    inputs = network.layers * (3 * network.heads + 1)
    assert found.input_bytes == inputs * problem.corrupted.final.nbytes  # every input of a head or an MLP
    caps = budget.COMPOSITE_BYTES, budget.HEAD_LOGITS_BYTES, budget.GATHERED_BYTES
    assert (found.composite_bytes, found.head_logits_bytes, found.gathered_bytes) == caps


def test_nothing_is_laid_by_for_composites_where_products_are_rounded() -> None:
    assert plan(problem_of(precision=BF16_PRODUCTS), GIB).composite_bytes == 0


def test_a_share_of_what_is_not_somebody_elses_is_a_ceiling_of_its_own() -> None:
    problem = problem_of()
    assert plan(problem, GIB, share=0.25, beside=GIB // 2) == plan(problem, GIB // 8)


@pytest.mark.parametrize(("share", "beside"), [(1.0, 0), (0.25, 123_456_789)])
def test_what_is_said_to_be_needed_is_enough_and_hardly_more(share: float, beside: int) -> None:
    problem = problem_of()
    with pytest.raises(PahqError) as caught:
        plan(problem, beside + 1000, share, beside)
    found = re.search(r"memory_gb=(\S+) is too little: .* at least (\S+) in all", str(caught.value))
    assert found is not None
    told, needed = map(float, found.groups())
    assert told == pytest.approx((beside + 1000) / GIB, rel=5e-3)
    assert plan(problem, int(needed * GIB), share, beside)
    with pytest.raises(PahqError, match="too little"):
        plan(problem, int(0.99 * needed * GIB), share, beside)


@pytest.mark.parametrize(("sizes", "spare"), [("CPU", 32 << 20), ("CARD", 512 << 20)])
@pytest.mark.parametrize("batch", [3, 200])
def test_without_a_ceiling_it_is_the_references_memory_and_a_little(
    sizes: str, spare: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 MiB beside it, on a GPU half a GiB; where the least that a search can do with is more, beside that."""
    monkeypatch.setattr(budget, "sizes_for", lambda device: getattr(budget, sizes))
    problem = problem_of(layers=30, batch=batch)
    usual, least = reference_bytes(problem), least_bytes(problem)
    assert (usual > least) == (batch == 200)
    assert plan(problem, None) == plan(problem, max(usual, least) + spare)
    assert plan(problem, None, share=0.5, beside=1000) == plan(problem, None)


@pytest.mark.parametrize(("memory", "spare"), [(80 * GIB, 10 * GIB), (2 * GIB, GIB // 2)])
def test_a_gpu_has_sizes_of_its_own(memory: int, spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    assert budget.sizes_for(torch.device("cpu")) == budget.CPU
    assert budget.sizes_for(torch.device("cuda", 0)) == replace(budget.CARD, spare_bytes=spare)
