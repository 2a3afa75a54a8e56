"""Rounds that are replayed decide what rounds on their own decide, and give the same bits as what was recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.small_models import FAMILIES, random_model, random_prompts
from tape import Tape

from pahq.circuits.graph import Receiver
from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import ChangeEngine, SuffixEngine, budget, kept, recorded, windows
from pahq.engine.suffix.graphs import CudaGraphs
from pahq.engine.suffix.mixing import mixes_of
from pahq.engine.suffix.recorded import Recordings
from pahq.engine.suffix.wave import Wave
from pahq.search.acdc import Decision, acdc
from pahq.search.speculate import speculate
from pahq.search.start import focus_on

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def wide_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, so that a stage has windows of one width again and again; recorded when the second one comes."""
    monkeypatch.setattr(budget, "sizes_for", lambda device: budget.CARD)
    monkeypatch.setattr(recorded, "AFTER", 2)


def problem_of(family: str = "gpt2", *, dtype: torch.dtype = torch.float64, same: int = 1, **setting: Any) -> Problem:
    model = random_model(family, layers=3, dtype=dtype)
    return build_problem(model, random_prompts(model, same=same), **({"metric": "kl"} | setting))


def searched(engine: SuffixEngine, threshold: float, **options: Any) -> list[Decision]:
    return list(speculate(engine, Order(), threshold, focus=focus_on(engine.problem), **options))


def told(decisions: list[Decision]) -> list[tuple[int, bool]]:
    return [(decision.edge, decision.removed) for decision in decisions]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("threshold", [0.02, 0.3])
def test_a_search_by_recordings_is_the_search(family: str, threshold: float) -> None:
    problem, tape = problem_of(family), Tape()
    engine = SuffixEngine(problem, record=tape)
    found, alone = searched(engine, threshold), searched(SuffixEngine(problem), threshold)
    assert told(found) == told(alone)
    assert max(abs(one.after - other.after) for one, other in zip(found, alone, strict=True)) < 1e-12
    assert tape.replayed > 4
    assert engine._recordings is not None
    assert engine._recordings.replayed > engine._recordings.made > 0


@pytest.mark.parametrize("setting", [{"ablation": "zero"}, {"ablation": "mean"}, {"metric": "logit_diff"}])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_other_ablations_and_metrics(family: str, setting: dict[str, str]) -> None:
    problem, tape = problem_of(family, **setting), Tape()
    expected = told(list(acdc(ReferenceEngine(problem), Order(), 0.05)))
    assert told(searched(SuffixEngine(problem, record=tape), 0.05)) == expected
    assert tape.replayed > 0


def test_a_search_in_float32() -> None:
    problem, tape = problem_of("gpt2", dtype=torch.float32), Tape()
    assert told(searched(SuffixEngine(problem, record=tape), 0.02)) == told(searched(SuffixEngine(problem), 0.02))
    assert tape.replayed > 0


@pytest.mark.parametrize("stop", [5, 40, 110])
def test_a_search_goes_on_from_anywhere(stop: int) -> None:
    problem = problem_of()
    whole = searched(SuffixEngine(problem, record=Tape()), 0.02)
    rest = searched(SuffixEngine(problem, record=Tape()), 0.02, done=whole[:stop])
    assert told(whole[:stop]) + told(rest) == told(whole)


def test_a_replay_has_the_bits_of_what_it_records() -> None:
    problem = problem_of("llama")
    engine, graph = SuffixEngine(problem, record=Tape()), problem.graph
    edges = list(graph.incoming(Receiver("head", 1, 0, "q")))[::-1]
    trials = [Trial(edge, tuple(edges[: i + 1])) for i, edge in enumerate(edges)]
    engine.measure(trials)  # by a wave of its own
    recorded, replayed = engine.measure(trials), engine.measure(trials)
    assert engine._recordings is not None
    assert (engine._recordings.made, engine._recordings.replayed) == (1, 2)
    assert recorded == replayed
    fewer = engine.measure(trials[:-1])
    assert engine._recordings.made == 1
    assert fewer == replayed[:-1]


def test_trials_of_other_heads_and_letters_share_a_recording() -> None:
    problem = problem_of()
    engine = SuffixEngine(problem, record=Tape(), cheap_losses=False)  # which are taken in one way throughout
    plain = SuffixEngine(problem, cheap_losses=False)
    for letter in "vkq":
        for head in (2, 1, 0):
            edges = list(problem.graph.incoming(Receiver("head", 1, head, letter)))[::-1][:4]
            trials = [Trial(edge, tuple(edges[: i + 1])) for i, edge in enumerate(edges)]
            for asked in (engine, plain):
                asked.measure(trials)
            found, expected = engine.measure(trials), plain.measure(trials)
            assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) < 1e-13
            for asked in (engine, plain):
                asked.remove(edges[:2])
    assert engine._recordings is not None
    assert engine._recordings.made == 1


def test_heads_that_a_trial_does_not_touch_stay_as_they_are() -> None:
    problem = problem_of()
    engine, changed = SuffixEngine(problem), [Receiver("head", 2, head, "v") for head in range(3)]
    engine.window(problem.graph.incoming(changed[0])[0])
    state, touched = engine._state, torch.tensor([[True, False], [False, False], [True, True]])[..., None, None, None]
    with torch.inference_mode():
        wave, mixes = engine._new_wave(2), mixes_of(state, 2, changed)
        fresh = {at: torch.randn(2, *state.projections[at].shape, dtype=torch.float64) for at in changed}
        every, some = (wave._mixed(2, mixes, fresh, False, given) for given in (None, touched))
    for (heads, new), (_, z) in zip(every, some, strict=True):
        old = state.z[2][:, :, -new.shape[-2] :]
        for at, head in enumerate(heads):
            for trial in range(2):
                assert torch.equal(z[at, trial], new[at, trial] if touched[head, trial] else old[head])
                assert not torch.equal(new[at, trial], old[head])


