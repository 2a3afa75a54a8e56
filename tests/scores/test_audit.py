"""Audited exact scores have full precision's top n, whatever the format errs by, and score few edges again."""

from __future__ import annotations

import pytest
import torch
from support import small_models

import pahq
from pahq.cell.run import load
from pahq.config.precision import PrecisionConfig
from pahq.engine.problem import Problem, build_problem
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.scores import audit as auditing
from pahq.scores.audit import audited_scores
from pahq.scores.exact import exact_scores
from pahq.scores.focused import scores_in_focus
from pahq.scores.start import score

FORMATS = {
    "bf16": PrecisionConfig(name="bf16", format="bf16", mlp="bf16"),
    "int8": PrecisionConfig(name="int8", format="int8", mlp="bf16"),
    "int4": PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16"),
}


def problems(family: str, form: str, focus: str, seed: int = 0, layers: int = 4) -> tuple[Problem, Problem]:
    model = small_models.random_model(family, seed, layers=layers)
    prompts = small_models.random_prompts(model, seed, batch=2, length=4)
    low = build_problem(model, prompts, metric="logit_diff", precision=FORMATS[form], focus=focus)
    return low, build_problem(model, prompts, metric="logit_diff")


def top(scores: torch.Tensor, size: int) -> set[int]:
    return set(scores.abs().sort(descending=True, stable=True).indices[:size].tolist())


@pytest.mark.parametrize("focus", ["none", "receiver"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "parallel"])
def test_the_top_is_that_of_full_precision(family: str, form: str, focus: str) -> None:
    """At int4, on models as small as these, an edge may err by more than any of the sample."""
    low, full = problems(family, form, focus)
    exact = exact_scores(full)
    for size in (10, 60):
        found, audit = audited_scores(low, full, size)
        assert len(top(exact, size) - top(found, size)) <= (form == "int4")
        assert 0 < audit.rescored <= len(exact)
        assert audit.share == audit.rescored / len(exact)
        assert audit.changed <= size
        assert audit.band == pytest.approx(2.5 * audit.largest_error)


def test_where_most_scores_are_nought_all_of_them_are_looked_at() -> None:
    """A cut of nought: every edge that could be at it is scored again, and no number is lost."""
    model, task = load(compose_runs(["task=tracr-reverse", "task.examples=4", "method=acdc"])[0][0], "cpu")
    scores = pahq.score(model, task, "exact", metric="mse", precision="fp8", audit="band", size=60)
    assert scores.audit is not None
    assert scores.audit.band == scores.audit.band  # a number
    assert scores.audit.rescored > 60
    exact = pahq.score(model, task, "exact", metric="mse")
    assert {value > 0 for value in exact.values} == {True, False}
    positive = {edge for edge, value in exact.by_name.items() if abs(value) > 0}
    assert positive <= {edge for edge, value in scores.by_name.items() if abs(value) > 0}


def test_a_finer_format_needs_fewer_edges_again() -> None:
    shares = {form: audited_scores(*problems("gpt2", form, "receiver"), 40)[1].share for form in FORMATS}
    assert shares["bf16"] < shares["int8"] < shares["int4"]
    assert shares["bf16"] < 0.35


def test_what_low_precision_had_otherwise_is_counted() -> None:
    low, full = problems("llama", "int4", "none")
    rough, exact = exact_scores(low), exact_scores(full)
    changed = [audited_scores(low, full, size)[1].changed for size in (20, 40, 80)]
    assert changed == [len(top(exact, size) - top(rough, size)) for size in (20, 40, 80)]
    assert sum(changed) > 0


def test_from_python_scores_say_what_their_audit_did() -> None:
    model = small_models.random_model("gpt2", layers=4, dtype=torch.float32)
    prompts = small_models.random_prompts(model, 1)
    asked = {"precision": "int8", "focus": "receiver", "size": 40}
    scores = pahq.score(model, prompts, "exact", audit="band", **asked)
    exact = pahq.score(model, prompts, "exact")
    assert set(scores.top(40, clean=False).edges) == set(exact.top(40, clean=False).edges)
    assert scores.audit is not None
    assert 0 < scores.audit.share < 1
    assert exact.audit is None
    for words, sentence in (
        ({"size": None}, "audit=band looks at the edges near the cut of a size; give it one, as size=50 or size=0.02"),
        (
            {"precision": None, "focus": "none"},
            "audit=band scores edges again in full precision, and that is what is asked for",
        ),
        ({"audit": "always"}, "unknown audit 'always'; known: band, none"),
    ):
        with pytest.raises(PahqError, match=sentence):
            pahq.score(model, prompts, "exact", **({"audit": "band"} | asked | words))
    with pytest.raises(PahqError, match="method eap-ig needs none: in full precision it gives all edges at once"):
        pahq.score(model, prompts, "eap-ig", audit="band", **asked)


