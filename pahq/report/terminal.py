"""A circuit in a terminal: the model with the circuit's nodes, and its strongest edges. Plain where it is piped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

from pahq.circuits.grid import Grid
from pahq.circuits.shown import EXTRA, HIT, Shown

TOP = 20
_ANSI = {"q": "33", "k": "32", "v": "34", "bold": "1", "faint": "2"}  # yellow, green and blue
WORDS = {HIT: "published", EXTRA: "not published"}


def coloured(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours (https://no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def as_text(shown: Shown, *, top: int = TOP, colour: bool = False) -> str:
    """Title, the layers from the logits down, and the ``top`` strongest edges, one a line."""
    paint = _painted if colour else _plain
    lines, edges = [paint("bold", shown.title), *_grid(shown, colour)], [*_edges(shown, top, colour)]
    lines += ["", *edges] if edges else []
    notes = shown.notes[1:]  # the first is about a picture's lines
    lines += ["", *notes] if notes else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _grid(shown: Shown, colour: bool) -> Iterator[str]:
    """Layers up, heads across: used nodes by name, the others a dot. A layer without any is left out."""
    shape, graph = shown.circuit.graph.shape, shown.circuit.graph
    lines, _, _ = replace(shown, published=None).lines(limit=len(graph.edges))
    used = Grid(shape, [line.wire for line in lines]).used
    paint = _painted if colour else _plain
    width = max(3, len(f"h{shape.heads - 1}") + 1)
    yield f"{'':>5} logits"
    skipped = 0
    for layer in reversed(range(shape.layers)):
        names = [f"a{layer}.h{head}" for head in range(shape.heads)] + ([f"m{layer}"] if shape.mlp else [])
        if not used.intersection(names):
            skipped += 1
            continue
        if skipped:
            yield _skipped(skipped)
            skipped = 0
        cells = [
            (name.partition(".")[2] or name).ljust(width) if name in used else paint("faint", "·") + " " * (width - 1)
            for name in names
        ]
        yield f"{layer:>5} {''.join(cells)}"
    if skipped:
        yield _skipped(skipped)
    yield f"{'':>5} {'embed and pos' if shape.split_embed else 'embed'}"


def _skipped(count: int) -> str:
    return f"      ({count} layers without an edge)" if count > 1 else "      (1 layer without an edge)"


def _edges(shown: Shown, top: int, colour: bool) -> Iterator[str]:
    edges = shown.strongest[:top]
    names = [str(shown.circuit.graph.edges[edge]) for edge in edges]
    width = max(map(len, names), default=0)
    if edges:
        head = f"{shown.measure:>10}  {'edge'.ljust(width)}  {'rank' if shown.measure == 'score' else 'test'}"
        yield _painted("faint", head) if colour else head
    for edge, name in zip(edges, names, strict=True):
        fact, letter = shown.facts.get(edge), shown.circuit.graph.edges[edge].receiver.letter
        effect = "" if fact is None else f"{fact.effect:.4g}"
        order = "" if fact is None or fact.order is None else str(fact.order)
        padded = name.ljust(width)
        told = _painted(letter, padded) if colour and letter else padded
        yield f"{effect:>10}  {told}  {order:>4}  {WORDS.get(shown.mark(edge), '')}"
    left = len(shown.circuit) - len(edges)
    if left > 0:
        yield f"{'':>10}  ... and {left:,} more; --top {len(shown.circuit)} lists them all"


def _painted(style: str, text: str) -> str:
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m"


def _plain(style: str, text: str) -> str:
    return text
