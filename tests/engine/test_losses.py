"""Losses from the change of the final stream against their definitions, in float64 and from the very same streams."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.pairs import pairs
from support.small_models import random_model, random_prompts
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.base import Trial
from pahq.engine.losses import KlLosses, PlainLosses, carefully, finite, losses_for, rows_of
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.engine.suffix.headlogits import HeadLogits
from pahq.tasks.metrics import gather_items

NORMS = {"layer": "gpt2", "rms": "llama", "none": "tracr"}
METRICS = ("kl", "logit_diff", "prob_diff", "margin", "nll", "mse")
HARD = {"plain": (1.0, 0.0, 0.0), "bias": (1.0, -300.0, 0.0), "column": (1.0, 0.0, 30.0), "scaled": (10.0, 0.0, 0.0)}
RELATIVE = {"plain": 2e-6, "bias": 2e-6, "column": 2e-5, "scaled": 2e-6}  # error of a KL above 1e-3
SIZES = (1e-5, 1e-3, 3e-2, 1.0)  # of the change of the stream
VOCAB = 301


def make(
    family: str, metric: str, hard: str = "plain", *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Problem:
    """Seven items at six rows. ``HARD``: logits stretched, offset by the bias, or by a column that all of W_U has."""
    stretch, offset, column = HARD[hard]
    model = random_model(family, seed, d_model=16, d_vocab=VOCAB, d_vocab_out=VOCAB, tied_embedding=False)
    common = torch.randn(16, 1, generator=torch.Generator().manual_seed(seed)).double() * column
    model = replace(
        model,
        W_U=(stretch * model.W_U + common).float().double(),
        b_U=(stretch * model.b_U + offset).float().double(),
    )
    prompts = random_prompts(model, seed, batch=3, every_item=True, same=3)
    order = torch.tensor([4, 0, 1, 2, 3, 4, 5])
    prompts = replace(
        prompts,
        items=prompts.items[order],
        targets={k: v if k == "columns" else v[order] for k, v in prompts.targets.items()},
    )
    return build_problem(model.to(dtype=dtype), prompts, metric=metric)


def streams(problem: Problem, size: float, trials: int = 5) -> Tensor:
    """Final streams at the rows, that many trials, off the clean run's by about ``size``."""
    rows, index = rows_of(problem)
    assert index is not None
    assert len(rows) == 6 < len(index)
    first = [int((index == row).nonzero()[0]) for row in range(len(rows))]
    clean = problem.reference[first]
    noise = torch.randn(trials, *clean.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return (clean.double() + size * noise).to(clean.dtype)


class Slow:
    """The definitions, item by item, in float64."""

    def __init__(self, problem: Problem) -> None:
        self._problem, ends = problem, problem.store.ends
        self._weights = [
            None if x is None else x.double() for x in (ends.ln_final_w, ends.ln_final_b, ends.W_U, ends.b_U)
        ]
        self._targets = problem.prompts.targets
        self._index = rows_of(problem)[1]
        self._clean = self._logits(problem.reference)

    def _logits(self, resid: Tensor) -> Tensor:
        (w, b, W_U, b_U), x, config = self._weights, resid.double(), self._problem.store.config
        if config.norm != "none":
            x = x - x.mean(-1, keepdim=True) if config.norm == "layer" else x
            x = x / (x.square().mean(-1, keepdim=True) + config.eps).sqrt()
            x = x if w is None else x * w
            x = x if b is None else x + b
        assert W_U is not None
        assert b_U is not None
        return x @ W_U + b_U

    def each(self, resid: Tensor) -> list[list[float]]:
        """By trial and item."""
        found = self._logits(resid)[:, self._index]
        return [[self._one(trial[i], i) for i in range(trial.shape[0])] for trial in found]

    def losses(self, resid: Tensor) -> list[float]:
        return [sum(items) / len(items) for items in self.each(resid)]

    def _one(self, x: Tensor, i: int) -> float:
        name, targets, clean = self._problem.objective.name, self._targets, self._clean[i]
        at = {key: value[i] for key, value in targets.items() if key != "columns"}
        if name == "kl":
            p, q = clean.log_softmax(-1), x.log_softmax(-1)
            return math.fsum((p.exp() * (p - q)).tolist())
        if name == "logit_diff":
            return float(x[at["wrong"]] - x[at["answer"]])
        if name == "margin":
            return float(x[at["choices"]].max() - x[at["answer"]])
        if name == "nll":
            return float(x.logsumexp(-1) - x[at["answer"]])
        if name == "prob_diff":
            return -math.fsum((x.softmax(-1) * at["sign"].double()).tolist())
        return math.fsum((x - clean)[targets["columns"]].square().tolist()) / len(targets["columns"])


@pairs({"hard": list(HARD), "norm": list(NORMS), "tile": [256, 40_000, 400_000]})
def test_a_small_kl_is_float64s_to_1e_8(norm: str, hard: str, tile: int) -> None:
    """Tiles of 256 do not divide the vocabulary of 301."""
    problem = make(NORMS[norm], "kl", hard)
    losses, slow, small = losses_for(problem, tile), Slow(problem), 0
    for size in (*SIZES, 1e-4, 1e-2):
        for at in range(5):
            resid = streams(problem, size)[at : at + 1]
            found, expected = finite(losses, resid).tolist(), slow.losses(resid)
            small += expected[0] < 1e-3
            bound = 1e-8 if expected[0] < 1e-3 else RELATIVE[hard] * expected[0]
            assert abs(found[0] - expected[0]) <= bound, (size, expected)
    assert small >= 5


@pairs({"metric": [name for name in METRICS if name != "kl"], "hard": list(HARD), "norm": list(NORMS)})
def test_other_losses_are_float64s_to_rounding_of_the_change(metric: str, norm: str, hard: str) -> None:
    """The change of a loss against the clean run's is right to float32's rounding of the change itself."""
    problem = make(NORMS[norm], metric, hard)
    losses, slow = losses_for(problem), Slow(problem)
    start = losses(streams(problem, 0.0)[:1]).tolist()[0]
    exact = slow.losses(streams(problem, 0.0)[:1])[0]
    scale = max(1.0, abs(exact))
    assert abs(start - exact) <= {"nll": 3e-7, "prob_diff": 3e-7}.get(metric, 1e-12) * scale
    for size in SIZES:
        resid = streams(problem, size)
        moved = max(float(x) for x in (slow._logits(resid) - slow._logits(streams(problem, 0.0))).abs().flatten())
        for found, expected in zip(finite(losses, resid).tolist(), slow.losses(resid), strict=True):
            error = abs((found - start) - (expected - exact))
            rounded = metric in ("nll", "prob_diff")  # the others never leave float64
            assert error <= (1e-6 * moved if rounded else 1e-12 * (scale + moved * (1 + moved))), (
                size,
                found,
                expected,
            )


@pairs({"metric": METRICS, "norm": list(NORMS), "tile": [256, 400_000]})
def test_in_float64_they_are_the_slow_twins(metric: str, norm: str, tile: int) -> None:
    problem = make(NORMS[norm], metric, dtype=torch.float64)
    losses, plain, slow = losses_for(problem, tile), PlainLosses(problem), Slow(problem)
    for size in SIZES:
        resid = streams(problem, size)
        expected = slow.losses(resid)
        assert losses(resid).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-13)
        assert plain(resid).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-13)
    assert losses(resid[0]).shape == ()
    assert losses(resid[None]).shape == (1, 5)


