"""Where a wave starts: what is taken in a trial, and what is there."""

from __future__ import annotations

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.engine.suffix.trials import _numbers, present_edges, senders_taken


@pytest.mark.parametrize("direct", [True, False])
def test_the_edges_of_a_trial_are_those_of_the_reference(direct: bool) -> None:
    """After removals of every kind: into the logits, an MLP, heads, and of Direct edges."""
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl", direct_edges=direct)
    graph = problem.graph
    suffix, reference = SuffixEngine(problem), ReferenceEngine(problem)
    names = ["a1.h0->logits", "embed->m1", *(["a1.h1<v>", "a1.h2<q>"] if direct else []), "a0.h2->a1.h1<k>"]
    for name in (*names, "embed->a1.h1<q>"):
        for engine in (suffix, reference):
            engine.remove([graph.index_of(name)])
    edges = tuple(graph.incoming(Receiver("mlp", 0)))
    for trial in (Trial(edges[0], ()), Trial(edges[0], edges[:1]), Trial(edges[0], edges[1:])):
        assert torch.equal(present_edges(suffix._state, trial), reference._present(trial))


def test_senders_are_taken_in_the_order_of_their_tests() -> None:
    model = random_model("gpt2")
    graph = build_problem(model, random_prompts(model), metric="kl").graph
    receiver, other = Receiver("mlp", 1), Receiver("head", 1, 0, "q")
    edges = graph.incoming(receiver)
    trial = Trial(edges[2], (edges[5], graph.incoming(other)[1], edges[0], edges[-1]))
    assert senders_taken(graph, trial, receiver) == (5, 0, len(edges) - 1)
    assert senders_taken(graph, trial, other) == (1,)
    assert senders_taken(graph, trial, Receiver("logits")) == ()


def test_numbers_that_windows_ask_for_again_are_sent_once() -> None:
    """As a GPU would wait for them each time."""
    asked = ((True, False), (False, True)), torch.device("cpu")
    with torch.inference_mode():
        sent = _numbers(*asked)
    assert sent.tolist() == [[True, False], [False, True]]
    assert _numbers(*asked) is sent
    assert not sent.is_inference()


@pytest.mark.parametrize("taken", [1, 2, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_taken_over_is_the_trial_that_came_true(family: str, taken: int) -> None:
    """Of a window in which each trial takes a sender more, from two heads in turn; some trials share a state."""
    model = random_model(family)
    problem = build_problem(model, random_prompts(model), metric="kl")
    engine, reference = SuffixEngine(problem, memory_bytes=2**30), ReferenceEngine(problem)
    heads = [Receiver("head", 1, head, "k") for head in (1, 0)]
    one, other = (problem.graph.incoming(receiver) for receiver in heads)
    edges = (one[2], one[0], other[3])
    engine.measure([Trial(edge, edges[: i + 1]) for i, edge in enumerate(edges)])
    for each in (engine, reference):
        each.remove(edges[:taken])
    for receiver in heads:
        with torch.inference_mode():
            expected = engine._state.fresh_input(receiver)
        assert (engine._state.inputs[receiver] - expected).abs().max() < 1e-12
    below = problem.graph.incoming(Receiver("mlp", 0))[0]
    trials = [Trial(below, ()), Trial(below, (below,))]
    assert engine.measure(trials) == pytest.approx(reference.measure(trials), abs=1e-12)
