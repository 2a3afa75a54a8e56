"""Tables in the paper's shape (Markdown, CSV, parquet) of an evaluated experiment, and a report of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pahq.analysis.arithmetic import arithmetic_rows
from pahq.analysis.audits import audit_rows
from pahq.analysis.blocks import blocks
from pahq.analysis.evaluate import PUBLISHED, is_acdc_by_construction
from pahq.analysis.faithful import by_cell, by_series, cell_columns
from pahq.analysis.methods import method_rows
from pahq.analysis.notes import OF_TABLES
from pahq.analysis.paper import NOT_PUBLISHED, paper_area, printed_cost
from pahq.analysis.report import report
from pahq.analysis.rows import records
from pahq.analysis.summary import Evaluation, kl_of_logits, summarise
from pahq.analysis.table import Table
from pahq.files.frames import write_parquet
from pahq.files.text import write_atomic

APART = ("auc_against_acdc", "faithfulness_cells")  # tables that the report names and does not hold


def tables(found: Evaluation) -> list[Table]:
    """All tables of an evaluation, in the report's order."""
    series = summarise(found)
    block = {table.name: table for table in blocks(found)}
    made = [
        area_table(series),
        block["grids"],
        block["printed"],
        methods_table(found),
        pairs_table(found),
        arithmetic_table(found),
        circuit_table(found.cells, found.stability),
        bits_table(series),
        stability_table(found.stability),
        *faithfulness_tables(found),
        block["edges"],
        cost_table(series),
        block["models"],
        block["scheduler"],
        block["pareto"],
        audit_table(found),
        effect_table(found.effects),
        against_acdc(found),
    ]
    notes = OF_TABLES if (found.cells["model"] == "smollm2").any() else {**OF_TABLES, "circuits": ""}
    return [replace(table, notes=notes.get(table.name, "")) for table in made]


def area_table(series: pd.DataFrame) -> Table:
    names = "task search_metric method precision bits variant against thresholds points auc_steps auc_trapezoid"
    names += " mean_jaccard jaccard_by_chance edges_differing paper paper_source note"
    caption = "Edges found by method and precision, against the published circuit where there is one."
    return Table("auc", "Areas and agreement", caption, with_paper(series)[names.split()])


def bits_table(series: pd.DataFrame) -> Table:
    names = "task search_metric method bits precision variant thresholds auc_steps auc_trapezoid mean_jaccard"
    names += " edges_differing start_loss mean_kept mean_kl paper paper_source note"
    caption = (
        "Width of the attention weights out of focus (RTN-Q: of all of them). Means run over the thresholds. "
        "Loss by rounding alone: of the search metric, before any edge is removed."
    )
    return Table("bits", "Bit widths", caption, with_paper(series)[names.split()])


def with_paper(series: pd.DataFrame) -> pd.DataFrame:
    """The series with what the papers print for them."""
    known = [paper_area(row) for row in series.to_dict("records")]  # type: ignore[arg-type]
    return series.assign(paper=[value for value, _ in known], paper_source=[source for _, source in known])


def circuit_table(cells: pd.DataFrame, stability: pd.DataFrame) -> Table:
    names = "task method precision variant threshold edges kept kept_cleaned kl metric value clean corrupted"
    stable = ["jaccard_circuit", "jaccard_orders", "jaccard_seeds"]
    notes = [_circuit_note(row) for row in records(cells)]
    columns = ["id", *names.split(), "faithfulness"]
    shown = cells[columns].assign(kl=kl_of_logits(cells)).merge(stability[["id", *stable]], on="id", how="left")
    caption = (
        "One row a circuit; KL and the task's metric on fresh prompts, on the full-precision model. Jaccard: to the "
        "circuits that the same search finds on resampled prompts, in other orders and on other seeds' prompts "
        "(table Stability)."
    )
    return Table("circuits", "Circuits", caption, shown.assign(note=notes).drop(columns="id"))


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
        "resamples and to the circuit itself. Only circuits whose rows of the experiment ask for stability, or all "
        "where the command did."
    )
    return Table("stability", "Stability", caption, stability[names.split()])