# ---- logits that gain more than exp can hold


@pytest.mark.parametrize("metric", ["kl", "prob_diff", "nll"])
@pytest.mark.parametrize("norm", NORMS)
def test_logits_that_gain_hundreds_are_asked_for_again_with_care(metric: str, norm: str) -> None:
    problem = make(NORMS[norm], metric)
    grown = {name: getattr(problem.store.ends, name) * 60 for name in ("W_U", "b_U")}
    model = replace(random_model(NORMS[norm], 0, d_model=16, d_vocab=VOCAB, d_vocab_out=VOCAB, tied_embedding=False))
    model = replace(model, **{name: value.double() for name, value in grown.items()}).to(dtype=torch.float32)
    problem = build_problem(model, problem.prompts, metric=metric)
    resid, slow = streams(problem, 3.0), Slow(problem)
    gain = (slow._logits(resid) - slow._logits(streams(problem, 0.0))).amax()
    assert gain > 200
    losses = losses_for(problem)
    careful = carefully(losses)
    assert careful is not None
    expected = slow.losses(resid)
    assert careful(resid).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert careful(streams(problem, 1e-3)).tolist() == pytest.approx(
        slow.losses(streams(problem, 1e-3)), rel=1e-5, abs=1e-6
    )
    found = finite(losses, resid).tolist()
    assert all(map(math.isfinite, found))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    if metric == "kl":
        assert not losses(resid).isfinite().all()  # or nothing would be shown
    assert carefully(careful) is None


