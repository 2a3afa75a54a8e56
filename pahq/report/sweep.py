"""Circuits along a threshold or a size: one page whose slider chooses among them, each line always at its place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.grid import used_by
from pahq.circuits.shown import Fact, Shown
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.text import write_atomic
from pahq.report.cells import finished, method_of, shown_of
from pahq.report.page import data, fact_of, whole

STEPS = 60  # circuits of one page
BARS = {"embed", "pos", "logits"}


@dataclass(frozen=True)
class Sweep:
    """Circuits of one graph, from the lowest threshold, or the smallest size, on. ``name``: threshold or size."""

    name: str
    title: str
    labels: tuple[str, ...]
    steps: tuple[Shown, ...]


def sweep_of(name: str, circuits: Sequence[tuple[float, Shown]], title: str = "") -> Sweep:
    """A sweep of circuits in this order, by threshold or size; PahqError for fewer than two, and for several graphs."""
    if not 2 <= len(circuits) <= STEPS:
        raise PahqError(f"a page of a sweep has from 2 to {STEPS} circuits, not {len(circuits)}")
    graph = circuits[0][1].circuit.graph
    for value, shown in circuits:
        if shown.circuit.graph != graph:
            first = label_of(circuits[0][0])
            raise PahqError(f"the circuits of a sweep are of one graph; those at {first} and {label_of(value)} are not")
    labels = tuple(label_of(value) for value, _ in circuits)
    span = f"{len(labels)} {name}s from {labels[0]} to {labels[-1]}"
    return Sweep(name, f"{title}, {span}" if title else span, labels, tuple(shown for _, shown in circuits))


def label_of(value: float) -> str:
    """A threshold, or a size, as it is typed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def sweep_of_cells(folders: Sequence[Path], *, every: bool = False) -> Sweep:
    """The same of finished cells; PahqError for cells that differ in more than their threshold or size."""
    cells = [(folder, check_cell(finished(folder)).config) for folder in folders]
    (first, config), *others = cells
    for folder, other in others:
        apart = _apart(config, other)
        if apart:
            raise PahqError(
                "the cells of a sweep differ in their threshold or size alone; "
                f"{first} and {folder} differ in {', '.join(apart)}"
            )
    at: dict[float, Path] = {}
    for folder, cell in cells:
        value = value_of(cell)
        if value in at:
            raise PahqError(f"two cells of the sweep have {name_of(cell)} {value:g}: {at[value]} and {folder}")
        at[value] = folder
    title = f"{config.task.name}, {method_of(config)}"
    steps = [(cell, shown_of(folder, cell, every=every)) for folder, cell in cells]
    edges = len(steps[0][1].circuit.graph.edges)
    steps.sort(key=lambda step: _place(step[0], edges))
    return sweep_of(name_of(config), [(value_of(cell), shown) for cell, shown in steps], title)


def _place(cell: CellConfig, edges: int) -> float:
    """Where the cell stands in its sweep: a size that is a share of the edges counts as so many."""
    value = value_of(cell)
    return value * edges if cell.threshold is None and isinstance(value, float) else value


def name_of(cell: CellConfig) -> str:
    """What a sweep of such cells goes along."""
    return "size" if cell.threshold is None else "threshold"


def value_of(cell: CellConfig) -> float:
    """The cell's threshold, or its size."""
    value = cell.size if cell.threshold is None else cell.threshold
    assert value is not None
    return value


def siblings(cells: Mapping[str, CellConfig]) -> dict[str, list[tuple[str, str]]]:
    """By a cell's id the sweep that it is part of, in order: each cell's id, and its threshold or size as typed."""
    sweeps: dict[str, list[str]] = {}
    for cell_id, cell in cells.items():
        sweeps.setdefault(json.dumps(_settings(cell), sort_keys=True), []).append(cell_id)
    found: dict[str, list[tuple[str, str]]] = {}
    for ids in sweeps.values():
        ordered = sorted(ids, key=lambda one: value_of(cells[one]))
        found |= {cell_id: [(one, label_of(value_of(cells[one]))) for one in ordered] for cell_id in ids}
    return found


def _settings(cell: CellConfig) -> dict[str, Any]:
    values = cell.model_dump(mode="json", exclude={"threshold": True, "size": True, "task": {"prompts"}})
    return dict(_flat(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apart(a: CellConfig, b: CellConfig) -> list[str]:
    """Names of the settings in which two cells differ, beside threshold and size; of a group its name alone."""
    mine, theirs = _settings(a), _settings(b)
    names = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
    groups = {name.split(".")[0] for name in names if name.endswith(".name")}
    return sorted({group if (group := name.split(".")[0]) in groups else name for name in names})


def show_cells(folders: Sequence[Path], out: Path | None, *, every: bool = False) -> Path:
    """Write the page of several cells to ``out``; that path. PahqError without one."""
    if out is None:
        raise PahqError("several cells are shown as a page with a slider: name it with --out FILE.html")
    write_sweep(sweep_of_cells(folders, every=every), out)
    return out


def write_sweep(sweep: Sweep, out: Path) -> None:
    """Write the page; PahqError for a file of another kind."""
    if out.suffix.lower() != ".html":
        raise PahqError(f"--out {out}: several circuits are written as a page with a slider; end the name in html")
    if out.is_dir():
        raise PahqError(f"--out {out} is a folder; name a file in it")
    write_atomic(out, whole(sweep.title, sweep_data(sweep)))


def sweep_data(sweep: Sweep) -> dict[str, Any]:
    """What the page is made of: that of all circuits at once, and what each edge is at each step."""
    found = data(_union(sweep))
    for edge in (*found["edges"], *found["direct"]):
        edge["steps"] = [_at(shown, edge["name"]) for shown in sweep.steps]
    for face in (face for edge in found["direct"] for face in edge["steps"]):
        face["here"] = face["kept"]  # a slot is coloured or not: it has no dashes
    steps = [
        {"label": label, "title": shown.title, "notes": [*shown.notes, *found["notes"]], "used": _used(shown)}
        for label, shown in zip(sweep.labels, sweep.steps, strict=True)
    ]
    return found | {"sweep": {"name": sweep.name, "steps": steps}}


def _used(shown: Shown) -> list[str]:
    """Nodes that the circuit's edges touch, and the bars, which are drawn as used wherever an edge is."""
    wires = (line.wire for line in shown.lines(limit=len(shown.circuit.graph.edges))[0])
    return sorted(used_by(shown.circuit.graph.shape, (wire for wire in wires if wire.kept)) | BARS)


def _at(shown: Shown, name: str) -> dict[str, Any]:
    """What an edge is in one of the circuits: whether it is shown there, and what is known of it."""
    graph = shown.circuit.graph
    edge = graph.edge_index[name]
    kept, mark = shown.circuit.present[edge], shown.mark(edge)
    online = graph.online(graph.edges[edge].receiver, shown.circuit.present)
    return {"here": kept or mark != "", "kept": kept, "mark": mark, "online": online, "a": fact_of(shown, name)}


def _union(sweep: Sweep) -> Shown:
    """All circuits as one, each edge with its largest effect: every line of any of them has a place."""
    facts: dict[int, Fact] = {}
    for shown in sweep.steps:
        for edge, fact in shown.facts.items():
            if edge not in facts or abs(fact.effect) > abs(facts[edge].effect):
                facts[edge] = fact
    present = tuple(map(any, zip(*(shown.circuit.present for shown in sweep.steps), strict=True)))
    circuit = Circuit(sweep.steps[0].circuit.graph, present)
    return replace(sweep.steps[0], circuit=circuit, title=sweep.title, facts=facts, notes=())
