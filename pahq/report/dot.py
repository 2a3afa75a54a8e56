"""A circuit as DOT, Graphviz's language: a format for other tools. Nothing here runs Graphviz."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pahq.circuits.picture import COLOURS
from pahq.circuits.shown import EXTRA, MISSED, Shown

STYLES = {MISSED: "dashed", EXTRA: "dotted"}


def to_dot(shown: Shown) -> str:
    """A directed graph from the embedding up: a layer's heads on one rank, an edge's letter as its label."""
    return "\n".join(_lines(shown)) + "\n"


def _lines(shown: Shown) -> Iterator[str]:
    graph = shown.circuit.graph
    drawn, _, _ = shown.lines(limit=len(graph.edges))
    yield f"digraph {_quoted(shown.title or 'circuit')} {{"
    yield "  rankdir=BT;"
    yield '  node [shape=box, style=rounded, fontname="DejaVu Sans", fontsize=10];'
    ends = [(line.wire.sender, line.wire.receiver.split("<")[0]) for line in drawn]
    used = {end for pair in ends for end in pair}
    layers: dict[tuple[str, int], list[str]] = {}
    for node in graph.senders:
        if str(node) in used:
            layers.setdefault((node.kind, node.layer), []).append(str(node))
    for names in layers.values():
        yield f"  {{ rank=same; {' '.join(f'{_quoted(name)};' for name in names)} }}"
    largest = max((line.wire.weight for line in drawn), default=0.0) or 1.0
    for line, (sender, receiver) in zip(drawn, ends, strict=True):
        [edge] = line.edges
        values = {"color": COLOURS[line.letter], "penwidth": f"{0.6 + 3.4 * math.sqrt(line.wire.weight / largest):.2f}"}
        if line.letter:
            values["label"] = line.letter
        if line.mark in STYLES:
            values["style"] = STYLES[line.mark]
        effect = shown.effect(edge)
        if effect is not None:
            values["tooltip"] = f"{graph.edges[edge]}: {shown.measure} {effect:.4g}"
        told = ", ".join(f"{key}={_quoted(value)}" for key, value in values.items())
        yield f"  {_quoted(sender)} -> {_quoted(receiver)} [{told}];"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
