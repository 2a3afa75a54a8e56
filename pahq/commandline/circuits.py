"""The commands about finished cells' circuits: show, diff, export and import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pahq.commandline.options import Cell, Cells, Device, Format, Json
from pahq.commandline.output import check_file, document, line, on_terminal, table
from pahq.errors import PahqError

if TYPE_CHECKING:
    from pahq.report.difference import Difference

FEW = 10  # edges that a table names
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write it as the file's name ends: svg, png, pdf, dot, or html, a page to explore.",
    ),
]


def show(
    cell: Cells,
    out: Picture = None,
    all: Annotated[bool, typer.Option("--all", help="Edges that change no output too.")] = False,
    top: Annotated[int, typer.Option(metavar="N", help="Of the list: so many edges, the strongest.")] = 20,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Of a picture: from how many edges on it is drawn by node.")
    ] = 400,
    json: Json = False,
) -> None:
    """Show a circuit in the terminal, or draw it to a file.

    Several cells that differ in threshold or size alone make a page with a slider.

    \b
    pahq show results/cells/nano-ioi/acdc-float32-t0.1-* --out circuit.png
    pahq show results/cells/nano-ioi/acdc-float32-t* --out sweep.html
    """
    for name, count in (("top", top), ("limit", limit)):
        if count < 0:
            raise PahqError(f"pahq show: --{name} is a number of edges from 0 on, not {count}")
    if len(cell) > 1:
        _sweep(cell, out, every=all, json=json)
        return
    from pahq.report.cells import show_cell
    from pahq.report.terminal import as_text, coloured

    [folder] = cell
    shown = show_cell(folder, every=all)
    if out is not None:
        from pahq.report.library import write

        write(shown, out, limit)
    if json:
        graph = shown.circuit.graph
        document(
            {
                "folder": folder,
                "title": shown.title,
                "kept": len(shown.circuit),
                "of": len(graph.edges),
                "measure": shown.measure,
                "edges": [_edge(shown, edge) for edge in shown.strongest],
                "notes": shown.notes[1:],  # the first is about a picture's lines
                "path": out,
            }
        )
    elif out is not None:
        line(str(out))
    else:
        text = as_text(shown, top=top, colour=coloured(sys.stdout))
        sys.stdout.write(text if _can_write(text) else text.replace("·", "."))


def _sweep(cells: Sequence[Path], out: Path | None, *, every: bool, json: bool) -> None:
    """One page of several cells' circuits."""
    from pahq.report.sweep import show_cells

    page = show_cells(cells, out, every=every)
    if json:
        document({"folders": list(cells), "path": page})
    else:
        line(str(page))


def _edge(shown: Any, edge: int) -> dict[str, Any]:
    fact = shown.facts.get(edge)
    return {
        "edge": str(shown.circuit.graph.edges[edge]),
        "effect": None if fact is None else fact.effect,
        "order": None if fact is None else fact.order,
        "published": None if shown.published is None else edge in shown.published,
    }


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A finished cell's folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one's.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page that shows both circuits, too.")
    ] = None,
    no_swap: Annotated[
        bool, typer.Option("--no-swap", help="Do not load the model to judge B's circuit on A's task.")
    ] = False,
    json: Json = False,
) -> None:
    """What changed from the circuit of cell A to that of B.

    It tells the edges that left and came, and the first decision at which the searches part.
    """
    if out is not None:
        if out.suffix.lower() != ".html":
            raise PahqError(f"--out {out}: two circuits are written as a page; end the name in html")
        check_file(out)
    from pahq.report.difference import diff as compare

    found = compare(a, b, swap=not no_swap)
    if out is not None:
        from pahq.files.text import write_atomic
        from pahq.report.cells import show_cell
        from pahq.report.page import page

        one, other = (show_cell(folder, every=True) for folder in (a, b))
        write_atomic(out, page(one, other, found.sentences(names=False)))
    if json:
        document(found.to_json() | {"path": out})
    elif on_terminal():
        _both(found)
    else:
        line(repr(found))


def _both(found: Difference) -> None:
    """The comparison on a terminal: what can stand side by side as a table, the rest in sentences."""
    shared = found.agreement.shared
    rows: list[tuple[str, ...]] = [
        ("cell", found.a, found.b),
        ("edges", f"{shared + len(found.left):,}", f"{shared + len(found.came):,}"),
        ("alone in it", *(_few(names) for names in (found.left, found.came))),
    ]
    if found.first is not None:
        sides = (str(test) if test else "was over" for test in (found.first.a, found.first.b))
        rows.append((f"parts at test {found.first.number}", *sides))
    if (swap := found.swap) is not None:
        told = [] if swap.metric == "mse" else [("KL", swap.own_kl, swap.kl)]
        told += [(swap.metric, swap.own_value, swap.value)]
        if swap.own_faithfulness is not None and swap.faithfulness is not None:
            told += [("faithfulness", swap.own_faithfulness, swap.faithfulness)]
        rows += [(f"{name} on A's task", f"{own + 0.0:.4g}", f"{other + 0.0:.4g}") for name, own, other in told]
    table(rows, ("", "A", "B"))
    same = ["the searches take the same decisions"] if found.searches and found.first is None else []
    for sentence in (found.sentences(names=False)[2], *same, *([found.note] if found.note else [])):
        line(sentence)


def _few(names: Sequence[str]) -> str:
    more = [f"and {len(names) - FEW:,} more"] if len(names) > FEW else []
    return "\n".join([*names[:FEW], *more])


def export(
    cell: Cell,
    format: Annotated[Format, typer.Option("--format", help="mib is eap-ig's file in MIB's folders.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A file; of mib the folder of a submission. Without it, standard output."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="TASK_MODEL", help="Of mib, as ioi_gpt2; without it the cell's kind of task and its model."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a circuit and its scores in another format.

    The formats are those of EAP-IG, MIB and networkx, and CSV.
    """
    if name is not None and format != "mib":
        raise PahqError("pahq export: --name is for --format mib")
    if format == "mib" and out is None:
        raise PahqError("pahq export --format mib writes a folder: say --out FOLDER")
    from pahq.cell.exchange import export as exported
    from pahq.cell.exchange import mib_path
    from pahq.files.text import write_atomic

    text, path = exported(cell, format), out
    if format == "mib" and out is not None:
        path = mib_path(cell, out, name)
    if path is not None:
        check_file(path)
        write_atomic(path, text)
    if json:
        document({"folder": cell, "format": format, "path": path, "text": text if path is None else None})
    elif path is None:
        sys.stdout.write(text)
    else:
        line(str(path))


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON, as EAP-IG's code and MIB's track write it.")],
    like: Annotated[Path, typer.Option(metavar="CELL", help="A finished cell whose task and model it is of.")],
    size: Annotated[
        str | None,
        typer.Option(metavar="N", help="Choose so many edges (50), or a share (0.02), by the file's scores."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a circuit.json of ours.")] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Judge a circuit of EAP-IG or MIB as ours are judged."""
    count = None if size is None else _size(size)
    from pahq.cell.exchange import imported
    from pahq.cell.story import check_cell
    from pahq.model.sources.find import check_device

    check_device(device)
    if out is not None:
        check_file(out)
    found = imported(file, check_cell(like).config, out, device, count)
    if json:
        document(found.to_json() | {"path": out})
    else:
        line(str(found))


def _size(text: str) -> int | float:
    try:
        size = int(text) if text.isdigit() else float(text)
    except ValueError:
        size = 0
    if not size > 0:
        raise PahqError(f"pahq import: --size is a number of edges (50) or a share of them (0.02), not {text!r}")
    return size
