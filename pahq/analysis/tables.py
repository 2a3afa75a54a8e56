"""Tables in the paper's shape (Markdown, CSV, parquet) of an evaluated experiment, and a report of all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pahq.analysis.evaluate import PUBLISHED, is_acdc_by_construction
from pahq.analysis.frames import write_parquet
from pahq.analysis.paper import MEMORY, NOT_PUBLISHED, RUNTIME, paper_area
from pahq.analysis.summary import Evaluation, kl_of_logits, summarise
from pahq.errors import PahqError
from pahq.results import write_atomic

HEADINGS = {
    "auc_steps": "AUC (steps)",
    "auc_trapezoid": "AUC (trapezoid)",
    "points": "distinct points",
    "against": "judged against",
    "mean_jaccard": "Jaccard to ACDC (mean)",
    "jaccard_by_chance": "Jaccard by chance",
    "edges_differing": "edges differing from ACDC (sum)",
    "paper": "paper's AUC",
    "paper_source": "source of the paper's number",
    "kept_cleaned": "kept, cleaned",
    "kl": "KL (nats)",
    "mean_kl": "KL (nats, mean)",
    "start_loss": "loss by rounding alone",
    "mean_kept": "edges kept (mean)",
    "ms_per_test": "ms a test",
    "peak_mib": "peak MiB",
    "seconds_to_acdc": "seconds / ACDC's",
    "peak_to_acdc": "peak / ACDC's",
    "kept_mean": "kept on resamples (mean)",
    "kept_min": "fewest",
    "kept_max": "most",
    "jaccard_pairs": "Jaccard of pairs (mean)",
    "jaccard_pairs_min": "least of pairs",
    "jaccard_circuit": "Jaccard to the circuit (mean)",
    "jaccard_circuit_min": "least to the circuit",
    "always": "edges in all",
    "ever": "edges in any",
    "jaccard_orders": "other orders: Jaccard (mean)",
    "jaccard_orders_min": "least of orders",
    "jaccard_seeds": "other seeds: Jaccard (mean)",
    "jaccard_seeds_min": "least of seeds",
    "paper_runtime": "paper: runtime",
    "paper_memory": "paper: memory",
}

APART = ("auc_against_acdc",)  # tables that the report names and does not hold

NOTES = """\
- **Two areas.** *Steps* is ACDC's own, pessimistic area; *trapezoid* joins the same points by straight
  lines. They differ a lot where a sweep has few points. An area that rests on fewer than three distinct
  interior points has the note *few points*: read the circuits, not the area.
- **Agreement is not truth.** Where no circuit was published for a task's model, a method is held against
  what full-precision ACDC found at the same threshold. A Jaccard index says something only above what two
  random circuits of the same sizes reach (*by chance*).
- **ACDC by construction.** A row whose formats are all float32 is ACDC under another name: its agreement
  is no finding.
- **Rounding hardly changes this model.** The loss by rounding alone is below a hundredth of the smallest threshold,
  so agreement with ACDC was to be expected and says nothing for the method. Tracr's attention weights, for one, are
  0, 1, 50 and 100, which every format holds almost exactly.
- **SmolLM2's weights come from 4 bits**, in groups of 32 with a scale and a smallest value each: what is searched is
  that rounded model. Rounding it again to asymmetric int4 in the same groups changes nothing, so that row is left
  out; every other format rounds numbers that were rounded once before.
- **An area against a hand-made circuit is a weak claim alone.** Read it beside KL, the task's metric and
  faithfulness on fresh prompts. Faithfulness is (circuit - empty) / (full - empty) of the task's metric,
  on the full-precision model; it can leave [0, 1]. Tracr outputs are no logits: there the mean squared error
  stands in for KL.
- **A circuit is a finding about its prompts.** Where circuits of resampled prompts share fewer edges with each other
  than two methods do, the difference between the methods is below what the choice of prompts decides. Edges kept
  on all resamples are the firm part of a circuit; *edges in any* is what some draw of the prompts would have shown.
- **Seconds do not show what low bits do for speed.** Low formats are quantised and dequantised here, and
  the models are tiny: a low format can only cost time. Seconds are those of the tests alone, on the
  device named.
- **Peak memory does not fall with the format.** There is no packed storage yet. A peak counts from what the
  process held when the cell began, so of cells that share a process the later ones show less, whatever their
  format: only sweeps that ran in processes of their own compare.
