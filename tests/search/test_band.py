"""Audit by band: the calibration against exact probabilities, the search against ACDC and against no audit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import small_models
from support.cost_engines import GRAPH, Costs

from pahq.circuits.order import Order
from pahq.config.band import BANDS, BandConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.precision.store import focus_of
from pahq.search.acdc import Decision, Judge, acdc, as_measured
from pahq.search.band import (
    Auditor,
    Calibration,
    banded,
    layers_of,
    record,
)
from pahq.search.sample import drawn, upper_rate
from pahq.search.speculate import speculate

random_model, random_prompts = small_models.random_model, small_models.random_prompts
EARLY = BandConfig(share=0.1, near=0.3, first=3, confidence=0.9)
NARROW = BandConfig(
    share=0.0, first=0, near=1e-300, least=0.0
)  # a band of nothing: no test is measured again, whatever it says
ENDLESS = BandConfig(near=2.0, enough=10**9)


# ---- the band and what its sample bounds


def answer(index: int, low: float, full: float, threshold: float = 0.1) -> Decision:
    return Decision(index, index, 1.0, 1.0 + full, full < threshold, audited=True, low=(5.0, 5.0 + low))


def one(**settings: float) -> Calibration:
    """After one test near the threshold the band is what was seen."""
    usual = {"share": 0.0, "first": 0, "enough": 1, "least": 0.0, "safety": 2.0, "near": 0.5}
    return Calibration(BandConfig(**(usual | settings)), 0.1)


def unaudited(index: int, low: float) -> Decision:
    return Decision(index, index, 0.0, low, low < 0.1)


def test_differences_are_taken_relative_to_effect_and_threshold() -> None:
    known = one(near=0.9)
    known.note(answer(0, 0.9, 0.8))
    assert known.largest == pytest.approx(0.1 / 1.0)
    assert known.band == pytest.approx(0.2)
    assert known.wants(unaudited(1, 0.14))  # .04 away, of .24
    assert not known.wants(unaudited(1, 0.16))  # .06 away, of .26
    assert not known.wants(unaudited(1, 0.0))
    assert not known.wants(unaudited(1, -0.14))
    known.absolute = True
    assert known.wants(unaudited(1, -0.14))
    assert known.wants(unaudited(1, math.nan))


def test_the_band_is_wide_until_enough_tests_near_the_threshold_were_measured() -> None:
    known = Calibration(BandConfig(share=0.0, first=2, enough=4, safety=2.0, near=0.5), 0.1)
    assert [known.wants(unaudited(i, 0.0)) for i in range(4)] == [True, True, False, False]
    for i in range(10):
        known.note(answer(i, 0.0, 0.001))  # far away: drawn, they widen the band, and count for nothing else
    for i in range(3):
        known.note(answer(10 + i, 0.11, 0.12))
        assert known.band == 0.5
        assert known.wants(unaudited(20, 0.29))  # .19 away, of .39
        assert not known.wants(unaudited(20, 0.31))  # .21 away, of .41
    known.note(answer(13, 0.11, 0.12))
    assert known.band == pytest.approx(2 * 0.01 / 0.21)


def test_each_layer_begins_with_a_wide_band_and_none_ends_with_an_empty_one() -> None:
    """Heads and MLP of a layer are one layer, the logits another; a search goes through each once."""
    layer = layers_of(GRAPH)
    known = Calibration(BandConfig(share=0.0, first=0, safety=2.0, hopeless=1.0), 0.1, layer_of=layer)
    by_layer: dict[object, list[int]] = {}
    for edge in reversed(range(len(GRAPH.edges))):
        by_layer.setdefault(layer(edge), []).append(edge)
    assert len(by_layer) == 3
    for edges in by_layer.values():
        for count, edge in enumerate(edges[:6]):
            assert known.wants(Decision(0, edge, 0.0, 0.13, False)) == (count < 4)  # .03 away, of .23
            assert known.band == (0.2 if count < 4 else 0.05)
            assert known.wants(Decision(0, edge, 0.0, 0.109, False))
            known.note(Decision(0, edge, 1.0, 1.11, False, audited=True, low=(5.0, 5.11)))


def test_the_band_is_never_narrower_than_the_least_even_where_near_is() -> None:
    assert Calibration(BandConfig(near=0.01, least=0.05), 0.1).band == 0.05


def test_what_lies_on_the_edge_of_a_band_lies_within_it() -> None:
    """For what is audited, for what counts as near and for what is a miss alike: .5 away, of 1."""
    known = Calibration(BandConfig(share=1.0, first=0, near=0.5, least=0.0, enough=2, hopeless=1.0), 0.25)
    unsampled = Calibration(BandConfig(share=0.0, first=0, near=0.5, least=0.0, enough=2, hopeless=1.0), 0.25)
    assert unsampled.wants(unaudited(0, 0.75))
    known.note(answer(0, 0.75, 0.125, 0.25))
    assert (known.drawn, known.outside, known.missed) == (1, 0, 0)
    assert known.layers == {None: 1}


def test_before_anything_is_measured_a_band_is_wide_and_nothing_is_known() -> None:
    known = Calibration(BandConfig(near=0.3, enough=1), 0.1)
    assert (known.band, known.largest, known.calibrated, known.hopeless) == (0.3, 0.0, False, False)
    assert Calibration(BandConfig(near=0.3, enough=0), 0.1).band == 0.05  # the least


def test_a_large_difference_makes_the_first_band_wider() -> None:
    known = Calibration(BandConfig(safety=2.0), 0.1)
    known.note(answer(0, 0.11, 0.2))
    assert known.band == pytest.approx(2 * 0.09 / 0.21)


def test_every_audited_test_widens_the_band_and_none_narrows_it() -> None:
    known = one()
    known.note(answer(0, 0.11, 0.12))
    known.note(answer(1, 0.11, 0.2))
    assert known.band == pytest.approx(2 * 0.09 / 0.21)
    known.note(answer(2, 0.11, 0.12))
    assert known.band == pytest.approx(2 * 0.09 / 0.21)


def test_a_format_is_given_up_only_when_the_tests_so_far_are_sure() -> None:
    """Nineteen of 28 in the band are more than half with 95% confidence, 18 of 27 are not; unaudited ones count."""
    known = Calibration(BandConfig(share=0.0, safety=1.0), 0.1)
    for i in range(9):
        known.note(unaudited(i, 0.0))
    for i in range(19):
        assert not known.hopeless
        known.note(answer(9 + i, 0.1, 0.15))
    assert known.hopeless_at == 27


def test_a_nan_makes_the_band_endless_and_gives_up() -> None:
    known = one()
    known.note(answer(0, math.nan, 0.8))
    assert known.band == math.inf
    known = Calibration(BandConfig(), 0.1)
    for i in range(5):  # .5^5 < .05
        assert not known.hopeless
        known.note(answer(i, math.nan, 0.8))
    assert known.hopeless


def test_where_only_changes_are_low_the_band_is_a_multiple_of_the_format_s_own_error() -> None:
    settings = BANDS["changes"]
    calibration = Calibration(settings, 0.1, unit=0.01)
    assert calibration.band == pytest.approx(3 * 0.01)
    assert calibration.wants(unaudited(1, 0.105))
    assert not calibration.wants(unaudited(1, 0.12))
    calibration.note(answer(1, 0.11, 0.10))  # off by a twentieth of effect and threshold
    assert calibration.band == pytest.approx(1.5 * 0.01 / 0.21)
    assert Calibration(settings, 0.1, unit=0.0).band == 0.0


def test_threshold_nought_divides_by_nothing() -> None:
    known = Calibration(BandConfig(share=0.0, enough=1, least=0.0), 0.0)
    known.note(answer(0, 0.0, 0.0, 0.0))
    assert known.calibrated
    assert known.largest == 0.0
    assert known.band == 0.0


def test_what_the_band_missed_is_bounded_though_errors_grow_and_have_heavy_tails() -> None:
    """In 5% of searches the bound may be short, and what was missed may be more than was to be expected."""
    short = 0
    for seed in range(200):
        draw = random.Random(seed)
        known = Calibration(BandConfig(share=0.05, hopeless=1.0), 0.1, seed=seed)
        missed = left = 0
        for i in range(1500):
            full = draw.choice([0.0, 0.05, 0.3]) * draw.random()
            low = full + draw.choice([-1, 1]) * 1e-4 * (1 + i / 300) * draw.paretovariate(1.2)
            decision = unaudited(i, low)
            if known.wants(decision):
                known.note(answer(i, low, full))
            else:
                known.note(decision)
                left += 1
                missed += (low < 0.1) != (full < 0.1)
        short += missed > left * upper_rate(known.missed, known.outside, 0.95)
    assert short <= 20


def test_a_missed_test_in_the_sample_is_told() -> None:
    known = one(share=1.0, hopeless=1.0)
    known.note(answer(0, 0.2, 0.2))
    known.note(answer(1, 0.2, 0.01))  # no difference so far, so the band was empty
    known.note(answer(2, 0.2, 0.2))  # inside it now
    assert (known.outside, known.missed) == (1, 1)


# ---- the search, on a fake network of which low precision is a noisy copy


def costs(seed: int, noise: float) -> tuple[list[float], list[float]]:
    draw = random.Random(seed)
    full = [draw.choice([0.0, 0.02, 0.09, 0.1, 0.11, 0.6]) + draw.gauss(0, 0.01) for _ in GRAPH.edges]
    return full, [cost + draw.gauss(0, noise) for cost in full]


def run(
    full: Sequence[float], low: Sequence[float], known: Calibration, done: Sequence[Decision] = (), fast: bool = False
) -> tuple[list[Decision], Costs, Costs]:
    cheap, exact = Costs(low), Costs(full)

    def start(engine: Costs, done: Sequence[Decision], judge: Judge = as_measured) -> Iterator[Decision]:
        if fast:
            return speculate(engine, Order(), 0.1, done=done, judge=judge)
        return acdc(engine, Order(), 0.1, done=done, judge=judge)

    search = banded(
        lambda judge, done: start(cheap, done, judge),
        lambda judge, done: start(Costs(full), done, judge),
        Auditor(exact, known),
        known,
        done,
    )
    return list(search), cheap, exact


def plain(cost: Sequence[float]) -> list[Decision]:
    return list(acdc(Costs(cost), Order(), 0.1))


def verdicts(decisions: Sequence[Decision]) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


@given(seed=st.integers(0, 500), fast=st.booleans())
@settings(max_examples=8, deadline=None)
def test_an_endless_band_is_acdc_and_an_empty_one_no_audit(seed: int, fast: bool) -> None:
    full, low = costs(seed, 0.1)
    endless = Calibration(ENDLESS, 0.1)
    everything, _, _ = run(full, low, endless, fast=fast)
    assert verdicts(everything) == verdicts(plain(full))
    assert all(decision.audited for decision in everything)
    assert [d.effect for d in everything] == pytest.approx([d.effect for d in plain(full)])
    nothing, _, exact = run(full, low, Calibration(NARROW, 0.1), fast=fast)
    assert verdicts(nothing) == verdicts(plain(low))
    assert exact.measured == 0


@given(seed=st.integers(0, 500), noise=st.sampled_from([0.0, 0.003, 0.03, 0.3]))
@settings(max_examples=8, deadline=None)
def test_resuming_anywhere_gives_the_identical_rest(seed: int, noise: float) -> None:
    full, low = costs(seed, noise)
    whole, _, _ = run(full, low, Calibration(EARLY, 0.1))
    fast, _, _ = run(full, low, Calibration(EARLY, 0.1), fast=True)
    assert verdicts(fast) == verdicts(whole)
    assert [d.audited for d in fast] == [d.audited for d in whole]
    for length in range(len(whole) + 1):
        rest, _, _ = run(full, low, Calibration(EARLY, 0.1), whole[:length])
        assert whole[:length] + rest == whole


@given(seed=st.integers(0, 500))
@settings(max_examples=8, deadline=None)
def test_the_audit_answers_in_the_state_of_the_search(seed: int) -> None:
    """Each audited effect is its edge's cost in full precision, with exactly the removed edges gone before it."""
    full, low = costs(seed, 0.03)
    decisions, _, _ = run(full, low, Calibration(EARLY, 0.1))
    gone: set[int] = set()
    for decision in decisions:
        if decision.audited:
            assert decision.before == pytest.approx(Costs(full).loss(gone))
            assert decision.after == pytest.approx(Costs(full).loss(gone | {decision.edge}))
        if decision.removed:
            gone.add(decision.edge)


