"""The explorer: one HTML file that shows a circuit, or two, and needs no network (Cytoscape.js is written into it).

The page's data stand in it as JSON whose ``<``, ``>`` and ``&`` are escaped, and its script writes them as text alone.
A policy in its head forbids whatever would leave the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import Any

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Edge, Graph
from pahq.circuits.grid import group_name
from pahq.circuits.layout import Box, Point, Route, lay_out
from pahq.circuits.shown import Fact, Line, Shown

MOST = 5000  # lines of a page: the strongest
SCRIPTS = ("explorer", "paths", "sweep")  # one after the other


def page(shown: Shown, other: Shown | None = None, sentences: Sequence[str] = ()) -> str:
    """The whole file. With an ``other`` circuit of the same graph the page compares A and B.

    ``sentences`` say what a comparison found.
    """
    return whole(shown.title, data(shown, other, sentences))


def whole(title: str, values: Mapping[str, Any]) -> str:
    """The file that shows what ``data`` made."""
    parts = files("pahq.report")
    words = {
        "TITLE": escape(title or "circuit"),
        "STYLE": (parts / "explorer" / "explorer.css").read_text(encoding="utf-8"),
        "LIBRARY": (parts / "vendored" / "cytoscape.min.js")
        .read_text(encoding="utf-8")
        .replace("</script", "<\\/script"),
        "DATA": _embedded(values),
        "SCRIPT": "\n".join((parts / "explorer" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = (parts / "explorer" / "explorer.html").read_text(encoding="utf-8")
    pieces = text.split("@")  # a name between two signs: no part is searched for signs of its own
    return "".join(words[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _embedded(values: Any) -> str:
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def data(shown: Shown, other: Shown | None = None, sentences: Sequence[str] = ()) -> dict[str, Any]:
    """What the page is made of: boxes, slots and lines with their places, and all that is known of each edge."""
    both = shown if other is None else _union(shown, other)
    drawn, _, _ = both.lines(limit=len(both.circuit.graph.edges))
    lines, notes = drawn[:MOST], list(both.notes)
    if len(drawn) > MOST:
        notes.append(f"The page shows the {MOST:,} strongest of {len(drawn):,} edges.")
    graph = both.circuit.graph
    layout = lay_out(graph, [line.wire for line in lines])
    boxes = {box.name: box for box in layout.boxes}
    sides = _Sides(shown, other)
    return {
        "title": both.title,
        "notes": notes,
        "measure": both.measure,
        "layers": graph.shape.layers,
        "graph": asdict(graph.shape) | {"direct_edges": graph.n_direct > 0},
        "published": both.published is not None,
        "classes": {name: list(nodes) for name, nodes in both.classes.items()},
        "boxes": [_box(box) for box in layout.boxes],
        "slots": [_box(slot) for slot in layout.slots],
        "labels": [[text, *place] for text, place in layout.labels],
        "edges": [_line(both, line, route, boxes, sides) for line, route in zip(lines, layout.routes, strict=True)],
        "direct": [_known(both, i, sides) for i in both.circuit.indices if graph.edges[i].direct],
        "diff": list(sentences) if other is not None else None,
    }


class _Sides:
    """What A, and B where there is one, know of an edge by its name; of one circuit alone everything is A's."""

    def __init__(self, a: Shown, b: Shown | None) -> None:
        self.a, self.b = a, b

    def of(self, name: str) -> dict[str, Any]:
        values: dict[str, Any] = {"a": fact_of(self.a, name), "b": None if self.b is None else fact_of(self.b, name)}
        if self.b is not None:
            here, there = _has(self.a, name), _has(self.b, name)
            values["side"] = "both" if here and there else "a" if here else "b"
        return values


def _has(shown: Shown, name: str) -> bool:
    index = shown.circuit.graph.edge_index.get(name)
    return index is not None and shown.circuit.present[index]


def fact_of(shown: Shown, name: str) -> dict[str, Any] | None:
    """What a circuit's search or scores know of an edge; None where that is nothing."""
    index = shown.circuit.graph.edge_index.get(name)
    fact = None if index is None else shown.facts.get(index)
    return None if fact is None else asdict(fact) | {"kept": _has(shown, name)}


