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
    """By file name: few edges beside a published circuit, many in crowded lanes, and more than fit one by one."""
    few, many = build_graph(ModelShape(3, 4, 4, mlp=True)), build_graph(ModelShape(6, 8, 2, mlp=False))
    some = _shown(few, 24, 1, "Few edges: a title that is longer than one line of this picture")
    crowd = _shown(many, 90, 2)
    published = frozenset(random.Random(3).sample(some.circuit.indices, 9)) | {5, 60, 90}
    beside = Shown(some.circuit, some.title, some.facts, published, "score", NOTES)
    return {
        "few.svg": draw(beside),
        "crowded.svg": draw(crowd),
        "by_node.svg": stacked([draw(crowd, limit=40), draw(Shown(some.circuit), limit=400)]),
    }


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