@pytest.mark.parametrize(("family", "told_apart"), [("gpt2", True), ("olmo2", False)])  # one norm over all heads
def test_a_recording_is_told_which_heads_a_trial_touches(
    family: str, told_apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, start = [], Wave.start_heads

    def noted(wave: Wave, *given: Any, **named: Any) -> tuple[int, ...]:
        if "touched" in named:
            asked.append(named["touched"] is not None)
        return start(wave, *given, **named)

    monkeypatch.setattr(Wave, "start_heads", noted)
    searched(SuffixEngine(problem_of(family), record=Tape()), 0.02)
    assert asked
    assert set(asked) == {told_apart}


def test_what_cannot_be_recorded_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = PrecisionConfig(name="int8", format="int8")
    model = random_model("gpt2", layers=2, dtype=torch.float32)
    prompts = random_prompts(model)
    for setting in ({"focus": "receiver"}, {"store": "packed"}, {"arithmetic": "changes", "focus": "receiver"}):
        problem, tape = build_problem(model, prompts, metric="kl", precision=int8, **setting), Tape()
        kind = SuffixEngine if problem.changes is None else ChangeEngine
        assert searched(kind(problem, record=tape), 0.05)
        assert tape.operations == []
    problem, tape = problem_of(focus="receiver"), Tape()  # where full precision everywhere makes no difference
    alone = searched(SuffixEngine(problem), 0.02)
    assert told(searched(SuffixEngine(problem, record=tape), 0.02)) == told(alone)
    assert tape.operations == []
    problem, tape = problem_of(), Tape()
    monkeypatch.setattr(kept.KeptInputs, "pin", lambda self, receiver: False)  # no room for it
    assert told(searched(SuffixEngine(problem, record=tape), 0.02)) == told(searched(SuffixEngine(problem), 0.02))
    assert len(tape.operations) <= 1  # the logits' own, behind which nothing lies


def test_what_cannot_be_recorded_is_tried_once_for_the_same_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, tried, work = problem_of(), list[tuple[str, int]](), Recordings._work
    monkeypatch.setattr(kept.KeptInputs, "pin", lambda self, receiver: False)

    def noted(self: Recordings, *args: Any) -> Any:
        tried.append(self._nodes)
        return work(self, *args)

    monkeypatch.setattr(Recordings, "_work", noted)
    searched(SuffixEngine(problem, record=Tape()), 0.02)
    tried = [nodes for nodes in tried if nodes != ("logits", -1)]
    assert tried
    assert len(tried) == len(set(tried))


def test_edges_that_can_change_nothing_are_measured_again_and_again() -> None:
    problem = problem_of()
    engine, graph = SuffixEngine(problem, record=Tape()), problem.graph
    engine.remove(list(graph.incoming(Receiver("logits"))))
    edge = graph.direct(Receiver("head", 2, 0, "v"))
    assert edge is not None
    losses = [engine.measure([Trial(edge, (edge,))]) for _ in range(3)]
    assert losses[0] == losses[1] == losses[2]


def test_rounds_that_the_card_takes_long_for_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, made = problem_of(), []
    for rows in (10**6, 0):
        monkeypatch.setattr(windows, "RECORDED_ROWS", rows)
        engine = SuffixEngine(problem, record=Tape())
        searched(engine, 0.02)
        assert engine._recordings is not None
        made.append(engine._recordings.made)
    assert made[0] > 0 == made[1]


def test_a_ceiling_holds_recordings_too() -> None:
    problem = problem_of(dtype=torch.float32)
    plain = SuffixEngine(problem)
    engine = SuffixEngine(problem, record=Tape())
    assert 0 < engine._recorded_bytes <= plain.budget.window_bytes - engine.budget.window_bytes
    tight, tape = budget.least_bytes(problem), Tape()
    assert told(searched(SuffixEngine(problem, memory_bytes=tight, record=tape), 0.02)) == told(searched(plain, 0.02))
    assert tape.operations == []


def test_a_tape_refuses_what_a_graph_refuses_and_undoes_what_it_ran() -> None:
    with pytest.raises(AssertionError, match="cannot be recorded"):
        Tape()(lambda: float(torch.ones(1).sum()))
    place, tape = torch.ones(3), Tape()
    result, replay = tape(lambda: place.add_(1) * 2)
    assert place.tolist() == [1, 1, 1]
    place.fill_(5)
    replay()
    assert place.tolist() == [6, 6, 6]
    assert result.tolist() == [12, 12, 12]


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_cuda_graphs_decide_the_same(family: str) -> None:
    model = random_model(family, layers=3).to(device="cuda")
    problem = build_problem(model, random_prompts(model, same=1), metric="kl")
    engine = SuffixEngine(problem, record=CudaGraphs(torch.device("cuda")))
    for threshold in (0.02, 0.3):
        engine.reset()
        assert told(searched(engine, threshold)) == told(searched(SuffixEngine(problem), threshold))
        assert engine._recordings is not None
        assert engine._recordings.replayed > engine._recordings.made > 0
