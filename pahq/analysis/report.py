"""The report of an experiment: what was found, the figures, the tables, each with what one must know to read it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pahq.analysis.findings import figure_names, findings
from pahq.analysis.notes import OF_ROWS
from pahq.analysis.summary import Evaluation
from pahq.analysis.table import Table, markdown_table

LEGEND = (
    "Colour is the format of numbers (of *methods* and *cost*: the method, of *errors*: the arithmetic), the marker "
    "the method; a half-filled marker has settings of its own, which its name or the legend says. Names stand where "
    "lines end and beside points; where they are many some alone are named, and a legend has all. Circuits that "
    "coincide hide each other: the tables tell them apart."
)


def report(found: Evaluation, experiment: str, made: Sequence[Table], apart: Collection[str]) -> str:
    """Markdown; ``apart``: tables that it names and does not hold. Tables and figures without a row are left out."""
    done, open_ = len(found.cells) + len(found.serial), len(found.missing)
    figures = figure_names(found)
    parts = [f"# Experiment {experiment}", f"{done} of {done + open_} cells are finished."]
    if open_:
        parts += ["**Not finished, and in no table:**", markdown_table(found.missing)]
    parts += ["## What was found", "\n".join(f"- {sentence}" for sentence in findings(found))]
    parts += [f"![{name}](../figures/{name}.png)" for name in figures[:1]]
    parts += ["## What a row is", OF_ROWS.rstrip()]
    if figures[1:]:
        parts += ["## Figures", LEGEND, *(f"![{name}](../figures/{name}.png)" for name in figures[1:])]
    parts += [table.markdown(level=2).rstrip() for table in made if table.name not in apart and len(table.frame)]
    parts.append(f"Apart, for their length: {', '.join(f'[{name}.md]({name}.md)' for name in apart)}.")
    empty = [table.title for table in made if table.frame.empty]
    if empty:
        parts.append(f"Tables without a row in this experiment: {'; '.join(empty)}.")
    return "\n\n".join(parts) + "\n"