def test_a_hopeless_format_ends_as_acdc_and_low_precision_stops() -> None:
    full, _ = costs(1, 0.0)
    low = [cost + random.Random(i).gauss(0, 3.0) for i, cost in enumerate(full)]
    known = Calibration(EARLY, 0.1)
    decisions, cheap, _ = run(full, low, known)
    assert known.hopeless
    assert known.hopeless_at is not None
    assert verdicts(decisions) == verdicts(plain(full))
    assert all(decision.audited for decision in decisions)
    assert all((decision.low is not None) == (decision.index <= known.hopeless_at) for decision in decisions)
    assert cheap.measured == known.hopeless_at + 2
    found = record(decisions, 0.1, EARLY)
    assert (found["hopeless"], found["share"], found["could_differ"]) == (True, 1.0, 0.0)


def test_the_record_counts() -> None:
    many = BandConfig(share=0.2, first=3, confidence=0.9, safety=1.0)
    full, low = costs(8, 0.01)
    decisions, _, _ = run(full, low, Calibration(many, 0.1))
    found = record(decisions, 0.1, many)
    audited = [d for d in decisions if d.audited]
    assert 0 < len(audited) < len(decisions)
    assert found["tests"] == len(audited)
    assert found["share"] == len(audited) / len(decisions)
    assert found["overturned"] == sum((low[d.edge] < 0.1) != (full[d.edge] < 0.1) for d in audited)
    assert found["layers"] == {"tested": 1, "calibrated": 1}
    assert found["sample"] == sum(drawn(0, d.index, many.share) for d in decisions)
    assert 0 < found["outside"]["drawn"] <= found["sample"]
    rate = upper_rate(found["outside"]["overturned"], found["outside"]["drawn"], 0.9)
    assert found["could_differ"] == (len(decisions) - len(audited)) * rate


