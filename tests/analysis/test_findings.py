"""The report's first sentences: counted from the cells, silent where there is nothing to count."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support import made_cells

from pahq.analysis.evaluate import evaluate
from pahq.analysis.findings import figure_names, findings
from pahq.analysis.names import FIGURES, TABLES
from pahq.analysis.report import report
from pahq.analysis.summary import Evaluation, summarise
from pahq.analysis.tables import APART, tables

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
NANO = "nano-induction"
NAMES = sorted(graph_of(NANO).edge_index)


def evaluated(root: Path, ids: list[str]) -> Evaluation:
    evaluate(root, "tiny", ids)
    return Evaluation.read(root, "tiny")


@pytest.fixture
def few(tmp_path: Path) -> Evaluation:
    """ACDC at two thresholds; int8 PAHQ misses one edge and has one more, changes miss none, RTN-Q was not run."""
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:6], seconds=2.0),
        cell(tmp_path, config(NANO, "acdc", "float32", 0.2), NAMES[:4], seconds=2.0),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.1), NAMES[1:7], seconds=3.0),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.2), NAMES[:4], seconds=5.0),
        cell(tmp_path, config(NANO, "pahq-changes", "int8", 0.1), NAMES[:6], seconds=1.0),
    ]
    return evaluated(tmp_path, ids)


def test_edges_that_differ_are_counted_by_method_and_width(few: Evaluation) -> None:
    told = " ".join(findings(few))
    assert "5 circuits of ACDC, PAHQ and PAHQ (changes) were judged, on the task nano-induction" in told
    assert "PAHQ 2 of 10 at int8 (2 searches); PAHQ (changes) 0 of 6 at int8 (1 search)" in told
    assert "PAHQ 2 and PAHQ (changes) 0.5 (cpu)." in told  # seconds
    for absent in ("RTN-Q", "audit=band", "resampled", "5% of the edges"):
        assert absent not in told


def test_seeds_count_and_devices_stay_apart(tmp_path: Path) -> None:
    """A search of another seed is no less a search; seconds of two devices are two sentences' worth."""
    ids = []
    for seed, kept in ((0, NAMES[:4]), (1, NAMES[1:5])):
        ids.append(cell(tmp_path, config(NANO, "acdc", "float32", 0.1, seed), NAMES[:4], seconds=2.0))
        ids.append(cell(tmp_path, config(NANO, "pahq", "int8", 0.1, seed), kept, seconds=3.0))
    ids.append(cell(tmp_path, config(NANO, "acdc", "float32", 0.2), NAMES[:4], seconds=2.0, device="NVIDIA X"))
    ids.append(cell(tmp_path, config(NANO, "pahq", "int8", 0.2), NAMES[:4], seconds=20.0, device="NVIDIA X"))
    told = " ".join(findings(evaluated(tmp_path, ids)))
    assert "PAHQ 2 of 12 at int8 (3 searches)" in told
    assert "PAHQ 10 (NVIDIA X); PAHQ 1.5 (cpu)." in told


def test_audited_searches_stand_beside_the_same_without(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    found = evaluated(root, ids)
    audited = Evaluation(**{**vars(found), "cells": found.cells.assign(audit="band")})
    assert "without an audit, of so many" not in " ".join(findings(audited))
    plain = " ".join(findings(found))
    low = found.agreement[(found.agreement["method"] == "rtn-q") & (found.agreement["precision"] == "int4")]
    kept = found.cells.set_index("id")["kept"].reindex(low["reference"]).sum()
    assert f"{low['differing'].sum():.0f} of {kept:,.0f} at int4 ({len(low)} searches)" in plain


def test_the_report_shows_what_has_rows_alone(few: Evaluation) -> None:
    """Findings before notes, notes at their tables, no table and no figure that is empty."""
    made = tables(few)
    assert tuple(table.name for table in made) == TABLES  # what Snakemake expects
    text = report(few, "tiny", made, APART)
    assert text.index("## What was found") < text.index("edges_kl.png") < text.index("## What a row is")
    assert "SmolLM2's weights" not in text  # a note on another model
    assert text.index("## Seconds and memory") < text.index("**Seconds do not show")
    empty = {table.title for table in made if table.frame.empty}
    assert {"Audited searches", "Stability"} <= empty
    assert not any(f"## {title}" in text for title in empty)
    assert all(title in text for title in empty)  # named in the last line
    assert "figures/stability.png" not in text
    assert set(figure_names(few)) < set(FIGURES)


def test_rounding_is_said_to_be_harmless_only_where_it_was_measured(tmp_path: Path) -> None:
    """A search of changes starts with no loss, since its state is in full precision; an audited one does too."""
    ids = [
        cell(tmp_path, config(NANO, "acdc", "float32", 0.1), NAMES[:6]),
        cell(tmp_path, config(NANO, "pahq", "int8", 0.1), NAMES[:6]),
        cell(tmp_path, config(NANO, "pahq-changes", "int8", 0.1), NAMES[:6]),
    ]
    found = evaluated(tmp_path, ids)
    rows = summarise(Evaluation(**{**vars(found), "cells": found.cells.assign(search_start=0.0)})).set_index("method")
    assert "hardly" in rows.loc["pahq", "note"]
    assert "hardly" not in rows.loc["pahq-changes", "note"]
    assert pd.isna(rows.loc["pahq-changes", "start_loss"])
