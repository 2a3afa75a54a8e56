"""A finished cell's circuit with all that its files know of each edge. No torch."""

from __future__ import annotations

from pathlib import Path

from pahq.cell.files import SCORES
from pahq.cell.journal import JournalLine, read_journal
from pahq.cell.scorefile import read_scores
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Graph
from pahq.circuits.published import published_circuit, read_published
from pahq.circuits.scores import Scores
from pahq.circuits.shown import Fact, Shown
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.search.acdc import margin

WIDTHS = "The wider a line, the more the loss ({metric}) rose when its edge was removed in its test."
SCORED = "The wider a line, the larger its edge's score ({method})."
NAMED = 5  # cells that a sentence names


def finished(folder: Path) -> Path:
    """The folder, once it holds a finished cell; PahqError that names the cells in it or beside it."""
    if (folder / "result.json").exists():
        return folder
    for place in (folder, folder.parent):
        cells = sorted(path.parent.name for path in place.glob("*/result.json"))
        if cells:
            more = f" and {len(cells) - NAMED:,} more" if len(cells) > NAMED else ""
            raise PahqError(f"{folder} holds no finished cell; {place} has {', '.join(cells[:NAMED])}{more}")
    raise PahqError(
        f"{folder} holds no finished cell, which is a folder like results/cells/nano-ioi/acdc-float32-t0.1-..."
    )


def show_cell(folder: Path, *, every: bool = False) -> Shown:
    """What is shown of the cell in ``folder``: without edges that change no output, unless ``every`` edge is asked for.

    Raises PahqError for an unfinished or damaged cell.
    """
    return shown_of(folder, check_cell(finished(folder)).config, every=every)


def shown_of(folder: Path, cell: CellConfig, *, every: bool = False) -> Shown:
    """The same of a cell that was checked already."""
    kept = Circuit.read(folder / "circuit.json")
    edges = published_circuit(cell.task.kind, kept.graph)
    published = None if edges is None else frozenset(map(kept.graph.index_of, edges))
    table = None if edges is None else read_published(cell.task.kind)
    shown = kept if every else kept.cleaned(ablation=cell.task.ablation)
    return Shown(
        circuit=shown,
        title=f"{title_of(cell)}: {len(shown):,} of {len(kept.graph.edges):,} edges",
        facts=facts_of(folder, cell, kept.graph),
        published=published,
        measure="score" if cell.method.scores else "effect",
        notes=tuple(_notes(cell, shown, published, len(kept) - len(shown))),
        classes={} if table is None else table.classes,
    )


def title_of(cell: CellConfig) -> str:
    """Task, method and what the circuit's size came from."""
    chosen = f"threshold {cell.threshold:g}" if not cell.method.scores or cell.select == "threshold" else cell.select
    return f"{cell.task.name}, {method_of(cell)}, {chosen}"


def method_of(cell: CellConfig) -> str:
    """The method, and its precision where that is not float32."""
    label, precision = cell.method.label, cell.precision.name
    return label if precision == "float32" else f"{label} {precision}"


def _notes(cell: CellConfig, circuit: Circuit, published: frozenset[int] | None, left_out: int) -> list[str]:
    words = SCORED.format(method=cell.method.name) if cell.method.scores else WIDTHS.format(metric=cell.task.metric)
    graph, entered = (
        circuit.graph,
        {circuit.graph.edges[edge].receiver for edge in circuit.indices if edge < circuit.graph.n_addition},
    )
    direct = [graph.edges[edge].receiver in entered for edge in circuit.indices if edge >= graph.n_addition]
    slots, bare = sum(direct), len(direct) - sum(direct)
    told = f"The {slots:,} coloured slots are Direct edges." if slots > 1 else "The coloured slot is a Direct edge."
    notes = [f"{words} {told}" if slots else words]
    if bare:
        notes.append(f"Not drawn: {bare:,} Direct edge{'s' if bare > 1 else ''} of inputs that no other edge enters.")
    if published is not None:
        hit = sum(circuit.present[edge] for edge in published)
        notes.append(f"{hit:,} of {len(published):,} published edges are here.")
    if left_out:
        edges = f"{left_out:,} more edges were" if left_out > 1 else "One more edge was"
        notes.append(f"{edges} kept, on no path from the embedding to the logits (--all shows every edge).")
    return notes


def facts_of(folder: Path, cell: CellConfig, graph: Graph) -> dict[int, Fact]:
    """By edge: of a search every test, of scores every edge."""
    if cell.method.scores:
        return facts_of_scores(read_scores(folder / SCORES, graph, cell), cell.precision.name)
    lines = read_journal(folder / "decisions.jsonl")
    return {graph.index_of(line.edge): _fact(line, cell) for line in lines}


def facts_of_scores(scores: Scores, precision: str | None = None) -> dict[int, Fact]:
    ranks = {edge: rank for rank, edge in enumerate(scores.ranked(), 1)}
    return {edge: Fact(value, None, precision, ranks[edge]) for edge, value in enumerate(scores.values)}


def _fact(line: JournalLine, cell: CellConfig) -> Fact:
    effect = line.after - line.before
    away = margin(effect, cell.search_threshold, absolute=cell.method.absolute)
    precision = "float64" if line.rough else "full precision" if line.audited else cell.precision.name
    return Fact(effect, away, precision, line.i + 1)