def faithfulness_tables(found: Evaluation) -> list[Table]:
    """One row a series for the report, and one row a circuit apart."""
    judged = by_cell(found.cells, found.faithfulness)
    series = (
        "Means over a series' thresholds, on fresh prompts. Faithfulness at 0.1%: of the best 0.1% of the edges. "
        "Tests: share of the circuits that passed; a dash where the test cannot decide."
    )
    cells = (
        "One row a circuit, with 95% intervals by bootstrap over prompts unless set otherwise. p: of the five tests; "
        "minimality's is the smallest of the tested edges, times their number."
    )
    return [
        Table("faithfulness", "Faithfulness", series, by_series(judged).assign(paper_number=NOT_PUBLISHED)),
        Table("faithfulness_cells", "Faithfulness of every circuit", cells, cell_columns(judged)),
    ]


def cost_table(series: pd.DataFrame) -> Table:
    names = "task method precision variant engine device threads thresholds tests seconds ms_per_test peak_mib"
    names += " seconds_to_acdc peak_to_acdc paper_runtime paper_memory paper_source note"
    rows: list[dict[str, Any]] = series.to_dict("records")  # type: ignore[assignment]
    more = pd.DataFrame([printed_cost(row) | {"note": _cost_note(row)} for row in rows], index=series.index)
    frame = series.drop(columns="note").join(more)
    caption = (
        "Seconds of all tests, peak memory of the worst cell. Ratios: over the thresholds shared with ACDC "
        "on the same engine, device and threads. They do not show what low bits save; see the notes."
    )
    return Table("cost", "Seconds and memory", caption, frame[names.split()])


def audit_table(found: Evaluation) -> Table:
    caption = (
        "Tests within a band of the threshold decided again in full precision (audit=band), the same search without, "
        "and ACDC. Differing: edges, from ACDC's circuit. Overturned: audited decisions that full precision changed. "
        "Could differ: confidence bound of the expected number of unaudited ones that it would. Of exact scores "
        "(a size, no threshold): the share of edges scored again, and as overturned the edges that this brought in. "
        "Bits: of attention and MLP weights read a test, of full precision's; above 1 where both networks ran."
    )
    return Table("audit", "Audited searches", caption, audit_rows(found.cells, found.agreement))


def methods_table(found: Evaluation) -> Table:
    caption = (
        "Searches beside methods that score edges, in full precision. Seconds: of one circuit of a search, and of the "
        "scoring from which all circuits of a row follow (of Edge Pruning, which learns anew for each size, the mean). "
        "KL at 2%: of circuits with so many of the edges, between the two nearest; a dash where none are so large or "
        "so small; edges that change no output are not counted. CMD: mean distance of faithfulness to 1 over 0.1% to "
        "5% of the edges by their scores, however a circuit is chosen."
    )
    return Table("methods", "Methods side by side", caption, method_rows(found.cells, found.faithfulness))


def pairs_table(found: Evaluation) -> Table:
    caption = (
        "Any two methods in full precision: Jaccard index of two circuits of about one size (of the sizes that both "
        "have, the one nearest to 5% of the edges; edges on a path to the output alone), and rank correlation "
        "(Spearman's) over all edges, of |score|, and for searches of the highest threshold at which an edge is kept. "
        "Edges that a search never keeps share one rank."
    )
    return Table("pairs", "Methods in pairs", caption, found.pairs)


def arithmetic_table(found: Evaluation) -> Table:
    caption = (
        "The same search with the whole network in low precision, and with only the changes that tests make in it "
        "(method=pahq-changes). Differing: edges, from ACDC's circuit, without and with the usual audit (audit=band). "
        "Audited: the share of the tests that the audit decided again. Only searches finished in both arithmetics."
    )
    return Table("arithmetic", "Network against changes", caption, arithmetic_rows(found.cells, found.agreement))


def effect_table(effects: pd.DataFrame) -> Table:
    caption = (
        "Searches whose every test was measured in both precisions (audit=band band.share=1): what arithmetic, focus, "
        "scales and the re-measured baseline do to |effect - full-precision effect|, in the search metric's units. "
        "Over all tests of a search, all in ACDC's own states; error / effect: over those whose full-precision effect "
        "is more than a third of the threshold. Flipped: tests that fell on the other side of the threshold. "
        "Scales: precisions named -head have one a head, the others of their format one a row."
    )
    return Table("effects", "Ablations: errors of effects", caption, effects)


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
    write_atomic(folder / "REPORT.md", report(found, experiment, made, APART))
    return folder / "REPORT.md"
