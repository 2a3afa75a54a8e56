"""The commands that judge an experiment's cells: evaluate, tables, figures and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pahq.commandline.options import Experiment, Json, Root
from pahq.commandline.output import document, line
from pahq.config.presets import options
from pahq.errors import nearest, unknown


def check_known(experiment: str, root: Path) -> None:
    """PahqError for a name that no experiment has, in a file or evaluated below ``root``, if it is near to one's."""
    known = {*options("experiment"), *(path.name for path in (root / "analysis").glob("*/"))}
    if experiment not in known and nearest(experiment, known):
        raise unknown("experiment", experiment, known)


def evaluate(experiment: Experiment = "default", root: Root = Path("results"), json: Json = False) -> None:
    """Judge an experiment's finished cells.

    Writes what tables, figures and report read: areas, agreement with ACDC, stability, effects.
    """
    from pahq.experiments.compose import cells

    ids = list(cells(experiment))
    from pahq.analysis.evaluate import evaluate as judge
    from pahq.analysis.names import EVALUATED

    folder = judge(root, experiment, ids)
    if json:
        files = [folder / f"{name}.parquet" for name in EVALUATED]
        document({"experiment": experiment, "folder": folder, "files": files})
    else:
        line(str(folder))


def tables(experiment: Experiment = "default", root: Root = Path("results"), json: Json = False) -> None:
    """Write an evaluated experiment's tables.

    Each as Markdown, CSV and parquet, and REPORT.md with all of them.
    """
    check_known(experiment, root)
    from pahq.analysis.tables import write_tables

    report = write_tables(root, experiment)
    if json:
        document({"experiment": experiment, "report": report, "files": sorted(report.parent.iterdir())})
    else:
        line(str(report))


def figures(experiment: Experiment = "default", root: Root = Path("results"), json: Json = False) -> None:
    """Draw an evaluated experiment's figures.

    Each as PNG, PDF and SVG.
    """
    check_known(experiment, root)
    from pahq.analysis.figures import write_figures

    paths = write_figures(root, experiment)
    if json:
        document({"experiment": experiment, "folder": paths[0].parent, "files": paths})
    else:
        line(str(paths[0].parent))


def report(
    experiment: Experiment = "default",
    root: Root = Path("results"),
    only: Annotated[
        Literal["circuits", "summary"] | None,
        typer.Option("--only", help="The circuits' pages, or the page of the experiment."),
    ] = None,
    json: Json = False,
) -> None:
    """Write an evaluated experiment as pages to look at.

    Findings, figures, sortable tables, and a page for every circuit. Its figures must be drawn before.
    """
    check_known(experiment, root)
    from pahq.report.experiment import write_circuits, write_report, write_summary

    write = {"circuits": write_circuits, "summary": write_summary}.get(only or "", write_report)
    page = write(root, experiment)
    if json:
        folder, summary = root / "report" / experiment, only != "circuits"
        document(
            {
                "experiment": experiment,
                "page": page if summary else None,
                "own_page": folder.parent / f"{experiment}.html" if summary else None,
                "cell_pages": sorted(folder.rglob("*.html")),
            }
        )
    else:
        line(str(page))
