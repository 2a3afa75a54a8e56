"""A follower tells an engine's losses in the state of another's search, and asks the engine no more than it must."""

from __future__ import annotations

import random

import pytest
from support.cost_engines import GRAPH, Costs

from pahq.circuits.graph import Receiver
from pahq.circuits.order import Order, visits
from pahq.search.acdc import visit_edges
from pahq.search.follow import Follower

COST = [2.0**-i for i in range(len(GRAPH.edges))]  # every sum tells what is in it
LOGITS = list(GRAPH.incoming(Receiver("logits")))[::-1]
MLP = list(GRAPH.incoming(Receiver("mlp", 1)))[::-1]


def test_nothing_is_asked_of_the_engine_before_it_has_to_answer() -> None:
    engine = Costs(COST)
    follower = Follower(engine)
    for edge in LOGITS[:3]:
        follower.decided(edge, True)
    follower.decided(LOGITS[3], False)
    assert engine.asked == []


def test_a_stage_that_is_over_is_taken_away_at_once_and_the_one_at_hand_within_the_trials() -> None:
    engine = Costs(COST)
    follower = Follower(engine)
    follower.decided(LOGITS[1], True)
    follower.decided(LOGITS[2], True)
    follower.decided(MLP[0], True)
    before, after = follower.losses(MLP[1])
    assert engine.asked == [
        ("remove", (LOGITS[1], LOGITS[2])),
        ("measure", (MLP[0],)),
        ("measure", (MLP[0], MLP[1])),
    ]
    assert before == (COST[LOGITS[1]] + COST[LOGITS[2]] + COST[MLP[0]])
    assert after == before + COST[MLP[1]]
    follower.decided(MLP[1], True)  # the trial just measured is taken over whole
    assert engine.asked[-1] == ("remove", (MLP[0], MLP[1]))
    assert sorted(engine.gone) == sorted([*LOGITS[1:3], *MLP[:2]])


def test_the_state_after_an_answer_is_not_measured_again() -> None:
    engine = Costs(COST)
    follower = Follower(engine)
    follower.losses(LOGITS[0])
    follower.decided(LOGITS[0], False)
    assert follower.losses(LOGITS[1]) == (0.0, COST[LOGITS[1]])
    follower.decided(LOGITS[1], True)
    assert follower.losses(LOGITS[2])[0] == COST[LOGITS[1]]
    assert engine.measured == 2 + 1 + 1


def test_what_another_focus_left_is_measured_again() -> None:
    """The change of precision from one head to the next would else be booked on the next head's first edge."""
    cost, layer = [0.25] * len(GRAPH.edges), lambda edge: edge // 2
    for focus, effects in ((layer, {0.25}), (lambda edge: None, {0.25, -0.75})):
        follower, seen = Follower(Costs(cost, shift=lambda edge: float(layer(edge))), focus), set()
        for edge in LOGITS[:4]:
            before, after = follower.losses(edge)
            seen.add(after - before)
            follower.decided(edge, False)
        assert seen == effects


@pytest.mark.parametrize("seed", range(20))
def test_whenever_it_is_asked_it_answers_in_the_state_of_the_search(seed: int) -> None:
    draw = random.Random(seed)
    follower, gone = Follower(Costs(COST)), list[int]()
    for visit in visits(GRAPH):
        for edge in visit_edges(GRAPH, visit, Order()):
            if draw.random() < 0.2:
                for _ in range(draw.choice([1, 1, 2])):  # asking twice changes nothing
                    before, after = follower.losses(edge)
                    assert before == Costs(COST).loss(set(gone))
                    assert after == Costs(COST).loss({*gone, edge})
            removed = draw.random() < 0.5
            follower.decided(edge, removed)
            gone += [edge] if removed else []
