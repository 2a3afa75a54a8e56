"""Which heads are mixed in one go."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver
from pahq.engine.problem import build_problem
from pahq.engine.suffix import SuffixEngine, mixing
from pahq.engine.suffix.mixing import mixes_of
from pahq.engine.suffix.needs import EVERYWHERE, LAST
from pahq.engine.suffix.state import State
from pahq.model.attention import added_future


def state_of(family: str, layer: int, *, gone: tuple[str, ...] = (), same: int = 0) -> State:
    """The state of a search that has come to a layer, four heads in each; prompts of five tokens."""
    groups = {"kv_heads": 4} if family == "gpt2" else {}
    model = random_model(family, layers=2, heads=4, **groups)
    problem = build_problem(model, random_prompts(model, same=same), metric="kl")
    engine, graph = SuffixEngine(problem), problem.graph
    for name in gone:
        engine.remove([graph.index_of(name)])
    engine.window(graph.incoming(Receiver("head", layer, 0, "v"))[0])
    return engine._state


def heads_of(state: State, layer: int, *changed: str) -> list[tuple[int, ...]]:
    """Heads that are mixed together where inputs changed, which are named as "q0"."""
    receivers = [Receiver("head", layer, int(name[1:]), name[0]) for name in changed]
    return [mix.heads for mix in mixes_of(state, layer, receivers)]


@pytest.mark.parametrize("same", [0, 2])
def test_heads_whose_pattern_stays_are_apart_where_prompts_are_long(same: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that never change are among those that attention reads."""
    state = state_of("gpt2", 0, same=same)
    for long, apart in ((5, True), (6, False)):
        monkeypatch.setattr(mixing, "LONG", long)
        together = [(0, 1, 3)]
        assert heads_of(state, 0, "q0", "k3", "v1") == ([(0, 3), (1,)] if apart else together)
        assert heads_of(state, 0, "q0", "v0", "k3", "v3") == [(0, 3)]  # their patterns change
        assert heads_of(state, 0, "v0", "q0") == heads_of(state, 0, "q0", "v0") == [(0,)]
        assert heads_of(state, 0, "v1", "v2") == [(1, 2)]


def test_at_the_last_position_alone_they_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "LONG", 1)
    state = state_of("gpt2", 1)
    assert heads_of(state, 1, "q0", "v1") == [(0, 1)]
    assert [mix.need for mix in mixes_of(state, 1)] == [LAST]
    assert [mix.heads for mix in mixes_of(state, 1)] == [(0, 1, 2, 3)]


def test_heads_of_two_needs_are_apart_and_those_that_nothing_reads_are_left_out() -> None:
    """Head 1 enters queries alone, so that its last position matters; head 2 nothing at all."""
    letters = [f"a1.h{head}<{letter}>" for head in range(4) for letter in "kv"]
    gone = [f"a0.h1->{at}" for at in letters] + ["a0.h1->m0", "a0.h1->logits"]
    gone += [f"a0.h2->{at}" for at in letters] + [f"a0.h2->a1.h{head}<q>" for head in range(4)]
    gone += ["a0.h2->m0", "a0.h2->m1", "a0.h2->logits"]
    state = state_of("gpt2", 0, gone=tuple(sorted(gone, key=order_of)))
    mixes = {mix.need: mix for mix in mixes_of(state, 0)}
    assert {need: mix.heads for need, mix in mixes.items()} == {LAST: (1,), EVERYWHERE: (0, 3)}
    assert mixes[EVERYWHERE].q == (Receiver("head", 0, 0, "q"), Receiver("head", 0, 3, "q"))
    assert mixes[EVERYWHERE].groups == (0, 3)
    assert heads_of(state, 0, "q2") == []
    assert heads_of(state, 0) == []


def order_of(name: str) -> int:
    """From the output down, as a search goes: logits, m1, heads of layer 1 by letter, m0."""
    receiver = name.split("->")[1]
    places = {"logits": 0, "m1": 1, "m0": 9}
    return places.get(receiver, 2 + "vkq".index(receiver[-2])) if "<" in receiver else places[receiver]


def test_all_heads_of_a_group_follow_their_key_and_all_heads_of_a_layer_a_common_norm() -> None:
    assert heads_of(state_of("llama", 1), 1, "v1") == [(2, 3)]
    assert heads_of(state_of("olmo2", 1), 1, "q0") == [(0, 1, 2, 3)]


@pytest.mark.parametrize(("queries", "positions"), [(4, 4), (2, 5), (1, 3)])
def test_what_lies_behind_a_query_is_masked_by_a_tensor_that_is_made_once(queries: int, positions: int) -> None:
    """The queries are the last positions. A GPU would wait for each tensor that is sent to it anew."""
    asked = queries, positions, torch.float64, torch.device("cpu")
    mask = added_future(*asked, True)
    first = positions - queries
    expected = [[-math.inf if at > first + query else 0.0 for at in range(positions)] for query in range(queries)]
    assert mask.tolist() == expected
    assert added_future(*asked, True) is mask
    assert not added_future(*asked, False).any()
    assert not mask.is_inference()
