"""ACDC against a fake engine: rules, cascade of disconnection, changes of focus, resuming."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.order import Order
from pahq.engine.base import Trial
from pahq.errors import PahqError
from pahq.search.acdc import Decision, acdc, circuit_of, is_removed, margin
from pahq.search.speculate import speculate

SHAPE = ModelShape(2, 2, 2, True)
GRAPH = build_graph(SHAPE)


class FakeEngine:
    """Each removed edge adds its cost to the loss; ``base`` may depend on the edge under test (its focus)."""

    def __init__(self, cost: dict[str, float], graph: Graph = GRAPH, base: Callable[[int], float] = lambda edge: 0.0):
        self.graph, self.base, self.gone, self.asked = graph, base, set[int](), list[Trial]()
        self.cost = {graph.index_of(name): value for name, value in cost.items()}

    def measure(self, trials: Sequence[Trial]) -> list[float]:
        self.asked += trials
        return [self.base(t.edge) + sum(self.cost.get(e, 0.0) for e in self.gone | set(t.removed)) for t in trials]

    def remove(self, edges: Sequence[int]) -> None:
        self.gone |= set(edges)


def keep(*names: str) -> FakeEngine:
    """Exactly these edges are worth keeping."""
    return FakeEngine(dict.fromkeys(names, 1.0))


def search(engine: FakeEngine, threshold: float = 0.5, **settings: object) -> list[Decision]:
    return list(acdc(engine, Order(), threshold, **settings))  # type: ignore[arg-type]


def edges_of(decisions: list[Decision], graph: Graph = GRAPH) -> list[str]:
    return [str(graph.edges[decision.edge]) for decision in decisions]


def kept(decisions: list[Decision]) -> set[str]:
    return set(circuit_of(GRAPH, decisions).edges)


def test_it_finds_what_matters_and_numbers_its_tests() -> None:
    path = ("m1->logits", "a1.h1->m1", "a1.h1<q>", "embed->a1.h1<q>")
    engine = keep(*path)
    decisions = search(engine)
    assert kept(decisions) == set(path)
    assert [decision.index for decision in decisions] == list(range(len(decisions)))
    assert engine.gone == {i for i, edge in enumerate(GRAPH.edges) if str(edge) not in path}
    assert all(decision.effect == (0.0 if decision.removed else 1.0) for decision in decisions)


def test_effects_are_taken_against_the_current_loss() -> None:
    engine = FakeEngine({"m1->logits": 0.4, "a1.h1->logits": 0.4, "a1.h0->logits": 9.0, "m0->logits": -0.3})
    first = search(engine)[:4]
    assert edges_of(first) == ["m1->logits", "a1.h1->logits", "a1.h0->logits", "m0->logits"]
    numbers = [(round(d.before, 6), round(d.after, 6), d.removed) for d in first]
    assert numbers == [(0.0, 0.4, True), (0.4, 0.8, True), (0.8, 9.8, False), (0.8, 0.5, True)]


def test_the_threshold_is_strict_and_nan_keeps() -> None:
    assert is_removed(0.4999, 0.5)
    assert not is_removed(0.5, 0.5)
    assert not is_removed(0.6, 0.5)
    assert not is_removed(math.nan, 0.5)
    assert not is_removed(math.nan, 0.5, absolute=True)
    assert not is_removed(math.inf, 0.5)
    assert is_removed(-math.inf, 0.5)
    assert not is_removed(0.0, 0.0)  # threshold 0 keeps an edge without effect
    engine = FakeEngine({"m1->logits": 0.5, "a1.h1->logits": math.nan, "a1.h0->logits": 0.0})
    first = search(engine)[:3]
    assert [decision.removed for decision in first] == [False, False, True]
    assert [decision.before for decision in first] == [0.0, 0.0, 0.0]  # what was kept leaves no trace


def test_the_margin_is_the_distance_to_what_would_change_the_decision() -> None:
    assert margin(0.2, 0.5) == pytest.approx(0.3)
    assert margin(-0.2, 0.5) == pytest.approx(0.7)
    assert margin(-0.2, 0.5, absolute=True) == pytest.approx(0.3)
    assert margin(-0.9, 0.5, absolute=True) == pytest.approx(0.4)


def test_a_harmful_edge_goes_unless_absolute_values_are_asked_for() -> None:
    assert is_removed(-3.0, 0.5)
    assert not is_removed(-3.0, 0.5, absolute=True)
    assert is_removed(-0.3, 0.5, absolute=True)
    cost = {"m1->logits": -3.0}
    assert "m1->logits" not in kept(search(FakeEngine(cost)))
    assert "m1->logits" in kept(search(FakeEngine(cost), absolute=True))


def test_a_node_without_children_is_disconnected_and_this_cascades() -> None:
    # m1 loses its only child (logits), so a1.h1, which only m1 would have read, goes untested, and so on down
    decisions = search(keep("a1.h0->logits", "a1.h0<v>", "m0->a1.h0<v>"))
    names = edges_of(decisions)
    assert not any(name.endswith("->m1") for name in names)
    assert not any("a1.h1<" in name for name in names)  # neither its Direct edges nor its inputs
    assert "a1.h0<q>" in names
    assert "a1.h0<v>" in names
    assert not any("->a1.h0<q>" in name or "->a1.h0<k>" in name for name in names)  # their Direct edges are gone
    assert {name for name in names if name.endswith("->a1.h0<v>")} == {
        f"{sender}->a1.h0<v>" for sender in ("m0", "a0.h1", "a0.h0", "embed")
    }
    assert "embed->m0" in names
    assert "a0.h1->m0" in names
    assert not any(name.startswith("a0.h") and "<" in name[:6] for name in names)  # layer 0's heads are not


def test_a_kept_direct_edge_whose_input_lost_every_parent_stays() -> None:
    """ACDC does not prune the other way; the cleaned circuit does."""
    decisions = search(keep("a1.h0->logits", "a1.h0<v>", "embed->a1.h0<v>", "a1.h0<k>"))
    assert "a1.h0<k>" in kept(decisions)
    assert set(circuit_of(GRAPH, decisions).cleaned().edges) == kept(decisions) - {"a1.h0<k>"}


def test_a_removed_direct_edge_disconnects_its_input_alone() -> None:
    names = edges_of(search(keep("a1.h0->logits", "a1.h0<q>", "a1.h0<k>", "m0->a1.h0<q>", "m0->a1.h0<k>")))
    assert not any(name.endswith("->a1.h0<v>") for name in names)
    assert "embed->a1.h0<q>" in names
    assert "embed->a1.h0<k>" in names


def test_a_key_value_head_is_tested_while_any_head_of_its_group_is_read() -> None:
    graph = build_graph(ModelShape(1, 4, 2, False))
    engine = FakeEngine({"a0.h3->logits": 1.0}, graph)
    names = edges_of(search(engine), graph)
    assert "a0.h1<v>" in names
    assert "a0.h1<k>" in names
    assert "a0.h0<v>" not in names
    assert [name for name in names if "<q>" in name] == ["a0.h3<q>"]


def test_without_direct_edges_every_connected_input_is_edges_of() -> None:
    graph = build_graph(SHAPE, direct_edges=False)
    names = edges_of(search(FakeEngine({"a1.h0->logits": 1.0}, graph), 0.5), graph)
    assert {name.split("->")[1] for name in names} == {"logits", "a1.h0<v>", "a1.h0<k>", "a1.h0<q>"}


def test_order_settings_reach_the_tests() -> None:
    names = {}
    for heads, senders in (("descending", "nearest"), ("ascending", "nearest"), ("descending", "farthest")):
        decisions = list(acdc(FakeEngine({}), Order(heads, senders), 0.5))
        names[heads, senders] = edges_of(decisions)[:3]
    assert names["descending", "nearest"] == ["m1->logits", "a1.h1->logits", "a1.h0->logits"]
    assert names["ascending", "nearest"] == ["m1->logits", "a1.h0->logits", "a1.h1->logits"]
    assert names["descending", "farthest"] == ["embed->logits", "a0.h1->logits", "a0.h0->logits"]


def head_of(edge: int) -> object:
    receiver = GRAPH.edges[edge].receiver
    return (receiver.layer, receiver.head) if receiver.kind == "head" else None


def number_of(edge: int) -> int:
    """A number of its own for every head, 0 for what is no head."""
    receiver = GRAPH.edges[edge].receiver
    return 1 + 2 * receiver.layer + receiver.head if receiver.kind == "head" else 0


def test_a_change_of_focus_measures_the_state_again_once() -> None:
    """Under each focus the whole loss moves; were it not measured again, the first edge would be charged with it."""
    needed = ("a1.h1->logits", "a1.h0->logits", "a1.h1<v>", "a1.h1<q>", "a1.h0<k>", "a1.h0<v>", "m0->a1.h1<v>")
    engine = FakeEngine(dict.fromkeys(needed, 1.0), base=lambda edge: 10.0 * number_of(edge))
    decisions = search(engine, focus=head_of)
    assert all(abs(decision.effect) in (0.0, 1.0) for decision in decisions)
    focuses = [head_of(decision.edge) for decision in decisions]
    changes = 1 + sum(a != b for a, b in pairwise(focuses))
    states = [trial for trial in engine.asked if not trial.removed]
    assert changes > 10
    assert len(states) == changes
    assert len(engine.asked) == len(decisions) + changes
    firsts = [d.edge for i, d in enumerate(decisions) if i == 0 or focuses[i] != focuses[i - 1]]
    assert [trial.edge for trial in states] == firsts  # under the focus of the edge that is tested next


def test_without_focus_the_state_is_measured_once() -> None:
    engine = keep("m1->logits")
    decisions = search(engine)
    assert [trial.removed for trial in engine.asked[:2]] == [(), (decisions[0].edge,)]
    assert len(engine.asked) == len(decisions) + 1


def noisy(seed: int) -> FakeEngine:
    rng = random.Random(seed)
    return FakeEngine(
        {str(edge): rng.choice([0.0, 0.3, 0.7, -0.2, 2.0]) for edge in GRAPH.edges},
        base=lambda edge: 0.1 * number_of(edge),
    )


@given(seed=st.integers(0, 1000), focused=st.booleans())
@settings(max_examples=8, deadline=None)
def test_resuming_after_any_prefix_gives_the_identical_rest(seed: int, focused: bool) -> None:
    focus = {"focus": head_of} if focused else {}
    whole_engine = noisy(seed)
    whole = search(whole_engine, **focus)
    for length in range(len(whole) + 1):
        engine = noisy(seed)
        rest = search(engine, done=whole[:length], **focus)
        assert whole[:length] + rest == whole
        assert engine.gone == whole_engine.gone
        assert not any(trial.edge == decision.edge for trial in engine.asked for decision in whole[:length])


def test_decisions_of_another_search_are_refused() -> None:
    whole = search(noisy(1))
    swapped = [whole[1], whole[0], *whole[2:]]
    with pytest.raises(PahqError, match=r"the recorded decision 1 is not this search's test 0 of m1->logits"):
        search(noisy(1), done=swapped)
    with pytest.raises(PahqError, match="recorded decision"):
        search(noisy(1), done=whole[1:])
    with pytest.raises(PahqError, match="recorded decision"):
        list(acdc(noisy(1), Order(indices="ascending"), 0.5, done=whole))


def test_more_decisions_than_tests_are_refused() -> None:
    whole = search(noisy(1))
    extra = Decision(len(whole), whole[-1].edge, 0.0, 0.0, True)
    with pytest.raises(PahqError, match=f"{len(whole) + 1} decisions are recorded, this search has {len(whole)} tests"):
        search(noisy(1), done=[*whole, extra])
    engine = noisy(1)
    engine.window = lambda edge: 8  # type: ignore[attr-defined]
    with pytest.raises(PahqError, match=f"{len(whole) + 1} decisions are recorded, this search has {len(whole)} tests"):
        list(speculate(engine, Order(), 0.5, done=[*whole, extra]))  # type: ignore[arg-type]


def test_a_recorded_decision_is_taken_as_it_stands() -> None:
    """The journal decides, not a new measurement: a resumed search is the one that was begun."""
    first = search(keep("m1->logits"))[0]
    other = Decision(first.index, first.edge, first.before, first.after, removed=True)
    engine = keep("m1->logits")
    decisions = search(engine, done=[other])
    assert decisions[0].before == other.after
    assert "m1->logits" not in edges_of(decisions)
    assert GRAPH.index_of("m1->logits") in engine.gone


def test_the_search_needs_no_torch() -> None:
    code = "import sys, pahq.search.acdc; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
