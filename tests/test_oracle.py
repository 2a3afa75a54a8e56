"""The package beside an implementation that shares no numerics with it: formats, losses, whole searches.

A fixed list of random cases, so that every run compares the same; ``make oracle`` goes on with others.
"""

from __future__ import annotations

import ast
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import numpy_oracle
from support.comparison import NOISE, Tally, compare_circuits, compare_formats, compare_searches
from support.numpy_oracle.circuit import NONE, Network
from support.numpy_oracle.graph import Shape, edges
from support.numpy_oracle.losses import loss
from support.numpy_oracle.search import Loss, Rule, search
from support.places import GOLDEN
from support.quiet_models import quiet_model, quiet_prompts
from support.random_cases import FORMATS, Both, draw, facts_of
from support.small_models import FAMILIES

from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.order import Order
from pahq.config.cell import METRICS
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.model.weights import Model
from pahq.precision.formats import Format, round_trip
from pahq.search.acdc import acdc
from pahq.search.speculate import speculate
from pahq.tasks.task import Prompts
from pahq.verify.recorded import read_recorded

CASES = range(90)
ENGINES = {"reference": (ReferenceEngine, acdc), "suffix": (SuffixEngine, speculate)}


@pytest.fixture(scope="module")
def tally() -> Tally:
    """All cases in both engines and both dtypes. About 40 s: every test below that asks for it reads it only."""
    found = Tally()
    for number in CASES:
        both = Both(draw(number))
        compare_circuits(both, found)
        compare_searches(both, found)
    return found


def told(tally: Tally, dtype: str, *, kl: bool) -> list[str]:
    return [c.text for c in tally.complaints if c.dtype == dtype and (c.metric == "kl") == kl]


class TestRandomSearches:
    def test_enough_is_compared_and_of_every_kind(self, tally: Tally) -> None:
        assert tally.searches >= 300
        assert tally.circuits == 3 * len(CASES)
        tests = sum(tally.tests.values())
        assert tests > 11_000
        assert 0.2 < tally.removed / tests < 0.8
        kinds = {
            *FAMILIES,
            *METRICS,
            "corrupted",
            "zero",
            "mean",
            "acdc",
            "pahq",
            "rtn-q",
            "receiver",
            "sender",
            "both",
        }
        assert not {kind for kind in kinds | {name for name, _ in FORMATS} if tally.kinds[kind] < 2}

    @pytest.mark.parametrize("kl", [True, False], ids=["kl", "other metrics"])
    def test_float64_agrees(self, tally: Tally, kl: bool) -> None:
        """Circuits within 1e-10, the same tests in the same order, effects within 1e-10 and the same decisions."""
        assert told(tally, "float64", kl=kl) == []

    def test_hardly_a_test_is_a_tie_in_float64(self, tally: Tally) -> None:
        assert sum(count for way, count in tally.ties.items() if "float64" in way) <= 5

    @pytest.mark.parametrize("kl", [True, False], ids=["kl", "other metrics"])
    def test_float32_errs_by_its_noise_alone(self, tally: Tally, kl: bool) -> None:
        """In the states that its own decisions made: effects within noise, other decisions only where the margin is."""
        assert told(tally, "float32", kl=kl) == []

    def test_no_float32_decision_is_other_than_the_oracles(self, tally: Tally) -> None:
        """Hundreds of tests lie within float32's noise; float64 settles those that it could decide."""
        for engine in ENGINES:
            way = f"{engine} float32"
            assert tally.ties[way] > 300
            assert tally.settled[way] > 50
            assert (tally.flipped[way], tally.differed[way]) == (0, 0)
            assert tally.settled[f"{engine} float64"] == 0


def test_formats_are_the_same_bit_for_bit() -> None:
    found = Tally()
    for seed in range(15):
        compare_formats(seed, found)
    assert [complaint.text for complaint in found.complaints] == []
    assert found.weights > 200_000


def test_zero_has_no_sign_in_nf4() -> None:
    """docs/formats.md: zero comes back as zero, and a negative one survives in bf16, fp16 and fp8 alone."""
    back = round_trip(torch.tensor([[[1.0], [0.0]]]), Format("nf4", "group64"))
    assert not torch.signbit(back).any()


def measured(network: Network, metric: str, at: tuple, targets: dict[str, np.ndarray]) -> Loss:
    """The oracle's loss of a state: edges present, and a focus."""
    clean = network.clean_logits[at]
    return lambda present, focus=NONE: loss(metric, network.logits(present, focus)[at], clean, targets)


def oracle_losses(model: Model, prompts: Prompts, metric: str) -> tuple[float, float]:
    """The full circuit's loss, and the one without embed->logits."""
    weights = {name: value.numpy() for name, value in model.tensors().items()}
    facts = facts_of(model, split=False, direct=True)
    network = Network(facts, weights, weights, prompts.clean.numpy(), prompts.corrupted.numpy())
    at = tuple(prompts.items.numpy().T)
    targets = {name: value.numpy() for name, value in prompts.targets.items()}
    everything, measure = frozenset(network.edges), measured(network, metric, at, targets)
    return measure(everything, NONE), measure(everything - {"embed->logits"}, NONE)


def engine_losses(model: Model, prompts: Prompts, metric: str, engine: str) -> tuple[float, float]:
    problem = build_problem(model, prompts, metric=metric)
    edge = problem.graph.index_of("embed->logits")
    built = ENGINES[engine][0](problem)
    return built.measure([Trial(edge, ())])[0], built.measure([Trial(edge, (edge,))])[0]