def _union(a: Shown, b: Shown) -> Shown:
    """Both circuits at once, on the graph that has more edges; effects are those of the circuit that has the edge."""
    graph = max((a.circuit.graph, b.circuit.graph), key=lambda one: len(one.edges))
    facts = _facts_in(graph, b) | _facts_in(graph, a)
    return Shown(
        Circuit.from_names(graph, {*a.circuit.edges, *b.circuit.edges}),
        f"A: {a.title} — B: {b.title}",
        {index: facts[index] for index in sorted(facts)},
        measure=a.measure,
        classes=a.classes,
    )


def _facts_in(graph: Graph, shown: Shown) -> dict[int, Fact]:
    """Facts of the circuit's own edges, by their indices in ``graph``."""
    own = ((str(shown.circuit.graph.edges[i]), fact) for i, fact in shown.facts.items() if shown.circuit.present[i])
    return {graph.edge_index[name]: fact for name, fact in own if name in graph.edge_index}


def _box(box: Box) -> dict[str, Any]:
    kind = "slot" if box.letter else "node" if box.label else "bar"
    return {key: _short(value) for key, value in asdict(box).items()} | {"kind": kind}


def _short(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


def _known(shown: Shown, index: int, sides: _Sides) -> dict[str, Any]:
    """An edge's name, what it feeds, and what is known of it."""
    graph, edge = shown.circuit.graph, shown.circuit.graph.edges[index]
    feeds = [str(graph.senders[sender]) for sender in graph.outputs(edge.receiver)]
    return {"name": str(edge), "feeds": feeds, "mark": shown.mark(index), "direct": edge.direct} | sides.of(str(edge))


def _line(shown: Shown, line: Line, route: Route, boxes: Mapping[str, Box], sides: _Sides) -> dict[str, Any]:
    graph, [index] = shown.circuit.graph, line.edges
    edge = graph.edges[index]
    assert edge.sender is not None
    source, target = boxes[line.wire.sender], boxes[_target(graph, edge, boxes)]
    bends = [_bend(point, route) for point in _controls(route)]
    return _known(shown, index, sides) | {
        "source": source.name,
        "target": target.name,
        "receiver": str(edge.receiver),
        "letter": line.letter,
        "layers": [edge.sender.layer, graph.shape.layers if edge.receiver.kind == "logits" else edge.receiver.layer],
        "online": graph.online(edge.receiver, shown.circuit.present),
        "start": [round(route.start[0] - source.x, 2), round(route.start[1] - source.y, 2)],
        "end": [round(route.end[0] - target.x, 2), round(route.end[1] - target.y, 2)],
        "weights": [round(share, 4) for share, _ in bends],
        "distances": [round(away, 2) for _, away in bends],
    }


def _target(graph: Graph, edge: Edge, boxes: Mapping[str, Box]) -> str:
    receiver = edge.receiver
    shared = graph.shape.kv_heads < graph.shape.heads and receiver.letter in ("k", "v")
    name = group_name(receiver.layer, receiver.head) if shared else str(receiver).split("<")[0]
    return name if name in boxes else str(receiver).split("<")[0]


def _controls(route: Route) -> list[Point]:
    """The corners that Cytoscape.js rounds: it joins quadratic curves halfway from one to the next."""
    (x, y), (to_x, to_y) = route.start, route.end
    if route.enter is None or route.leave is None:
        return [(x, y + 0.35 * (to_y - y)), (to_x, y + 0.65 * (to_y - y))]
    lane, up, last = route.enter[0], route.enter[1] - y, to_y - route.leave[1]  # up and last are negative
    straight = [(lane, y + 1.2 * up), (lane, to_y - 1.2 * last)]  # so that it is in its lane from end to end
    if straight[0][1] < straight[1][1]:
        straight = []
    first, then = [(x, y + 0.3 * up), (lane, y + 0.8 * up)], [(lane, to_y - 0.8 * last), (to_x, to_y - 0.3 * last)]
    return [*first, *straight, *then]


def _bend(point: Point, route: Route) -> tuple[float, float]:
    """A point as Cytoscape.js wants it: its share of the way from start to end, and how far it is off that line."""
    across, down = route.end[0] - route.start[0], route.end[1] - route.start[1]
    length = math.hypot(across, down) or 1.0
    x, y = point[0] - route.start[0], point[1] - route.start[1]
    return (x * across + y * down) / length**2, (y * across - x * down) / length
