"""``pahq report EXPERIMENT``: what an experiment found as pages that open anywhere, one of it and one of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pahq.analysis.findings import figure_names, findings
from pahq.analysis.notes import OF_ROWS
from pahq.analysis.report import LEGEND
from pahq.analysis.summary import Evaluation, kl_of_logits
from pahq.analysis.table import Table, without_blank
from pahq.analysis.tables import tables
from pahq.cell.files import cell_folder, read_result
from pahq.errors import PahqError
from pahq.files.text import write_atomic
from pahq.report.cellpage import Near, cell_page
from pahq.report.html import Rows, drawing, inline, markdown, render, table
from pahq.report.sweep import siblings

LONG = 40  # rows of a table, from which on its parts are folded
COLUMNS = "id task method precision variant threshold size kept kept_cleaned kl faithfulness seconds"


def write_report(root: Path, experiment: str) -> Path:
    """Write the experiment's page and its circuits' pages, which lie beside it. The first one's path.

    Raises PahqError if the experiment was not evaluated, or its figures were not drawn.
    """
    write_circuits(root, experiment)
    return write_summary(root, experiment)


def write_circuits(root: Path, experiment: str) -> Path:
    """Write a page for every circuit into ``<root>/report/<experiment>``; that folder."""
    found, folder = Evaluation.read(root, experiment), root / "report" / experiment
    done = pd.concat([found.cells, found.serial]) if len(found.serial) else found.cells
    sweeps = siblings({cell_id: read_result(cell_folder(root, cell_id)).config for cell_id in done["id"]})
    for cell_id in done["id"]:
        up = "../" * cell_id.count("/")
        near = [Near(cell_folder(root, one), label, f"{up}{one}.html") for one, label in sweeps[cell_id]]
        page = cell_page(cell_folder(root, cell_id), experiment, f"../{up}{experiment}.html", near)
        write_atomic(folder / f"{cell_id}.html", page)
    return folder


def write_summary(root: Path, experiment: str) -> Path:
    """Write the experiment's page as ``<root>/report.html``, and as ``<root>/report/<experiment>.html``, where it stays
    when another experiment is reported. The former's path.
    """
    found, pages = Evaluation.read(root, experiment), root / "report"
    for cell_id in found.cells["id"]:
        if not (pages / experiment / f"{cell_id}.html").exists():
            raise PahqError(f"{cell_id} has no page yet; write them first (pahq report {experiment} --only circuits)")
    values = _values(found, experiment)
    others = sorted({*(path.stem for path in pages.glob("*.html")), experiment} - {experiment})
    for path, to in ((pages / f"{experiment}.html", ""), (root / "report.html", "report/")):
        links = {
            "others": [(name, f"{to}{name}.html") for name in others],
            "cells": _cells(found.cells, to + experiment),
        }
        write_atomic(path, render("experiment.html", values | links))
    return root / "report.html"


def _values(found: Evaluation, experiment: str) -> dict[str, Any]:
    """What a page shows, but for its links."""
    figures = [{"name": name, "svg": drawing(_figure(found, name))} for name in figure_names(found)]
    done = len(found.cells) + len(found.serial)
    return {
        "title": f"{experiment}: report",
        "experiment": experiment,
        "done": done,
        "of": done + len(found.missing),
        "versions": _versions(found.cells),
        "missing": table(found.missing),
        "findings": [inline(sentence) for sentence in findings(found)],
        "first": figures[0] if figures else None,
        "figures": figures[1:],
        "legend": inline(LEGEND),
        "notes": markdown(OF_ROWS),
        "tables": [_table(part) for part in tables(found) if len(part.frame)],
    }


def _figure(found: Evaluation, name: str) -> str:
    path = found.folder / "figures" / f"{name}.svg"
    if not path.exists():
        raise PahqError(f"{path} is not there; draw the figures first (pahq figures)")
    return path.read_text(encoding="utf-8")


def _versions(cells: pd.DataFrame) -> str:
    found = [f"{what} {', '.join(sorted(set(cells[name])))}" for what, name in _MADE_WITH.items()]
    return f"Made with {'; '.join(found)}."


_MADE_WITH = {"pahq": "pahq_version", "torch": "torch_version", "Python": "python_version", "on": "device"}


def _table(part: Table) -> dict[str, Any]:
    named = {"name": part.name, "title": part.title, "caption": part.caption}
    return named | {"notes": markdown(part.notes), "parts": list(_parts(part))}


def _parts(part: Table) -> Iterator[dict[str, Any]]:
    for value, rows in part.frame.groupby(part.by, sort=False):
        shown = without_blank(rows.drop(columns=part.by))
        yield {"name": str(value), "open": len(part.frame) <= LONG, "table": table(shown)}


def _cells(cells: pd.DataFrame, folder: str) -> Rows:
    shown = without_blank(cells.assign(kl=kl_of_logits(cells))[COLUMNS.split()])

    def page_of(row: Mapping[str, Any]) -> str:
        return f"{folder}/{row['id']}.html"

    return table(shown, page_of)
