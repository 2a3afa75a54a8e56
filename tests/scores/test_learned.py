"""Masks that are learnt: the same bits after a kill, prompts in batches, circuits that are better than chance."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from support import small_models
from support.allocated import peak_bytes
from support.bulky import PROMPTS, SHAPES, bulky_problem

import pahq
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.scores import learned
from pahq.scores.learned import Progress, State
from pahq.scores.probing import Probing
from pahq.scores.pruning import EdgePruning, unit_of
from pahq.scores.start import score
from pahq.tasks import build_task

LEARNED = pytest.mark.parametrize("method", ["sp", "edge-pruning"])
FAST = {"sp": {"steps": 12, "learning_rate": 0.1}, "edge-pruning": {"steps": 12}}


def problem_for(family: str = "llama", *, batch: int = 3, **asked: Any) -> Problem:
    model = small_models.random_model(family, 2)
    prompts = small_models.random_prompts(model, 2, batch=batch, every_item=True)
    return build_problem(model, prompts, **{"metric": "kl", "direct_edges": False} | asked)


def learnt(problem: Problem, method: str, **more: Any) -> pahq.Scores:
    size = 0.4 if method == "edge-pruning" else None
    return score(problem, method, size=size, training=FAST[method], **more)


@LEARNED
@pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
def test_scores_are_shares_of_a_graphs_edges_and_follow_from_the_seed(family: str, method: str):
    for direct in (False, True):
        problem = problem_for(family, direct_edges=direct)
        first, again, other = (learnt(problem, method, seed=seed) for seed in (1, 1, 2))
        assert first.values == again.values != other.values
        assert 0 < min(first.values) < max(first.values) <= 1
        assert (first.method, first.metric, first.steps) == (method, "kl", 12)
        assert len(first) == len(problem.graph.edges)


@LEARNED
@pytest.mark.parametrize("stop", [1, 7, 11])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(method: str, stop: int):
    problem, kept = problem_for(), list[State]()
    whole = learnt(problem, method)

    def interrupted(progress: Progress) -> None:
        kept.append(progress.state)
        if progress.state.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learnt(problem, method, report=interrupted)
    told: list[int] = []
    again = learnt(problem, method, resume=kept[-1], report=lambda progress: told.append(progress.state.step))
    assert again.values == whole.values
    assert told == list(range(stop + 1, 13))


@LEARNED
def test_batches_of_prompts_change_nothing_but_rounding(method: str, monkeypatch: pytest.MonkeyPatch):
    problem = problem_for(batch=5)
    whole = learnt(problem, method)
    monkeypatch.setattr(learned, "BATCH_BYTES", 2 * learned.prompt_bytes(problem))
    assert len(list(learned._batches(problem))) == 3
    parts = learnt(problem, method)
    assert torch.allclose(torch.tensor(parts.values), torch.tensor(whole.values), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_take_no_more_memory_than_is_estimated_and_no_less_than_two_fifths(shape: str):
    problem = bulky_problem(shape)
    learner = EdgePruning(len(problem.graph.edges), 30, 1, 0.1, 0.5, 1.0)
    estimate = PROMPTS * learned.prompt_bytes(problem)
    assert 0.4 * estimate < peak_bytes(partial(learned.learn, problem, learner, seed=0)) < estimate


def test_prompts_that_no_metric_reads_are_left_out_of_batches(monkeypatch: pytest.MonkeyPatch):
    problem = problem_for(batch=6)
    read = (problem.prompts.items[:, 0] == 3) | (problem.prompts.items[:, 0] == 5)
    targets = {name: one[read] if len(one) == len(read) else one for name, one in problem.prompts.targets.items()}
    fewer = replace(problem, prompts=replace(problem.prompts, items=problem.prompts.items[read], targets=targets))
    for size, expected in ((1, [(3, 4), (5, 6)]), (2, [(2, 4), (4, 6)]), (4, [(0, 4), (4, 6)]), (9, [(0, 6)])):
        monkeypatch.setattr(learned, "BATCH_BYTES", size * learned.prompt_bytes(problem))
        assert [(rows.start, rows.stop) for rows in learned._batches(fewer)] == expected


def test_a_step_is_one_of_adams():
    problem = problem_for()
    learner = EdgePruning(len(problem.graph.edges), 30, 3, 0.3, 0.5, 10.0)
    values = torch.cat((learner.start(), learner.multipliers())).double()
    ours = [values]
    learned.learn(problem, learner, seed=0, report=lambda progress: ours.append(progress.state.values))
    masks, multipliers = values[:-2].clone().requires_grad_(), values[-2:].clone().requires_grad_()
    kinds = [{"params": [masks], "lr": 0.3}, {"params": [multipliers], "lr": -learner.rate_of_multipliers}]
    adam = torch.optim.Adam([kinds[0]], betas=(learned.MEMORY, learned.SQUARES))
    ascent = torch.optim.Adam(
        [multipliers], lr=learner.rate_of_multipliers, betas=adam.defaults["betas"], maximize=True
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        uniform = torch.rand(len(masks), generator=generator, dtype=torch.float64)
        with torch.enable_grad():
            drawn = learned.sampled(masks, uniform)
            loss = problem.objective.loss(learned.masked_logits(problem, drawn))
            (loss + learner.penalty(learned.probability(masks), multipliers, step)).backward()
        adam.step()
        ascent.step()
        adam.zero_grad()
        ascent.zero_grad()
        assert torch.allclose(ours[step + 1], torch.cat((masks, multipliers)).detach(), rtol=1e-9, atol=1e-12)


def test_edge_pruning_comes_to_the_size_and_is_better_than_chance():
    model = pahq.load_model("nano")
    ((cell, _),) = compose_runs(["task=nano-greaterthan", "method=acdc"])
    problem = build_problem(model, build_task(cell.task, model, 0).search, metric="kl", direct_edges=False)
    told: list[Progress] = []
    scores = score(problem, "edge-pruning", size=150, training={"steps": 120}, report=told.append)
    assert abs(told[-1].present - 150) < 40
    lost = {}
    for name, found in (("learnt", scores), ("random", score(problem, "random"))):
        present = torch.tensor(found.top(150).present)
        lost[name] = float(problem.objective.value(circuit_logits(problem, present)))
    assert lost["learnt"] < 0.3 < lost["random"]


def test_probing_masks_projections_and_mlps():
    graph = problem_for("gpt2").graph
    probing = Probing(graph, 1, 0.1, 1.0)
    inputs, masks = len(graph.head_inputs), torch.arange(len(probing.start())) / 100
    assert len(masks) == inputs + 2  # two MLPs
    edges, projections = probing.spread(masks)
    assert projections is not None
    assert projections.tolist() == masks[:inputs].tolist()
    named = dict(zip(map(str, graph.edges), edges.tolist(), strict=True))
    assert named["embed->m0"] == named["a0.h0->m0"] == 1.0
    assert named["m0->logits"] == pytest.approx(masks[inputs].item())
    present = torch.linspace(0.1, 0.9, len(masks), dtype=torch.float64)
    scored = dict(zip(map(str, graph.edges), probing.scores(present).tolist(), strict=True))
    at = {str(receiver): value for receiver, value in zip(graph.head_inputs, present.tolist(), strict=False)}
    assert scored["embed->a1.h2<q>"] == at["a1.h2<q>"]
    assert scored["a0.h1->logits"] == max(at[f"a0.h1<{letter}>"] for letter in "qkv")
    assert scored["embed->logits"] == 1.0


def test_probing_begins_with_masks_that_are_mostly_there_and_pays_for_their_mean():
    probing = Probing(problem_for("gpt2").graph, 1, 0.1, 3.0)
    assert torch.allclose(probing.start().sigmoid(), torch.tensor(0.9))
    assert len(probing.multipliers()) == 0
    assert float(probing.penalty(torch.tensor([0.0, 0.5, 1.0]), probing.multipliers(), 7)) == 1.5


def test_edge_prunings_target_grows_on_a_line_and_its_penalty_is_the_papers():
    """multiplier_1 (t - s) + multiplier_2 (t - s)^2, with s the expected share of edges that are gone, t its target."""
    first, second = torch.tensor([2.0, 3.0])
    for warmup, targets in ((0.5, [0.0, 0.14, 0.7, 0.7]), (0.0, [0.0, 0.7, 0.7, 0.7])):
        pruning = EdgePruning(100, 30, 10, 0.1, warmup, 4.0)
        for step, target in zip((0, 1, 5, 9), targets, strict=True):
            for gone in (0.2, 0.9):
                penalty = pruning.penalty(torch.full((100,), 1 - gone), torch.stack((first, second)), step)
                assert float(penalty) == pytest.approx(2 * (target - gone) + 3 * (target - gone) ** 2, abs=1e-5)


def test_edge_prunings_multipliers_are_in_units_of_what_one_edge_costs():
    problem = problem_for()
    edges = len(problem.graph.edges)
    empty = circuit_logits(problem, torch.zeros(edges, dtype=torch.bool))
    lost = float(problem.objective.loss(empty))  # KL, which is 0 of the whole graph
    for kept in (1, 40):
        assert unit_of(problem, kept) == pytest.approx(lost * edges / kept)
    assert unit_of(problem, 0) == unit_of(problem, 1)
    one, five = (EdgePruning(edges, 40, 9, 0.1, 0.5, unit) for unit in (1.0, 5.0))
    assert torch.equal(five.multipliers(), 5 * one.multipliers())
    assert five.rate_of_multipliers == pytest.approx(5 * one.rate_of_multipliers)
    assert one.rate_of_multipliers > 0


def test_a_progress_bar_is_told_of_the_loss_its_metric_and_the_masks():
    told: list[Progress] = []
    learnt(problem_for(), "sp", report=told.append)
    progress = replace(told[-1], loss=1.23456, measured=0.98765, present=12.345)
    assert progress.shown("kl") == {"loss": "1.23", "kl": "0.988", "masks": "12.3"}
    assert all(one.loss > one.measured > 0 for one in told)


def test_a_loss_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learned, "sampled", lambda log_alpha, uniform: log_alpha * float("nan"))
    with pytest.raises(PahqError, match="came to a loss of nan at step 1; take a lower learning_rate"):
        learnt(problem_for(), "sp")


@pytest.mark.parametrize(
    ("method", "asked", "sentence"),
    [
        ("edge-pruning", {}, "method edge-pruning learns masks for a size; give it one"),
        ("edge-pruning", {"size": -1}, "size: a number of edges from 0 to"),
        ("edge-pruning", {"size": 9, "training": {"regularisation": 1.0}}, "training.regularisation is of sp"),
        ("sp", {"training": {"warmup": 0.5}}, "training.warmup is of edge-pruning; it says nothing to method sp"),
        ("sp", {"size": 9}, r"size is of method edge-pruning and of audit=band; .* of sp take a circuit by \.top"),
        ("eap-ig", {"training": {"steps": 9}}, "training.steps is of sp, edge-pruning; it says nothing to .* eap-ig"),
        ("sp", {"training": {"steps": 0}}, "training.steps: Input should be greater than 0"),
        ("sp", {"training": {"stpes": 1}}, "unknown key 'training.stpes'; known: learning_rate, regularisation"),
        ("edge-pruning", {"training": {"target": 1.5}}, "target: a number of edges"),
        ("random", {"seed": -1}, "seed: a whole number of at least 0"),
        ("hisp", {}, "method=hisp with metric=kl would be rounding noise"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(method: str, asked: dict[str, Any], sentence: str):
    with pytest.raises(PahqError, match=sentence):
        score(problem_for(), method, **asked)
