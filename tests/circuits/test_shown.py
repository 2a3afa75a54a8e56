"""What is shown of a circuit: its strongest edges first, its lines up to a limit, how it stands to a published one."""

from __future__ import annotations

import pytest

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.shown import Fact, Shown

GRAPH = build_graph(ModelShape(2, 2, 2, mlp=True))
EFFECTS = {"embed->a0.h1<q>": 0.5, "a0.h1<q>": 9.0, "a0.h1->m0": -3.0, "a0.h1->logits": 0.25, "m0->logits": None}
CIRCUIT = Circuit.from_names(GRAPH, EFFECTS)
FACTS = {GRAPH.index_of(name): Fact(effect) for name, effect in EFFECTS.items() if effect is not None}
SHOWN = Shown(CIRCUIT, facts=FACTS)


def names(indices: tuple[int, ...]) -> list[str]:
    return [str(GRAPH.edges[edge]) for edge in indices]


def test_the_strongest_edges_come_first_whatever_their_sign_and_those_without_an_effect_last() -> None:
    assert names(SHOWN.strongest) == ["a0.h1<q>", "a0.h1->m0", "embed->a0.h1<q>", "a0.h1->logits", "m0->logits"]
    assert names(Shown(CIRCUIT).strongest) == list(CIRCUIT.edges)


def test_lines_have_the_effects_of_their_edges_and_a_direct_edge_has_none() -> None:
    lines, single, note = SHOWN.lines()
    assert (single, note) == (True, "")
    assert [(names(line.edges), line.wire.weight) for line in lines] == [
        (["a0.h1->m0"], 3.0),
        (["embed->a0.h1<q>"], 0.5),
        (["a0.h1->logits"], 0.25),
        (["m0->logits"], 0.0),
    ]


def test_an_edge_outside_the_circuit_has_a_line_only_if_it_is_published_and_no_effect_to_be_wide_by() -> None:
    missed, nowhere = GRAPH.index_of("embed->m1"), GRAPH.index_of("embed->m0")
    shown = Shown(CIRCUIT, facts=FACTS | {missed: Fact(8.0), nowhere: Fact(7.0)}, published=frozenset({missed}))
    lines = {line.edges: line for line in shown.lines()[0]}
    assert (nowhere,) not in lines
    assert shown.mark(nowhere) == ""
    assert (lines[missed,].mark, lines[missed,].wire.weight, lines[missed,].wire.kept) == ("missed", 0.0, False)
    assert {line.mark for edges, line in lines.items() if edges != (missed,)} == {"extra"}


@pytest.mark.parametrize(
    ("limit", "single", "note"),
    [
        (5, True, ""),
        (4, False, "5 edges, drawn as 4 lines from node to node."),
        (3, False, "5 edges, drawn as 4 lines from node to node, of which the 3 strongest are shown."),
    ],
)
def test_as_many_lines_as_the_limit_are_drawn_one_by_one(limit: int, single: bool, note: str) -> None:
    """The two lines into the queries and the keys of one head become one, with the sum of their effects."""
    circuit = Circuit.from_indices(GRAPH, [*CIRCUIT.indices, GRAPH.index_of("embed->a0.h1<k>")])
    shown = Shown(circuit, facts=FACTS | {GRAPH.index_of("embed->a0.h1<k>"): Fact(-4.0)})
    lines, *told = shown.lines(limit=limit)
    assert told == [single, note]
    assert len(lines) == limit
    weights = [line.wire.weight for line in lines]
    assert weights == sorted(weights, reverse=True)
    assert max(weights) == (4.0 if single else 4.5)
    assert all((line.letter == "") is (not single or "<" not in line.wire.receiver) for line in lines)


def test_of_more_than_400_edges_pairs_of_nodes_are_drawn_unless_another_limit_is_said() -> None:
    graph = build_graph(ModelShape(4, 4, 4, mlp=True))
    for count, single in ((400, True), (401, False)):
        assert Shown(Circuit.from_indices(graph, range(count))).lines()[1] is single


def test_a_merged_line_is_as_wide_on_any_python() -> None:
    """From Python 3.12 on ``sum`` keeps what rounding takes from floats; added one by one, a 1 is lost here."""
    edges = ("embed->a0.h1<q>", "embed->a0.h1<k>", "embed->a0.h1<v>")
    facts = dict(zip(map(GRAPH.index_of, edges), map(Fact, (1e16, -1.0, 1.0)), strict=True))
    [line], single, _ = Shown(Circuit.from_names(GRAPH, edges), facts=facts).lines(limit=1)
    assert (single, line.wire.weight) == (False, 1e16)