def test_a_record_has_the_last_band_and_minds_signs_as_the_search_did() -> None:
    """An edge that is harmful in low precision and harmless in full goes by its sign, and stays by its size."""
    settings = BandConfig(share=0.0, first=0, enough=1, near=2.0, least=0.125, hopeless=1.0)
    harmful = Decision(0, 0, 1.0, 1.0, True, audited=True, low=(5.0, 4.5))
    decisions = [harmful, unaudited(1, 0.25), Decision(2, 2, 1.0, 1.0, True)]
    for absolute, overturned in ((False, 0), (True, 1)):
        told = record(decisions, 0.125, settings, absolute=absolute, layer_of=lambda edge: edge // 2)
        assert (told["tests"], told["share"], told["overturned"]) == (1, 1 / 3, overturned)
        assert told["layers"] == {"tested": 2, "calibrated": 1}
        assert told["largest_error"] == pytest.approx(0.5 / 0.625)
        assert told["band"] == pytest.approx(2.5 * 0.5 / 0.625)  # the second layer's would be 2
        assert (told["hopeless"], told["hopeless_at"]) == (False, None)
        assert told["could_differ"] == 2.0  # nothing was drawn
    assert record(decisions, 0.125, settings)["overturned"] == 0
    unit = record([unaudited(0, 0.25)], 0.125, settings, unit=0.5)
    assert (unit["band"], unit["largest_error"], unit["share"]) == (1.0, 0.0, 0.0)
    assert record([unaudited(0, 0.25)], 0.125, settings)["band"] == 2.0
    endless = record([Decision(0, 0, 1.0, 1.0, True, audited=True, low=(5.0, math.nan))], 0.125, settings)
    assert (endless["band"], endless["largest_error"]) == (None, None)


# ---- real networks


ENGINES: tuple[Callable[[Problem], Any], ...] = (ReferenceEngine, SuffixEngine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("focus", ["receiver", "none"])
def test_int4_with_an_endless_band_is_acdc(family: str, engine: Callable[[Problem], Any], focus: str) -> None:
    model = random_model(family)
    prompts = random_prompts(model)
    full = build_problem(model, prompts, metric="kl")
    rounded = PrecisionConfig(name="int4", format="int4", scales="row", mlp="bf16")
    low = build_problem(model, prompts, metric="kl", precision=rounded, focus=focus)
    search = acdc if engine is ReferenceEngine else speculate

    def start(on: Problem, done: Sequence[Decision], judge: Judge = as_measured) -> Iterator[Decision]:
        by = partial(focus_of, on.graph, rule=on.focus)
        return search(engine(on), Order(), 0.02, focus=lambda e: by(on.graph.edges[e]), done=done, judge=judge)

    known = Calibration(ENDLESS, 0.02)
    audited = list(
        banded(lambda j, d: start(low, d, j), lambda j, d: start(full, d, j), Auditor(engine(full), known), known)
    )
    expected = list(start(full, []))
    assert verdicts(audited) == verdicts(expected)
    assert [d.effect for d in audited] == pytest.approx([d.effect for d in expected], abs=1e-9)
    lowly = list(start(low, []))
    assert verdicts(lowly) != verdicts(expected)  # or nothing would be shown
    empty = Calibration(NARROW, 0.02)
    unaudited = list(
        banded(lambda j, d: start(low, d, j), lambda j, d: start(full, d, j), Auditor(engine(full), empty), empty)
    )
    assert unaudited == lowly
    torch.set_grad_enabled(True)