def test_losses_without_exponentials_have_nothing_to_be_careful_about() -> None:
    for metric in ("logit_diff", "margin", "mse"):
        assert carefully(losses_for(make("gpt2", metric))) is None
    assert carefully(PlainLosses(make("gpt2", "kl"))) is None


@pytest.mark.parametrize("metric", ["kl", "nll", "prob_diff"])
def test_both_engines_measure_the_same_where_exp_overflows(metric: str) -> None:
    problem = make("gpt2", metric)
    ends = problem.store.ends
    model = random_model("gpt2", 0, d_model=16, d_vocab=VOCAB, d_vocab_out=VOCAB)
    model = replace(model, W_U=ends.W_U.double() * 100, b_U=ends.b_U.double() * 100).to(dtype=torch.float32)
    problem = build_problem(model, problem.prompts, metric=metric)
    wide, edges = ReferenceEngine(problem.in_float64()), list(problem.graph.incoming(Receiver("logits")))[::-1]
    suffix, reference = SuffixEngine(problem), ReferenceEngine(problem)
    for edge in edges:
        trials = [Trial(edge, (edge,)), Trial(edge, ())]
        expected = wide.measure(trials)
        for engine in (suffix, reference):
            assert engine.measure(trials) == pytest.approx(expected, rel=1e-4, abs=1e-5)


# ---- large divergences


def test_large_divergences_are_taken_coarsely_and_small_ones_are_not() -> None:
    problem = make("gpt2", "kl")
    losses, slow = losses_for(problem), Slow(problem)
    assert isinstance(losses, KlLosses)
    large, small = streams(problem, 1.0), streams(problem, 1e-3)
    fine = losses(large)
    assert not losses.expect(float(fine.min()))
    assert not losses.coarse  # the same question has the same answer
    losses.moved()
    assert losses.coarse
    assert losses(large).tolist() == pytest.approx(slow.losses(large), rel=0, abs=3e-7)
    assert not torch.equal(losses(large), fine)  # or the fine way would be taken all along
    assert not losses.expect(float(fine.min()))
    assert losses.coarse
    assert losses.expect(float(losses(small).min()))  # too coarse: to be asked again
    assert not losses.coarse
    assert losses(small).tolist() == pytest.approx(slow.losses(small), abs=1e-8)
    assert not losses.expect(float(losses(small).min()))
    losses.moved()
    assert not losses.coarse
    losses.coarse = True
    assert losses.expect(math.nan)
    losses.moved()
    assert not losses.coarse


