"""``pahq show CELL``: a finished cell's circuit, in the terminal or drawn to a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pahq.circuits.shown import LIMIT
from pahq.config.arguments import Arguments
from pahq.errors import PahqError
from pahq.files.text import dump_json, write_atomic
from pahq.report.cells import show_cell
from pahq.report.terminal import TOP, as_text, coloured

FORMS = ("svg", "png", "pdf", "dot", "html")


def main_show(argv: Sequence[str]) -> int:
    """``CELL [CELL ...] [--out FILE]``. 0, or 2 on bad input."""
    parser = Arguments(prog="pahq show", description="a finished cell's circuit, in the terminal or as a picture")
    several = "several that differ in threshold or size alone make a page with a slider"
    parser.add_argument("cell", nargs="+", type=Path, metavar="CELL", help=f"a finished cell's folder; {several}")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write it as the file's name ends: {', '.join(FORMS)}; html is a page to explore",
    )
    parser.add_argument("--all", action="store_true", help="edges that change no output too")
    parser.add_argument("--top", type=int, default=TOP, help=f"of the list: so many edges, the strongest; {TOP}")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help=f"of a picture: from how many edges on it is drawn by node; {LIMIT}"
    )
    given = parser.parse_args(argv)
    for name in ("top", "limit"):
        if getattr(given, name) < 0:
            raise PahqError(f"pahq show: --{name} is a number of edges from 0 on, not {getattr(given, name)}")
    if len(given.cell) > 1:
        from pahq.report.sweep import show_cells

        sys.stdout.write(f"{show_cells(given.cell, given.out, every=given.all)}\n")
        return 0
    [cell] = given.cell
    if given.out is None:
        text = as_text(show_cell(cell, every=given.all), top=given.top, colour=coloured(sys.stdout))
        sys.stdout.write(text if _can_write(text) else text.replace("·", "."))
        return 0
    from pahq.report.library import write

    write(show_cell(cell, every=given.all), given.out, given.limit)
    sys.stdout.write(f"{given.out}\n")
    return 0


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def main_diff(argv: Sequence[str]) -> int:
    """``A B [--json] [--out FILE.html]``. 0, or 2 on bad input."""
    parser = Arguments(prog="pahq diff", description="what changed from the circuit of cell A to that of cell B")
    parser.add_argument("a", type=Path, metavar="A", help="a finished cell's folder")
    parser.add_argument("b", type=Path, metavar="B", help="another one's")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="write a page that shows both circuits, too")
    parser.add_argument("--no-swap", action="store_true", help="do not load the model to judge B's circuit on A's task")
    given = parser.parse_args(argv)
    from pahq.report.difference import diff
    from pahq.report.drawing import ending

    if given.out is not None:
        ending(given.out, {"html": None})
    found = diff(given.a, given.b, swap=not given.no_swap)
    if given.out is not None:
        from pahq.report.page import page

        a, b = (show_cell(folder, every=True) for folder in (given.a, given.b))
        write_atomic(given.out, page(a, b, found.sentences(names=False)))
    sys.stdout.write(dump_json(found.to_json()) if given.json else f"{found!r}\n")
    return 0
