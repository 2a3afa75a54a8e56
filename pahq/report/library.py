"""``pahq.draw``: the picture of whatever has a circuit, in a notebook or in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pahq.circuits.circuit import Circuit
from pahq.circuits.picture import draw as picture_of
from pahq.circuits.picture import stacked
from pahq.circuits.scores import Scores
from pahq.circuits.shown import LIMIT, Fact, Shown
from pahq.circuits.svg import Drawing
from pahq.errors import PahqError
from pahq.files.text import write_atomic
from pahq.report.cells import facts_of_scores, show_cell
from pahq.search.acdc import Decision


class Searched(Protocol):
    """A finished search: what ``pahq.acdc`` returns."""

    @property
    def circuit(self) -> Circuit: ...
    @property
    def decisions(self) -> Sequence[Decision]: ...


Drawable = Searched | Circuit | str | Path


def draw(
    what: Drawable | Mapping[float, Drawable] | Mapping[int, Drawable],
    out: str | Path | None = None,
    *,
    scores: Scores | None = None,
    published: Iterable[str] | None = None,
    title: str | None = None,
    limit: int = LIMIT,
) -> Drawing:
    """Draw a search's circuit, any circuit, or that of a finished cell by its folder; in a notebook it shows itself.

    ``out``: a file to write too, as its name ends: svg, png, pdf, dot, or html, a page to explore. ``scores`` make the
    lines of a circuit wide; a search and a cell have effects of their own. ``published``: names of edges to compare
    with. From more than ``limit`` edges on the picture has one line for each pair of nodes.

    Several circuits by their thresholds (what ``pahq.sweep`` returns), or by their sizes where all keys are whole
    numbers, are drawn one below the other, and ``out`` is a page (html) whose slider chooses among them.

    Raises PahqError for what has no circuit, for edges that the graph lacks and for a file of another kind.
    """
    if isinstance(what, Mapping):
        given = {"scores": scores, "published": None if published is None else list(published)}
        return _draw_sweep(what, out, title or "", limit, given)
    shown = shown_of(what, scores=scores, published=published, title=title)
    if out is not None:
        write(shown, Path(out), limit)
    return Drawing(picture_of(shown, limit=limit))


def _draw_sweep(
    circuits: Mapping[float, Drawable] | Mapping[int, Drawable],
    out: str | Path | None,
    title: str,
    limit: int,
    given: Mapping[str, Any],
) -> Drawing:
    from pahq.report.sweep import label_of, sweep_of, write_sweep

    for value in circuits:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PahqError(f"draw: circuits by their thresholds or sizes were expected, and {value!r} is neither")
    name = "size" if all(isinstance(value, int) for value in circuits) else "threshold"
    lead, steps = f"{title}, " if title else "", []
    for value, circuit in sorted(circuits.items(), key=lambda one: one[0]):
        shown = shown_of(circuit, **given)
        steps.append((value, replace(shown, title=f"{lead}{name} {label_of(value)}: {_count(shown.circuit)}")))
    sweep = sweep_of(name, steps, title)
    if out is not None:
        write_sweep(sweep, Path(out))
    return Drawing(stacked([picture_of(shown, limit=limit) for shown in sweep.steps]))


def write(shown: Shown, out: Path, limit: int = LIMIT) -> None:
    """Write what is shown as the file's name ends; PahqError for another ending and for a folder."""
    from pahq.report.drawing import WRITERS, ending, save

    if ending(out, dict.fromkeys((*WRITERS, "html"))) != "html":
        save(shown, out, limit=limit)
        return
    from pahq.report.page import page

    write_atomic(out, page(shown))


def explorer(folder: Path) -> str:
    """The page to explore of the finished cell in ``folder``, as HTML."""
    from pahq.report.page import page

    return page(show_cell(folder))


def shown_of(
    what: Drawable,
    *,
    scores: Scores | None = None,
    published: Iterable[str] | None = None,
    title: str | None = None,
) -> Shown:
    """A search, circuit or cell with all that is known of its edges."""
    if isinstance(what, str | Path):
        shown = show_cell(Path(what))
    elif isinstance(what, Circuit):
        shown = Shown(what)
    elif isinstance(getattr(what, "circuit", None), Circuit):
        facts = {one.edge: Fact(one.effect, order=one.index + 1) for one in what.decisions}
        note = "The wider a line, the more the loss rose when its edge was removed in its test."
        shown = Shown(what.circuit, facts=facts, notes=(note,))
    else:
        raise PahqError(
            f"draw: a search's result, a circuit or a cell's folder was expected, not {type(what).__name__}"
        )
    graph = shown.circuit.graph
    if scores is not None:
        if scores.graph != graph:
            raise PahqError("draw: the scores are of another graph than the circuit")
        shown = replace(shown, facts=facts_of_scores(scores), measure="score", notes=())
    if published is not None:
        shown = replace(shown, published=frozenset(map(graph.index_of, published)))
    return replace(shown, title=title or shown.title or _count(shown.circuit))


def _count(circuit: Circuit) -> str:
    return f"{len(circuit):,} of {len(circuit.graph.edges):,} edges"