QUIET = [
    {"apart": apart, "stretch": stretch, "offset": offset, "seed": seed}
    for apart in (1e-4, 1e-3, 1e-2)
    for stretch, offset in ((1.0, 0.0), (1.0, -300.0), (10.0, 0.0))
    for seed in range(3)
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["tracr", "gpt2", "llama"])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-8)])
def test_a_small_kl_is_right_given_its_residual_stream(engine: str, family: str, dtype: str, bound: float) -> None:
    """Streams that are the same numbers in both dtypes; also with logits 300 lower, and 10 times as large."""
    errors = {}
    for settings in QUIET:
        model, prompts = quiet_model(family, **settings), quiet_prompts(settings["seed"])
        expected = oracle_losses(model, prompts, "kl")
        found = engine_losses(model.to(dtype=getattr(torch, dtype)), prompts, "kl", engine)
        if 1e-12 < expected[1] < 1e-3:
            errors[str(settings)] = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    assert len(errors) > 15
    assert {case: error for case, error in errors.items() if error > bound} == {}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", sorted(set(METRICS) - {"kl"}))
def test_other_losses_are_off_by_no_more_than_a_logit_is(engine: str, metric: str) -> None:
    for settings in QUIET:
        model, prompts = quiet_model("gpt2", **settings), quiet_prompts(settings["seed"])
        expected = oracle_losses(model, prompts, metric)
        scale = 10 * settings["stretch"] - settings["offset"]  # about the largest logit's
        for dtype, bound in (("float64", 1e-12), ("float32", NOISE * scale)):
            found = engine_losses(model.to(dtype=getattr(torch, dtype)), prompts, metric, engine)
            assert found == pytest.approx(expected, rel=0, abs=bound), (settings, dtype)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_effect_of_exactly_the_threshold_keeps_its_edge(engine: str) -> None:
    """All numbers are multiples of small powers of two, so that no sum is rounded and the tie is one."""
    model = quiet_model("tracr", 0, apart=0.3)
    coarse = {"W_E": 2**6, "W_pos": 2**6, "W_U": 4, "b_U": 4}
    model = replace(model, **{name: (getattr(model, name) * n).round() / n for name, n in coarse.items()})
    prompts = quiet_prompts(0)
    full, cut = oracle_losses(model, prompts, "mse")
    assert full == 0 < cut
    problem = build_problem(model, prompts, metric="mse")
    build, run = ENGINES[engine]
    for threshold, removed in ((cut, False), (math.nextafter(cut, math.inf), True)):
        decisions = list(run(build(problem), Order(), threshold))
        taken = {str(problem.graph.edges[decision.edge]): decision for decision in decisions}
        assert taken["embed->logits"].effect == cut
        assert taken["embed->logits"].removed == removed
        assert Rule(threshold).removes(cut) == removed
    assert not Rule(1.0).removes(math.nan)


@pytest.mark.parametrize("folder", ["attn2l_t0.008", "tracr_reverse", "tracr_proportion"])
def test_the_oracle_meets_the_original_codes_runs(folder: str) -> None:
    """What ACDC's own code recorded, test by test: the oracle is held by more than the package."""
    for run in read_recorded(GOLDEN / folder):
        model = run.model.to(dtype=torch.float64)
        weights = {name: value.numpy() for name, value in model.tensors().items()}
        facts, order = facts_of(model, split=run.split_embed, direct=run.direct_edges), run.prompts.position_order
        tokens = run.prompts.clean.numpy(), run.prompts.corrupted.numpy()
        places = None if order is None else order.numpy()
        network = Network(facts, weights, weights, *tokens, ablation=run.ablation, order=places)
        at = tuple(run.prompts.items.numpy().T)
        targets = {name: value.numpy() for name, value in run.prompts.targets.items()}
        targets.setdefault("columns", np.arange(network.clean_logits.shape[-1]))
        rule = Rule(run.threshold, run.absolute, run.order.indices, run.order.senders == "nearest")
        found = search(facts, measured(network, run.metric, at, targets), rule)
        for ours, theirs in zip(found, run.tests, strict=True):
            assert (ours.edge, ours.removed) == (theirs.edge, not theirs.kept)
            assert abs(ours.effect - theirs.effect) < 1e-5


@pytest.mark.parametrize(
    ("shape", "addition", "direct"),
    [
        (Shape(4, 8, 8, mlp=False, split=False, direct=True), 1281, 96),  # attn-only-4l
        (Shape(4, 1, 1, mlp=True, split=True, direct=True), 94, 12),  # tracr-reverse
        (Shape(2, 1, 1, mlp=True, split=True, direct=True), 32, 6),  # tracr-proportion
        (Shape(2, 4, 4, mlp=False, split=False, direct=True), 81, 24),
        (Shape(4, 4, 4, mlp=True, split=False, direct=True), 479, 48),
        (Shape(2, 9, 3, mlp=True, split=False, direct=True), None, 30),
    ],
)
def test_the_graph_has_the_edges_of_acdcs_own(shape: Shape, addition: int | None, direct: int) -> None:
    ours = edges(shape)
    theirs = build_graph(ModelShape(shape.layers, shape.heads, shape.kv_heads, shape.mlp, shape.split))
    assert sorted(ours) == sorted(str(edge) for edge in theirs.edges)
    assert sum("->" not in name for name in ours) == direct
    assert addition is None or len(ours) == addition + direct


def test_the_oracle_shares_nothing_with_the_package() -> None:
    for path in Path(numpy_oracle.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.removeprefix("support.").split(".")[0]
                assert top in {"numpy", "numpy_oracle"} or top in sys.stdlib_module_names, f"{path.name}: {name}"