- **The papers' numbers** stand in their own column with their source, on the rows that they belong to.
  Their areas are steps against the published circuit with corrupted activations, mostly on other models:
  compare the order and the gaps, not the values. ACDC paper: Conmy et al. 2023, arXiv 2304.14997. PAHQ
  paper: arXiv 2510.23264. What is not known to be printed there is "not published here".
"""


@dataclass(frozen=True)
class Table:
    """``frame`` has a column ``task``; the Markdown shows one block a task."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame

    def markdown(self, level: int = 1) -> str:
        parts = [f"{'#' * level} {self.title}", self.caption]
        for task, rows in self.frame.groupby("task", sort=False):
            parts += [
                f"{'#' * (level + 1)} {task}",
                markdown_table(_without_blank(rows.drop(columns="task"))),
            ]
        if self.frame.empty:
            parts.append("No row.")
        return "\n\n".join(parts) + "\n"


def tables(found: Evaluation) -> list[Table]:
    """All tables of an evaluation, in the report's order."""
    series = summarise(found)
    return [
        area_table(series),
        circuit_table(found.cells),
        bits_table(series),
        stability_table(found.stability),
        cost_table(series),
        against_acdc(found),
    ]


def area_table(series: pd.DataFrame) -> Table:
    names = "task method precision bits variant against thresholds points auc_steps auc_trapezoid mean_jaccard"
    names += " jaccard_by_chance edges_differing paper paper_source note"
    caption = "Edges found by method and precision, against the published circuit where there is one."
    return Table("auc", "Areas and agreement", caption, with_paper(series)[names.split()])


def bits_table(series: pd.DataFrame) -> Table:
    names = "task method bits precision variant thresholds auc_steps auc_trapezoid mean_jaccard edges_differing"
    names += " start_loss mean_kept mean_kl paper paper_source note"
    caption = (
        "Width of the attention weights out of focus (RTN-Q: of all of them). Means run over the thresholds. "
        "Loss by rounding alone: of the search metric, before any edge is removed."
    )
    return Table("bits", "Bit widths", caption, with_paper(series)[names.split()])


def with_paper(series: pd.DataFrame) -> pd.DataFrame:
    """The series with what the papers print for them."""
    known = [paper_area(row) for row in series.to_dict("records")]  # type: ignore[arg-type]
    return series.assign(paper=[value for value, _ in known], paper_source=[source for _, source in known])


def circuit_table(cells: pd.DataFrame) -> Table:
    names = "task method precision variant threshold edges kept kept_cleaned kl metric value clean corrupted"
    notes = [_circuit_note(row) for row in cells.to_dict("records")]  # type: ignore[arg-type]
    shown = cells[[*names.split(), "faithfulness"]]
    caption = (
        "One row a circuit; KL and the task's metric on fresh prompts, on the full-precision model. Value: "
        "of the circuit; clean: of the whole model; corrupted: of the empty circuit."
    )
    return Table("circuits", "Circuits", caption, shown.assign(kl=kl_of_logits(cells), note=notes))


def _circuit_note(row: Mapping[str, Any]) -> str:
    notes = ["ACDC by construction"] if is_acdc_by_construction(row) else []
    if row["kept"] in (0, row["edges"]):
        notes.append("empty circuit" if row["kept"] == 0 else "whole graph")
    if np.isnan(row["faithfulness"]):
        notes.append("clean and corrupted metric are equal")
    return "; ".join(notes)


def stability_table(stability: pd.DataFrame) -> Table:
    names = "task method precision variant threshold kept resamples kept_mean kept_min kept_max jaccard_pairs"
    names += " jaccard_pairs_min jaccard_circuit jaccard_circuit_min jaccard_by_chance always ever orders"
    names += " jaccard_orders jaccard_orders_min seeds jaccard_seeds jaccard_seeds_min note"
    caption = (
        "The whole search again: on prompts drawn with replacement (resamples), in the other orders of "
        "heads and senders, and on the prompts of other seeds. Jaccard indices of kept edges, of pairs of "
        "resamples and to the circuit itself. Cells whose row of the experiment says stability: true."
    )
    return Table("stability", "Stability", caption, stability[names.split()])


