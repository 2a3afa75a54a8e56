"""The graph: its counts, its order, its names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.places import SHARED

from pahq.circuits.graph import LARGEST, Graph, ModelShape, Receiver, build_graph
from pahq.errors import PahqError

TRUTH = SHARED / "truth"

shapes = st.builds(
    lambda layers, kv_heads, group, mlp, split, parallel: ModelShape(
        layers, kv_heads * group, kv_heads, mlp, split, mlp and parallel
    ),
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "addition", "direct"),
    [
        pytest.param(ModelShape(12, 12, 12, True), 32_491, 432, id="gpt2-small"),
        pytest.param(ModelShape(4, 8, 8, False), 1_281, 96, id="attn-only-4l"),
        pytest.param(ModelShape(4, 1, 1, True, split_embed=True), 94, 12, id="tracr-reverse"),
        pytest.param(ModelShape(2, 1, 1, True, split_embed=True), 32, 6, id="tracr-proportion"),
        pytest.param(ModelShape(2, 4, 4, False), 81, 24, id="2-layers-4-heads"),
        pytest.param(ModelShape(4, 4, 4, True), 479, 48, id="4-layers-4-heads-mlp"),
        # SmolLM2-135M. Addition: 15 head inputs (9 q, 3 k, 3 v) x sum over layers of 1 + 10 l = 65,700; MLP inputs
        # sum of 10 + 10 l = 4,650; logits 301. Direct: one edge per head input, (9 + 3 + 3) x 30 layers = 450, since
        # k and v inputs exist once per key-value head.
        pytest.param(ModelShape(30, 9, 3, True), 65_700 + 4_650 + 301, 450, id="smollm2-135m"),
    ],
)
def test_counts(shape: ModelShape, addition: int, direct: int) -> None:
    graph = build_graph(shape)
    assert (graph.n_addition, graph.n_direct, len(graph.edges)) == (addition, direct, addition + direct)
    bare = build_graph(shape, direct_edges=False)
    assert (bare.n_addition, bare.n_direct) == (addition, 0)
    assert bare.edges == graph.edges[:addition]


def is_upstream(graph: Graph, sender: int, receiver: Receiver) -> bool:
    """By the model's own order: a layer's heads read nothing of that layer, its MLP its heads if it is behind them."""
    node = graph.senders[sender]
    if receiver.kind == "logits" or node.kind in ("embed", "pos"):
        return True
    return node.layer < receiver.layer or (
        node.layer == receiver.layer and (node.kind, receiver.kind) == ("head", "mlp") and not graph.shape.parallel
    )


@given(shapes)
def test_edges_are_all_pairs_of_an_earlier_sender_and_a_later_receiver(shape: ModelShape) -> None:
    graph = build_graph(shape)
    expected = {
        f"{node}->{receiver}"
        for receiver in graph.receivers
        for sender, node in enumerate(graph.senders)
        if is_upstream(graph, sender, receiver)
    }
    assert {str(edge) for edge in graph.edges if not edge.direct} == expected
    assert [str(edge) for edge in graph.edges if edge.direct] == [str(receiver) for receiver in graph.head_inputs]
    embeds, outputs = 1 + shape.split_embed, shape.heads + shape.mlp
    assert len(graph.senders) == embeds + shape.layers * outputs
    assert len(graph.head_inputs) == shape.layers * (shape.heads + 2 * shape.kv_heads)
    assert len(graph.receivers) == len(graph.head_inputs) + shape.layers * shape.mlp + 1


@given(shapes)
def test_senders_of_a_receiver_are_a_prefix(shape: ModelShape) -> None:
    graph = build_graph(shape)
    for receiver in graph.receivers:
        upstream = graph.upstream(receiver)
        assert [is_upstream(graph, i, receiver) for i in range(len(graph.senders))] == [
            i < upstream for i in range(len(graph.senders))
        ]
        assert [graph.edges[i].sender for i in graph.incoming(receiver)] == list(graph.senders[:upstream])
        assert all(graph.edges[i].receiver == receiver for i in graph.incoming(receiver))


@given(shapes)
def test_names_are_unique_and_lead_back(shape: ModelShape) -> None:
    graph = build_graph(shape)
    names = [str(edge) for edge in graph.edges]
    assert len(set(names)) == len(names)
    assert [graph.index_of(name) for name in names] == list(range(len(names)))
    assert [graph.direct(receiver) for receiver in graph.head_inputs] == list(range(graph.n_addition, len(names)))


def test_names_read_as_documented() -> None:
    graph = build_graph(ModelShape(6, 3, 3, True, split_embed=True))
    names = {str(edge) for edge in graph.edges}
    assert {"a3.h2->a5.h1<q>", "a5.h1<q>", "m5->logits", "a5.h0->m5", "embed->a0.h0<v>", "pos->logits"} <= names
    assert "m5->m5" not in names
    assert "a5.h1->a5.h1<q>" not in names
    assert [str(node) for node in graph.senders[:6]] == ["embed", "pos", "a0.h0", "a0.h1", "a0.h2", "m0"]


def test_a_parallel_mlp_reads_nothing_of_the_heads_beside_it() -> None:
    """Written out: two layers of one head and one MLP each."""
    graph = build_graph(ModelShape(2, 1, 1, True, parallel=True))
    assert [str(node) for node in graph.senders] == ["embed", "a0.h0", "m0", "a1.h0", "m1"]
    layer_1 = ["a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m1"]
    assert [str(edge) for edge in graph.edges] == [
        "embed->a0.h0<q>", "embed->a0.h0<k>", "embed->a0.h0<v>", "embed->m0",
        *(f"{sender}->{receiver}" for receiver in layer_1 for sender in ("embed", "a0.h0", "m0")),
        *(f"{sender}->logits" for sender in ("embed", "a0.h0", "m0", "a1.h0", "m1")),
        "a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "a1.h0<q>", "a1.h0<k>", "a1.h0<v>",
    ]  # fmt: skip
    serial = {str(edge) for edge in build_graph(ModelShape(2, 1, 1, True)).edges}
    assert serial - {str(edge) for edge in graph.edges} == {"a0.h0->m0", "a1.h0->m1"}


def test_parallel_needs_mlps() -> None:
    with pytest.raises(PahqError, match="a model without MLPs has none that could run in parallel with its heads"):
        ModelShape(2, 1, 1, False, parallel=True)


@pytest.mark.parametrize("parallel", [False, True])
def test_what_a_receiver_feeds_and_what_a_sender_is_computed_from(parallel: bool) -> None:
    graph = build_graph(ModelShape(2, 4, 2, True, parallel=parallel))
    outputs = {str(receiver): [str(graph.senders[i]) for i in graph.outputs(receiver)] for receiver in graph.receivers}
    assert outputs["a1.h1<q>"] == ["a1.h1"]
    assert outputs["a1.h1<k>"] == outputs["a1.h1<v>"] == ["a1.h2", "a1.h3"]
    assert (outputs["m0"], outputs["m1"], outputs["logits"]) == (["m0"], ["m1"], [])
    assert [str(graph.senders[i]) for i in graph.head_senders(1)] == ["a1.h0", "a1.h1", "a1.h2", "a1.h3"]
    inputs = {str(node): [str(receiver) for receiver in graph.inputs(i)] for i, node in enumerate(graph.senders)}
    assert inputs["a0.h3"] == ["a0.h3<q>", "a0.h1<k>", "a0.h1<v>"]
    assert (inputs["m1"], inputs["embed"]) == (["m1"], [])


@given(shapes)
def test_outputs_and_inputs_say_the_same(shape: ModelShape) -> None:
    graph = build_graph(shape)
    forward = {(receiver, sender) for receiver in graph.receivers for sender in graph.outputs(receiver)}
    assert forward == {(receiver, sender) for sender in range(len(graph.senders)) for receiver in graph.inputs(sender)}
    for receiver, sender in forward:  # computed from what is upstream, so never upstream itself
        assert sender >= graph.upstream(receiver)
        assert graph.senders[sender].kind == receiver.kind


def test_grouped_queries_read_their_key_value_head() -> None:
    shape = ModelShape(1, 6, 2, False)
    assert [list(shape.query_heads("k", head)) for head in range(2)] == [[0, 1, 2], [3, 4, 5]]
    assert [list(shape.query_heads("q", head)) for head in range(6)] == [[head] for head in range(6)]
    names = {str(receiver) for receiver in build_graph(shape).head_inputs}
    assert "a0.h5<q>" in names
    assert "a0.h1<v>" in names
    assert "a0.h2<v>" not in names


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 4, 3), (1, 2, 4)])
def test_impossible_shapes_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(PahqError):
        ModelShape(*sizes, mlp=True)


def count_of(layers: int, heads: int, kv_heads: int) -> int:
    """Edges of a model with MLPs by the formulas of docs/graph.md, Direct edges among them."""
    below = layers + (heads + 1) * layers * (layers - 1) // 2
    inputs = heads + 2 * kv_heads
    return inputs * below + below + layers * heads + 1 + layers * (heads + 1) + layers * inputs


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1), (4, 4), (12, 3)])
def test_a_model_of_more_edges_than_the_limit_is_refused_before_it_is_built(heads: int, kv_heads: int) -> None:
    small = build_graph(ModelShape(3, heads, kv_heads, True))
    assert len(small.edges) == count_of(3, heads, kv_heads)
    most = next(layers for layers in range(10_000, 0, -1) if count_of(layers, heads, kv_heads) <= LARGEST)
    assert ModelShape(most - 40, heads, kv_heads, True).layers == most - 40
    with pytest.raises(PahqError, match="more than 200,000,000 edges"):
        ModelShape(most + 40, heads, kv_heads, True)


@pytest.mark.parametrize("wrong", [{"layers": 2.0}, {"heads": True}, {"kv_heads": "2"}])
def test_counts_of_a_shape_are_whole_numbers(wrong: dict[str, object]) -> None:
    with pytest.raises(PahqError, match="are whole numbers"):
        ModelShape(**({"layers": 2, "heads": 2, "kv_heads": 2, "mlp": True} | wrong))  # type: ignore[arg-type]
    with pytest.raises(PahqError, match="a ModelShape was expected, not dict; a model has one"):
        build_graph({"layers": 2})  # type: ignore[arg-type]


def test_heads_behind_which_a_norm_stands_are_computed_from_what_any_of_them_reads() -> None:
    graph = build_graph(ModelShape(2, 4, 2, True, coupled=True))
    heads = [f"a1.h{head}" for head in range(4)]
    for receiver in graph.receivers:
        if (receiver.kind, receiver.layer) == ("head", 1):
            assert [str(graph.senders[i]) for i in graph.outputs(receiver)] == heads
    at = next(i for i, node in enumerate(graph.senders) if str(node) == "a1.h2")
    assert len(graph.inputs(at)) == 4 + 2 + 2
    assert [str(receiver) for receiver in graph.own_inputs(at)] == ["a1.h2<q>", "a1.h1<k>", "a1.h1<v>"]
    assert [str(receiver) for receiver in graph.own_inputs(at + 2)] == ["m1"]


def test_a_shape_has_one_graph_however_often_it_is_asked_for() -> None:
    """Whoever reads hundreds of circuits of one model holds its edges once."""
    assert build_graph(ModelShape(2, 2, 2, True)) is build_graph(ModelShape(2, 2, 2, True))


def test_unknown_names_and_downstream_senders_are_refused() -> None:
    graph = build_graph(ModelShape(2, 2, 2, True))
    with pytest.raises(PahqError, match=r"no edge 'a9\.h0->logits'.*a1\.h0->a2\.h3<q>"):
        graph.index_of("a9.h0->logits")
    with pytest.raises(PahqError, match=r"no edge 'm1->a1\.h0<q>'"):
        graph.index_of("m1->a1.h0<q>")
    assert build_graph(ModelShape(1, 1, 1, True), direct_edges=False).direct(Receiver("head", 0, 0, "q")) is None


@pytest.mark.skipif(not TRUTH.is_dir(), reason="the published circuits lie outside the project")
@pytest.mark.parametrize("task", ["ioi", "greaterthan", "docstring", "tracr-reverse", "tracr-proportion"])
def test_published_circuits_are_subsets(task: str) -> None:
    published = json.loads((TRUTH / f"{task}.json").read_text())
    heads, split = published["n_heads"], published["use_pos_embed"]
    graph = build_graph(ModelShape(published["n_layers"], heads, heads, not published["attn_only"], split))
    assert len(graph.edges) == published["graph_edges_counted"]

    def name(edge: dict[str, str]) -> str:
        layer, head, *letter = (
            edge["receiver"].removeprefix("a").split(".") + [""] if "." in edge["receiver"] else "   "
        )
        receiver = f"a{layer}.h{head}<{letter[0]}>" if "." in edge["receiver"] else edge["receiver"]
        if edge["type"] == "DIRECT_COMPUTATION":
            return receiver
        sender = edge["sender"].replace("resid_pre", "embed")
        return f"{sender.replace('.', '.h') if sender[0] == 'a' else sender}->{receiver}"

    indices = {graph.index_of(name(edge)) for edge in published["edges"]}
    assert len(indices) == published["circuit_edges_counted"]
