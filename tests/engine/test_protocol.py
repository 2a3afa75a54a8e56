"""What callers may rely on from every engine, and what they must keep: the text of ``pahq.engine.base.Engine``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import Any

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.circuits.order import Order, Visit, stage_numbers
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Engine, Resettable, Trial, takes_windows
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.engine.suffix.budget import least_bytes
from pahq.errors import PahqError
from pahq.precision.store import focus_of
from pahq.search.acdc import Decision
from pahq.search.start import search_by

INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
ENGINES: dict[str, Callable[[Problem], Resettable]] = {
    "reference": ReferenceEngine,
    "suffix": SuffixEngine,
    "suffix with little memory": lambda problem: SuffixEngine(problem, memory_bytes=least_bytes(problem)),
    "suffix with much memory": lambda problem: SuffixEngine(problem, memory_bytes=2**30),
}
EVERY = pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))


@cache
def problem_of(family: str = "gpt2", *, metric: str = "kl", focus: str = "none", dtype: Any = torch.float32) -> Problem:
    model = random_model(family, layers=2, d_model=16, dtype=dtype)
    low = INT8 if focus == "receiver" else None
    return build_problem(model, random_prompts(model), metric=metric, precision=low, focus=focus)


@cache
def found_in(family: str, *, metric: str = "kl", focus: str = "none", dtype: Any = torch.float32) -> list[Decision]:
    """A search that keeps some edges and removes others."""
    problem = problem_of(family, metric=metric, focus=focus, dtype=dtype)
    found = list(search_by(ReferenceEngine(problem), problem, Order(), 0.1))
    assert 5 < sum(d.removed for d in found) < len(found) - 5
    return found


def windows(problem: Problem, decisions: list[Decision]) -> list[list[Decision]]:
    """The tests of a search, up to five at a time that may be measured together."""
    numbers = stage_numbers(problem.graph)

    def alike(decision: Decision) -> object:
        edge = problem.graph.edges[decision.edge]
        return numbers[Visit(edge.receiver, edge.direct)], focus_of(problem.graph, edge, problem.focus)

    groups = [list(members) for _, members in groupby(decisions, key=alike)]
    return [group[i : i + 5] for group in groups for i in range(0, len(group), 5)]


def questions(window: list[Decision]) -> list[Trial]:
    """Each test on its own, all of them at once, and the state as it is."""
    edges = [decision.edge for decision in window]
    return [Trial(edge, (edge,)) for edge in edges] + [Trial(edges[0], tuple(edges)), Trial(edges[0], ())]


@EVERY
@pytest.mark.parametrize("focus", ["none", "receiver"])
@pytest.mark.parametrize("metric", ["kl", "nll"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_asked_again_at_once_a_loss_is_the_same_to_the_last_bit(
    engine: Callable[[Problem], Engine], family: str, metric: str, focus: str
) -> None:
    problem = problem_of(family, metric=metric, focus=focus)
    one = engine(problem)
    for window in windows(problem, found_in(family, metric=metric, focus=focus)):
        trials = questions(window)
        first = one.measure(trials)
        assert one.measure(trials) == first
        assert one.measure(trials[:1]) == one.measure(trials[:1])
        one.remove([decision.edge for decision in window if decision.removed])


@EVERY
@pytest.mark.parametrize("focus", ["none", "receiver"])
def test_measuring_takes_no_edge_away_and_removing_needs_no_measure(
    engine: Callable[[Problem], Engine], focus: str
) -> None:
    """One engine is asked a lot, the other nothing but the question at hand."""
    problem = problem_of("llama", focus=focus, dtype=torch.float64)
    asked, silent = engine(problem), engine(problem)
    for window in windows(problem, found_in("llama", focus=focus, dtype=torch.float64)):
        trials = questions(window)
        for trial in (*trials, *reversed(trials)):
            asked.measure([trial])
        gone = [decision.edge for decision in window if decision.removed]
        for one in (asked, silent):
            one.remove(gone)
        state = [Trial(window[0].edge, ())]
        assert asked.measure(state) == pytest.approx(silent.measure(state), rel=1e-9, abs=1e-12)


@EVERY
def test_a_reset_brings_every_edge_back(engine: Callable[[Problem], Resettable]) -> None:
    problem = problem_of()
    one, first = engine(problem), list(search_by(engine(problem), problem, Order(), 0.1))
    for _ in range(2):
        assert list(search_by(one, problem, Order(), 0.1)) == first
        one.reset()


@EVERY
def test_losses_are_of_the_state_whatever_mix_of_nodes_is_removed(engine: Callable[[Problem], Engine]) -> None:
    """An edge into a head that nothing reads comes first, one into a head that matters after it."""
    problem = problem_of(dtype=torch.float64)
    graph, expected, one = problem.graph, ReferenceEngine(problem), engine(problem)
    dead = graph.senders.index(next(node for node in graph.senders if str(node) == "a1.h0"))
    for receiver in (Receiver("logits"), Receiver("mlp", 1)):
        for each in (one, expected):
            each.remove([graph.incoming(receiver)[0] + dead])
    mixed = [graph.incoming(Receiver("head", 1, head, "q"))[0] for head in (0, 1)]
    for each in (one, expected):
        each.remove(mixed)
    state = [Trial(mixed[1], ())]
    assert one.measure(state) == pytest.approx(expected.measure(state), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "reference"])
@pytest.mark.parametrize("call", ["measure", "window", "remove"])
@pytest.mark.parametrize("moved_by", ["measure", "window", "remove"])
def test_an_earlier_stage_is_refused_and_nothing_is_lost(name: str, call: str, moved_by: str) -> None:
    problem = problem_of()
    graph, engine = problem.graph, ENGINES[name](problem)
    assert takes_windows(engine)
    logits, below = graph.incoming(Receiver("logits"))[0], graph.incoming(Receiver("mlp", 1))[0]
    {
        "measure": lambda: engine.measure([Trial(below, (below,))]),
        "window": lambda: engine.window(below),
        "remove": lambda: engine.remove([below]),
    }[moved_by]()
    before = engine.measure([Trial(below, (below,))])
    refused: dict[str, Callable[[], object]] = {
        "measure": lambda: engine.measure([Trial(logits, (logits,))]),
        "window": lambda: engine.window(logits),
        "remove": lambda: engine.remove([logits]),
    }
    sentence = f"tests from the output down; {graph.edges[logits]} comes before what was tested last"
    with pytest.raises(PahqError, match=re.escape(sentence)):
        refused[call]()
    assert engine.measure([Trial(below, (below,))]) == before


def test_the_reference_answers_in_any_order() -> None:
    problem = problem_of()
    engine = ReferenceEngine(problem)
    trials = [Trial(edge, (edge,)) for edge in range(len(problem.graph.edges))]
    upward = engine.measure(trials)
    assert engine.measure(trials[::-1]) == upward[::-1]
    assert not takes_windows(engine)


def test_edges_of_two_stages_and_trials_of_two_foci_are_refused_before_anything_moves() -> None:
    problem = problem_of(focus="receiver")
    graph, engine = problem.graph, SuffixEngine(problem)
    logits, below = graph.incoming(Receiver("logits"))[0], graph.incoming(Receiver("mlp", 1))[0]
    two = f"edges of one stage together; {graph.edges[logits]} and {graph.edges[below]} are of two"
    for ask in (
        lambda: engine.measure([Trial(logits, ()), Trial(below, ())]),
        lambda: engine.measure([Trial(logits, (logits, below))]),
        lambda: engine.remove([below, logits]),
    ):
        with pytest.raises(PahqError, match=re.escape(two)):
            ask()
    heads = [graph.incoming(Receiver("head", 1, head, "q"))[0] for head in (0, 1)]
    foci = f"of one focus together; {graph.edges[heads[0]]} and {graph.edges[heads[1]]} have two"
    with pytest.raises(PahqError, match=re.escape(foci)):
        engine.measure([Trial(head, ()) for head in heads])
    assert engine.measure([Trial(logits, ())]) == SuffixEngine(problem).measure([Trial(logits, ())])


@EVERY
@pytest.mark.parametrize("kind", ["mlp", "head"])
def test_an_edge_into_a_node_that_nothing_reads_any_more_changes_no_loss(
    engine: Callable[[Problem], Engine], kind: str
) -> None:
    problem = problem_of(dtype=torch.float64)
    graph, one = problem.graph, engine(problem)
    unread, numbers = Receiver(kind, 1, letter="v" if kind == "head" else ""), stage_numbers(graph)
    senders = {graph.senders[sender] for sender in graph.outputs(unread)}
    reading = [number for number, edge in enumerate(graph.edges) if edge.sender in senders]
    reading.sort(key=lambda number: numbers[Visit(graph.edges[number].receiver, False)])
    for _, edges in groupby(reading, key=lambda number: numbers[Visit(graph.edges[number].receiver, False)]):
        one.remove(list(edges))
    first, second, *_ = graph.incoming(unread)
    losses = one.measure([Trial(first, ()), Trial(first, (first,)), Trial(second, (first, second))])
    assert losses == [pytest.approx(losses[0], abs=1e-12)] * 3
    one.remove([first])
    assert one.measure([Trial(second, ())]) == [pytest.approx(losses[0], abs=1e-12)]