def cost_table(series: pd.DataFrame) -> Table:
    names = "task method precision variant engine device threads thresholds tests seconds ms_per_test peak_mib"
    names += " seconds_to_acdc peak_to_acdc paper_runtime paper_memory paper_source note"
    pahq = (series["method"] == "pahq") & (series["format"] != "float32")
    frame = series.assign(
        paper_runtime=np.where(pahq, RUNTIME[0], NOT_PUBLISHED),
        paper_memory=np.where(pahq, MEMORY[0], NOT_PUBLISHED),
        paper_source=np.where(pahq, RUNTIME[1], ""),
        note=[_cost_note(row) for row in series.to_dict("records")],  # type: ignore[arg-type]
    )
    caption = (
        "Seconds of all tests, peak memory of the worst cell. Ratios: over the thresholds shared with ACDC "
        "on the same engine, device and threads. They do not show what low bits save; see the notes."
    )
    return Table("cost", "Seconds and memory", caption, frame[names.split()])


def _cost_note(row: Mapping[str, Any]) -> str:
    notes = []
    if row["thresholds"] < row["of_thresholds"]:
        notes.append(f"{row['thresholds']} of {row['of_thresholds']} thresholds")
    if row["resumed"]:
        notes.append(f"{row['resumed']} resumed: peak of the last run alone")
    if row["peak_to_acdc"] < 0.5 or row["peak_to_acdc"] > 2:
        notes.append("peak set by a shared process, not by the format")
    return "; ".join(notes)


def against_acdc(found: Evaluation) -> Table:
    names = "task method precision variant reference thresholds points auc_steps auc_trapezoid note"
    frame = found.auc[found.auc["reference"] != PUBLISHED].rename(columns={"interior_points": "points"})
    caption = "Areas with a circuit of full-precision ACDC as reference: agreement with a method, not with a truth."
    return Table("auc_against_acdc", "Areas against ACDC's circuits", caption, frame[names.split()])


def _without_blank(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that say nothing in any row."""
    return frame[[name for name in frame.columns if not (frame[name].isna() | (frame[name] == "")).all()]]


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table: three significant digits, a dash for what is not there."""
    right = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    heads = [HEADINGS.get(name, name.replace("_", " ")) for name in map(str, frame.columns)]
    rows = [heads, ["---:" if number else "---" for number in right]]
    rows += [[_text(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _text(value: object) -> str:
    if isinstance(value, float):
        if np.isnan(value):
            return "-"
        return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def write_tables(root: str | Path, experiment: str) -> Path:
    """Write every table and REPORT.md to ``<root>/analysis/<experiment>/tables/``; return the report's path.

    Raises PahqError if the experiment was not evaluated.
    """
    found = Evaluation.read(root, experiment)
    folder = found.folder / "tables"
    made = tables(found)
    for table in made:
        write_atomic(folder / f"{table.name}.md", table.markdown())
        write_atomic(folder / f"{table.name}.csv", table.frame.to_csv(index=False))
        write_parquet(folder / f"{table.name}.parquet", table.frame)
    write_atomic(folder / "REPORT.md", report(found, experiment, made))
    return folder / "REPORT.md"


def report(found: Evaluation, experiment: str, made: Sequence[Table]) -> str:
    """The report: what is missing, how to read the numbers, the figures, every table."""
    done, open_ = len(found.cells), len(found.missing)
    parts = [f"# Experiment {experiment}", f"{done} of {done + open_} cells are finished."]
    if open_:
        parts += ["**Not finished, and in no table:**", markdown_table(found.missing)]
    parts += ["## How to read the numbers", NOTES.rstrip(), "## Figures"]
    parts.append("Circuits that coincide hide each other: the tables tell them apart.")
    parts += [f"![{name}](../figures/{name}.png)" for name in ("roc", "edges_kl", "bits", "agreement", "inclusion")]
    parts += [table.markdown(level=2).rstrip() for table in made if table.name not in APART]
    parts.append(f"Apart, for their length: {', '.join(f'[{name}.md]({name}.md)' for name in APART)}.")
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str]) -> int:
    """``EXPERIMENT [--root results]``: write the tables, say where the report lies. 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(prog="pahq tables", description="tables and report of an evaluated experiment")
    parser.add_argument("experiment", nargs="?", default="default")
    parser.add_argument("--root", type=Path, default=Path("results"))
    given = parser.parse_args(argv)
    try:
        report_path = write_tables(given.root, given.experiment)
    except PahqError as error:
        sys.stderr.write(f"pahq: error: {error}\n")
        return 2
    sys.stdout.write(f"{report_path}\n")
    return 0
