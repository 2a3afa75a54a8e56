"""Scores to circuits: the highest edges, thresholds, growth from the logits, and what is dropped as unconnected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.scores import Scores
from pahq.errors import PahqError

SHAPES = st.builds(
    lambda layers, heads, mlp, split: ModelShape(layers, heads[0], heads[1], mlp, split),
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    st.booleans(),
    st.booleans(),
)
NUMBERS = st.floats(-5, 5).map(lambda value: round(value, 1))  # with many ties
SMALL = build_graph(ModelShape(1, 1, 1, True), direct_edges=False)


def scores(graph: Graph, values: dict[str, float] | list[float], **more: str) -> Scores:
    numbers = [values.get(str(edge), 0.0) for edge in graph.edges] if isinstance(values, dict) else values
    return Scores(graph, tuple(numbers), "made", "kl", **more)  # type: ignore[arg-type]


@st.composite
def drawn(draw: st.DrawFn) -> Scores:
    graph = build_graph(draw(SHAPES), direct_edges=draw(st.booleans()))
    return scores(graph, draw(st.lists(NUMBERS, min_size=len(graph.edges), max_size=len(graph.edges))))


@given(drawn(), st.data(), st.booleans())
def test_the_top_edges_are_no_lower_than_any_other(made: Scores, data: st.DataObject, signed: bool):
    size = data.draw(st.integers(0, len(made)))
    circuit = made.top(size, signed=signed, clean=False)
    assert len(circuit) == size
    rank = [value if signed else abs(value) for value in made.values]
    inside = [rank[i] for i, there in enumerate(circuit.present) if there]
    outside = [rank[i] for i, there in enumerate(circuit.present) if not there]
    assert min(inside, default=9.0) >= max(outside, default=-9.0)
    assert made.top(size, signed=signed) == circuit.cleaned()
    if inside and (not outside or min(inside) > max(outside)):
        assert made.threshold(min(inside), signed=signed, clean=False) == circuit


def naive_growth(made: Scores, size: int) -> set[str]:
    """Edge by edge over names: the highest edge whose end has a path to the logits already."""
    graph, taken = made.graph, set[str]()
    values = made.by_name

    def opens(name: str) -> bool:
        start, _, end = name.rpartition("->")
        if end == "logits":
            return True
        receiver = next(r for r in graph.receivers if str(r) == end)
        if start and graph.n_direct and receiver.kind == "head" and end not in taken:
            return False
        return any(edge.startswith(f"{graph.senders[s]}->") for s in graph.outputs(receiver) for edge in taken)

    for _ in range(size):
        able = [name for name in values if name not in taken and opens(name)]
        if not able:
            break
        taken.add(max(able, key=lambda name: (abs(values[name]), -graph.index_of(name))))
    return taken


@given(drawn(), st.data())
def test_growth_is_edge_by_edge_what_a_slow_loop_takes(made: Scores, data: st.DataObject):
    size = data.draw(st.integers(0, min(25, len(made))))
    grown = made.greedy(size, clean=False)
    assert set(grown.edges) == naive_growth(made, size)
    assert len(grown) == size  # everything can be reached from the logits
    assert made.greedy(size) == grown.cleaned()


def test_growth_takes_no_edge_that_leads_nowhere():
    made = scores(SMALL, {"embed->a0.h0<q>": 9.0, "embed->m0": 8.0, "a0.h0->logits": 1.0, "m0->logits": 0.5})
    assert made.top(1, clean=False).edges == ("embed->a0.h0<q>",)
    assert made.top(1).edges == ()
    assert made.greedy(2).edges == ("embed->a0.h0<q>", "a0.h0->logits")
    assert set(made.greedy(4).edges) == {"embed->a0.h0<q>", "embed->m0", "a0.h0->logits", "m0->logits"}


def test_the_ablation_decides_what_is_unconnected():
    values = {"m0->logits": 2.0, "embed->a0.h0<q>": 1.0}
    assert scores(SMALL, values).top(2).edges == ()
    assert scores(SMALL, values, ablation="zero").top(2).edges == ("m0->logits",)


def test_a_direct_edge_comes_before_what_it_lets_through():
    graph = build_graph(ModelShape(1, 1, 1, False))
    made = scores(graph, {"a0.h0->logits": 3.0, "embed->a0.h0<q>": 2.0, "a0.h0<q>": 0.1, "embed->logits": 0.5})
    assert made.greedy(2, clean=False).edges == ("embed->logits", "a0.h0->logits")
    assert set(made.greedy(4).edges) == {"a0.h0->logits", "embed->logits", "a0.h0<q>", "embed->a0.h0<q>"}


def test_sizes_are_counts_or_shares():
    made = scores(SMALL, [float(i) for i in range(len(SMALL.edges))])
    assert len(made) == 8
    assert [made.count(size) for size in (0, 8, 0.0, 0.25, 1.0)] == [0, 8, 0, 2, 8]
    assert made.ranked()[0] == 7
    assert made.largest == 7.0
    assert made["embed->a0.h0<k>"] == 1.0
    for size in (-1, 9, 1.5, True, "3", float("nan")):
        with pytest.raises(PahqError, match="size: a number of edges from 0 to 8 or a share"):
            made.top(size)  # type: ignore[arg-type]


def test_signed_scores_put_harmful_edges_last():
    made = scores(SMALL, {"embed->logits": -4.0, "m0->logits": 1.0, "embed->m0": 2.0})
    assert made.top(1).edges == ("embed->logits",)
    assert set(made.top(2, signed=True).edges) == {"embed->m0", "m0->logits"}
    assert made.threshold(2.0, signed=True, clean=False).edges == ("embed->m0",)


def test_scores_are_refused_unless_there_is_a_finite_one_for_every_edge():
    with pytest.raises(PahqError, match="7 scores for a graph of 8 edges"):
        scores(SMALL, [1.0] * 7)
    with pytest.raises(PahqError, match=r"the score of embed->a0.h0<q> is nan"):
        scores(SMALL, [float("nan")] * 8)
    with pytest.raises(PahqError, match="no edge 'm9'"):
        scores(SMALL, [1.0] * 8)["m9"]


def test_a_sweep_scores_an_edge_by_the_highest_threshold_that_keeps_it():
    kept = {0.5: ["m0->logits"], 0.1: ["m0->logits", "embed->m0"], 2: ["embed->logits"]}
    circuits = {at: Circuit.from_names(SMALL, names) for at, names in kept.items()}
    made = Scores.of_sweep(circuits, metric="nll")
    assert made.by_name == dict.fromkeys(map(str, SMALL.edges), 0.0) | {
        "m0->logits": 0.5,
        "embed->m0": 0.1,
        "embed->logits": 2.0,
    }
    assert (made.method, made.metric, made.steps, made.ablation) == ("acdc", "nll", None, "corrupted")
    other = Circuit.from_names(build_graph(ModelShape(2, 1, 1, True)), [])
    for wrong, count in (({}, 0), (circuits | {3.0: other}, 2)):
        with pytest.raises(PahqError, match=rf"circuits of one graph were expected, by threshold \(got {count} graphs"):
            Scores.of_sweep(wrong)


def test_scores_show_their_four_highest_edges():
    made = scores(SMALL, [0.1, -7.0, 6.00049, 0.0, 5.0, 4.0, 0.2, 0.3])
    edges = [str(SMALL.edges[at]) for at in (1, 2, 4, 5)]
    highest = ", ".join(f"{edge} {value}" for edge, value in zip(edges, ("-7", "6", "5", "4"), strict=True))
    assert repr(made) == f"Scores of 8 edges by made (kl)\nhighest: {highest}, ..."
    assert made.ranked()[:4] == (1, 2, 4, 5)
    assert made.ranked(signed=True)[-1] == 1
    assert made.largest == 7.0