def test_an_engine_in_coarse_mode_asks_again_when_divergences_shrink() -> None:
    """The suffix engine's answers are those of float64 wherever its last ones lay.

    What float32 does to the final stream moves a KL in proportion to its square root; by how much hangs on the machine.
    """
    problem = make("gpt2", "kl", seed=2)
    edges = list(problem.graph.incoming(Receiver("logits")))[::-1]
    suffix, exact = SuffixEngine(problem), ReferenceEngine(problem.in_float64())
    everything = Trial(edges[0], tuple(edges))

    def measured(trial: Trial) -> float:
        ((found,), (loss,)) = suffix.measure([trial]), exact.measure([trial])
        assert abs(found - loss) <= 3e-6 * math.sqrt(max(loss, 0)) + 1e-10
        return found

    alone = {edge: measured(Trial(edge, (edge,))) for edge in edges for _ in range(2) if measured(everything) > 1}
    assert not suffix._finals.coarse  # nothing has moved
    least = min(alone, key=lambda edge: alone[edge])
    rest = [edge for edge in edges if edge != least]
    for removed in ([least], rest):
        suffix.remove(removed)
        exact.remove(removed)
        assert suffix._finals.coarse  # the last trial's divergence was large
        assert (measured(Trial(rest[0], ())) > 1) == (removed == rest)
        assert suffix._finals.coarse == (removed == rest)  # after a small one they are taken finely
        if removed != rest:
            measured(Trial(rest[0], tuple(rest)))


# ---- the change of the logits had from heads


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("norm", NORMS)
def test_along_heads_is_the_direct_way(norm: str, hard: str) -> None:
    problem = make(NORMS[norm], "kl", hard)
    losses, slow, ends = losses_for(problem, 256), Slow(problem), problem.store.ends
    assert isinstance(losses, KlLosses)
    generator = torch.Generator().manual_seed(3)
    current = streams(problem, 1e-3)[0]
    kept = HeadLogits(ends, capacity_bytes=2**20)
    output = problem.store.layer(0, frozenset()).output(0)
    for _ in range(3):
        z = torch.randn(4, len(current), ends.config.d_head, generator=generator) * 1e-3
        resid = (current + z @ output).float()
        heads = {1: (z, output)}
        found = losses.along(resid, lambda clean, mean: kept.change(clean, current, resid, heads, mean))  # noqa: B023
        # heads' outputs are added to streams in float32, and without a norm that rounding meets W_U as it is
        bound = 3e-7 if norm == "none" else 1e-8
        assert found.tolist() == pytest.approx(losses(resid).tolist(), rel=1e-5, abs=bound)
        assert found.tolist() == pytest.approx(slow.losses(resid), rel=1e-5, abs=bound)
        kept.keep(heads, 2)
        current = resid[2]


@pairs({"metric": METRICS, "hard": list(HARD), "norm": list(NORMS)})
def test_both_engines_measure_what_float64_does(norm: str, hard: str, metric: str) -> None:
    """The state's own rounding comes in here, so that bounds are of the size of the largest logit."""
    problem = make(NORMS[norm], metric, hard)
    wide, reference, suffix = ReferenceEngine(problem.in_float64()), ReferenceEngine(problem), SuffixEngine(problem)
    edges = list(problem.graph.incoming(Receiver("logits")))[::-1]
    for edge in edges:
        trials = [Trial(edge, ()), Trial(edge, (edge,))]
        expected = wide.measure(trials)
        scale = max(1.0, HARD[hard][0]) * (1.0 + 0.3 * HARD[hard][2])
        for engine in (reference, suffix):
            found = engine.measure(trials)
            bound = 1e-7 * scale**2 if metric in ("kl", "mse") else 1e-4
            assert found == pytest.approx(expected, rel=2e-5 * scale, abs=bound)


def test_items_that_share_a_row_are_told_apart() -> None:
    """The seventh item reads the fifth's row, with targets of its own."""
    problem = make("gpt2", "logit_diff")
    rows, index = rows_of(problem)
    assert index is not None
    assert index.tolist().count(int(index[0])) == 2
    resid = streams(problem, 0.3)
    assert gather_items(torch.zeros(3, 5, 2), rows).shape == (6, 2)
    assert losses_for(problem)(resid).tolist() == pytest.approx(Slow(problem).losses(resid), rel=1e-12)