@pytest.mark.parametrize("size", [1, 20, 60])
def test_every_edge_within_the_band_of_the_cut_has_full_precisions_score(size: int) -> None:
    """The band is that of all edges that were scored again, and no other one has changed."""
    low, full = problems("llama", "int4", "none", layers=2)
    rough, exact = exact_scores(low), exact_scores(full)
    found, audit = audited_scores(low, full, size)
    cut = found.abs().sort(descending=True).values[size - 1]
    near = (found.abs() - cut).abs() <= audit.band * (found.abs() + cut)
    again = torch.isclose(found, exact, rtol=1e-9, atol=1e-12)
    assert again[near].all()
    assert torch.equal(found[~again], rough[~again])
    assert near.sum() <= audit.rescored <= again.sum()
    errors = (found - rough).abs() / (rough.abs() + cut)
    assert audit.largest_error == pytest.approx(float(errors.max()))


def test_the_sample_is_a_share_of_the_edges_but_no_fewer_than_a_least_number(monkeypatch: pytest.MonkeyPatch) -> None:
    low, full = problems("gpt2", "bf16", "none", layers=2)
    count, seen = len(full.graph.edges), list[int]()
    monkeypatch.setattr(auditing, "LEAST", 1)
    monkeypatch.setattr(auditing, "SAMPLE", 0.5)
    sample = audited_scores(low, full, 9, report=seen.append)[1]
    assert sample.sample == -(-count // 2) <= sample.rescored
    assert sum(seen) == count  # of low precision; what is scored again is another matter
    monkeypatch.setattr(auditing, "LEAST", 10**9)
    found, whole = audited_scores(low, full, 9)
    assert (whole.sample, whole.rescored, whole.share) == (count, count, 1.0)
    assert torch.allclose(found, exact_scores(full), rtol=1e-9, atol=1e-12)
    for audit in (sample, whole):  # so many draws would all miss a share of edges as large in one of twenty samples
        assert (1 - audit.beyond) ** audit.sample == pytest.approx(0.05)


def test_audited_scores_say_what_made_them() -> None:
    low, full = problems("gpt2", "bf16", "none", layers=2)
    made = score(low, "exact", full=full, size=9, seed=3)
    found, audit = audited_scores(low, full, 9, seed=3)
    assert (made.values, made.audit) == (tuple(found.tolist()), audit)
    assert (made.method, made.metric, made.ablation, made.steps) == ("exact", "logit_diff", "corrupted", None)
    assert score(low, "exact", full=full, size=0.1).audit == audited_scores(low, full, round(0.1 * len(made)))[1]


@pytest.mark.parametrize(
    ("method", "why"),
    [("eap", "it gives all edges at once"), ("hisp", "it gives all"), ("sp", "that is another training")],
)
def test_other_methods_are_not_audited(method: str, why: str) -> None:
    low, full = problems("gpt2", "bf16", "none", layers=1)
    with pytest.raises(PahqError, match=f"method {method} needs none: in full precision {why}"):
        score(low, method, full=full, size=9)


def test_the_seed_draws_the_sample() -> None:
    low, full = problems("gpt2", "bf16", "none")
    first, again, other = (audited_scores(low, full, 40, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1] != other[1]


@pytest.mark.parametrize("size", [-1, 0, None, 10**6])
def test_a_size_that_leaves_nothing_to_choose_is_refused(size: int | None) -> None:
    low, full = problems("gpt2", "bf16", "none", layers=1)
    count = len(full.graph.edges)
    with pytest.raises(PahqError, match=f"size: a number of edges from 1 to {count - 1} was expected"):
        audited_scores(low, full, count if size is None else size)
    assert audited_scores(low, full, count - 1)[1].changed <= 1


def test_scores_of_some_edges_are_those_of_all() -> None:
    _, full = problems("llama", "int8", "none")
    everything, some = exact_scores(full), [0, 3, 4, 50, len(full.graph.edges) - 1]
    found = exact_scores(full, edges=some)
    assert torch.allclose(found[some], everything[some], rtol=1e-12, atol=1e-12)
    assert found.count_nonzero() <= len(some)


def test_what_is_not_scored_again_has_the_scores_in_focus() -> None:
    low, full = problems("gpt2", "int4", "receiver")
    focused, plain = scores_in_focus(low, lambda part, edges: exact_scores(part, edges=edges)), exact_scores(low)
    found, audit = audited_scores(low, full, 3)
    left = ~torch.isclose(found, exact_scores(full), rtol=1e-9, atol=1e-12)
    assert left.sum() > 0.1 * len(left)
    assert audit.rescored < len(left)
    assert torch.equal(found[left], focused[left])
    assert not torch.allclose(found[left], plain[left])
