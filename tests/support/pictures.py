"""Circuits whose pictures lie in tests/circuits/pictures, drawn once and looked at.

PYTHONPATH=tests python -m support.pictures     # draws them anew, after a change of pictures that is meant
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph, ModelShape, build_graph
from pahq.circuits.picture import Picture, draw, stacked
from pahq.circuits.shown import Fact, Shown
from pahq.circuits.svg import to_svg

NOTES = tuple(f"Note {'i' * number} is of one line or two, as its width is." for number in range(12, 72, 2))
FOLDER = Path(__file__).resolve().parents[1] / "circuits" / "pictures"


def pictures() -> Mapping[str, Picture]:
    """By file name: circuits of few edges and of many, of small models and of a deep one, edge by edge or by node."""
    few, many = build_graph(ModelShape(3, 4, 4, mlp=True)), build_graph(ModelShape(6, 8, 2, mlp=False))
    some = _shown(few, 24, 1, "Few edges: a title that is longer than one line of this picture")
    crowd = _shown(many, 90, 2)
    beside = Shown(some.circuit, some.title, some.facts, _published(some, 9) | {5, 60, 90}, "score", NOTES)
    wide = _shown(build_graph(ModelShape(3, 4, 4, mlp=True, split_embed=True, parallel=True)), 45, 5)
    deep = _shown(build_graph(ModelShape(30, 9, 3, mlp=True)), 60, 4, "A deep model")
    missing = _published(deep, 20) | frozenset(range(300, 70_000, 7_000))
    dense = _shown(build_graph(ModelShape(3, 8, 8, mlp=True)), 340, 6)
    tall = build_graph(ModelShape(12, 1, 1, mlp=False))
    narrow = Shown(Circuit.from_indices(tall, range(tall.n_addition)), "A narrow model")
    idle = [_named(few, "embed->a1.h3<k>", "a1.h3->logits"), _named(tall, "a3.h0->a4.h0<v>"), _named(many)]
    return {
        "few.svg": draw(beside),
        "crowded.svg": draw(crowd),
        "by_node.svg": stacked([draw(crowd, limit=40), draw(Shown(some.circuit), limit=400)]),
        "parallel.svg": draw(Shown(wide.circuit, "", wide.facts, _published(wide, 30) | frozenset(range(4, 200, 30)))),
        "deep.svg": draw(deep),
        "deep_by_node.svg": draw(Shown(deep.circuit, deep.title, deep.facts, missing), limit=66),
        "dense.svg": draw(dense, limit=202),
        "narrow.svg": draw(narrow, limit=80),
        "idle.svg": stacked([draw(shown) for shown in idle]),
    }


def _named(graph: Graph, *names: str) -> Shown:
    return Shown(Circuit.from_names(graph, names), "Hardly an edge")


def _published(shown: Shown, count: int) -> frozenset[int]:
    """So many of a circuit's edges."""
    return frozenset(random.Random(3).sample(shown.circuit.indices, count))


def _shown(graph: Graph, count: int, seed: int, title: str = "Many edges") -> Shown:
    """So many random edges with random effects of several sizes."""
    numbers = random.Random(seed)
    edges = sorted(numbers.sample(range(len(graph.edges)), count))
    facts = {edge: Fact(numbers.choice((1, -1)) * 10 ** numbers.uniform(-3, 1)) for edge in edges}
    return Shown(Circuit.from_indices(graph, edges), title, facts)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, picture in pictures().items():
        (FOLDER / name).write_text(to_svg(picture))
