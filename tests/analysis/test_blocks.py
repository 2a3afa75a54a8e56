"""Views across series: areas of one grid alone, the papers' numbers on their rows, costs by model, the front."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from support import made_cells

from pahq.analysis.blocks import (
    blocks,
    edges_frame,
    grid_frame,
    models_frame,
    on_front,
    pareto_frame,
    printed_frame,
    scheduler_frame,
)
from pahq.analysis.evaluate import evaluate, is_acdc_by_construction
from pahq.analysis.paper import AREAS, NOT_PUBLISHED
from pahq.analysis.summary import Evaluation
from pahq.analysis.tables import write_tables
from pahq.circuits.published import published_circuit
from pahq.errors import PahqError
from pahq.experiments.grids import GRIDS, log_grid

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TRACR, NANO = "tracr-reverse", "nano-docstring"
TRUTH = sorted(published_circuit(TRACR, graph_of(TRACR)) or ())
WRONG = sorted(set(graph_of(TRACR).edge_index) - set(TRUTH))


def found(root: Path, ids: list[str]) -> Evaluation:
    evaluate(root, "tiny", ids)
    return Evaluation.read(root, "tiny")


def test_an_area_is_that_of_its_grid_alone(tmp_path: Path) -> None:
    """On ACDC's grid every circuit is the truth; at two thresholds of PAHQ's three all of it is missed."""
    series = [(threshold, TRUTH) for threshold in log_grid(-5, -1, 21)] + [(0.005, WRONG[:40])]
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", threshold), edges) for threshold, edges in series]
    rows = grid_frame(found(tmp_path, ids).roc).set_index("grid")
    assert list(rows.index) == ["ACDC's sweep", "PAHQ's three"]  # of PAHQ's sweep two of 21 are here
    acdc, three = rows.loc["ACDC's sweep"], rows.loc["PAHQ's three"]
    assert (acdc["auc_steps"], acdc["thresholds"], acdc["points"]) == (1, "21 of 21", 1)
    assert acdc["note"] == "few points"
    assert (acdc["paper"], acdc["paper_source"]) == ("0.2", "ACDC paper, 3 of 15 edges")
    assert three["thresholds"] == "3 of 3"
    assert three["auc_steps"] == 1  # the truth at .001 and .01 dominates
    assert three["paper"] == NOT_PUBLISHED


def test_areas_by_hand(tmp_path: Path) -> None:
    """x = 10/91, y = 5/15 at .001, the same with y = 10/15 and x = 30/91 at .005, nothing at .01."""
    circuits = {0.001: TRUTH[:5] + WRONG[:10], 0.005: TRUTH[:10] + WRONG[:30], 0.01: []}
    ids = [cell(tmp_path, config(TRACR, "rtn-q", "fp8", t), edges) for t, edges in circuits.items()]
    [row] = grid_frame(found(tmp_path, ids).roc).to_dict("records")
    n = len(WRONG)
    points = [(0, 0), (10 / n, 1 / 3), (30 / n, 2 / 3), (1, 1)]
    pairs = list(pairwise(points))
    assert row["auc_steps"] == pytest.approx(sum((1 - x) * (y - b) for (_, b), (x, y) in pairs))
    assert row["auc_trapezoid"] == pytest.approx(sum((x - a) * (y + b) / 2 for (a, b), (x, y) in pairs))


def test_fewer_than_half_of_a_grid_is_no_area_of_it(tmp_path: Path) -> None:
    grid = log_grid(-5, -1, 21)
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", threshold), TRUTH) for threshold in grid[:10]]
    assert grid_frame(found(tmp_path, ids).roc).empty
    ids.append(cell(tmp_path, config(TRACR, "acdc", "float32", grid[10]), TRUTH))
    assert list(grid_frame(found(tmp_path, ids).roc)["thresholds"]) == ["11 of 21"]


def test_what_the_papers_print_stands_beside_ours(tmp_path: Path) -> None:
    ids = [cell(tmp_path, config(TRACR, "acdc", "float32", threshold), TRUTH) for threshold in log_grid(-5, -1, 21)]
    ids.append(cell(tmp_path, config(NANO, "acdc", "float32", 0.1), []))
    evaluation = found(tmp_path, ids)
    rows = printed_frame(evaluation.cells, grid_frame(evaluation.roc))
    [tracr] = rows[rows["task"] == TRACR].to_dict("records")
    assert (tracr["ours"], tracr["paper"]) == ("1.000 (float32)", "0.2")
    docstring = rows[rows["task"] == NANO]
    assert len(docstring) == sum(area.kind == "docstring" for area in AREAS)
    assert set(docstring["ours"]) == {"-"}  # nano's circuit is published by nobody
    assert docstring["paper_source"].str.contains("another model").all()


def test_every_printed_area_names_a_grid_of_its_series() -> None:
    for area in AREAS:
        row = {"kind": area.kind, "search_metric": area.metric}
        assert area.grid in {grid.name for grid in GRIDS if grid.fits(row)} | {"its own"}


def test_edge_counts_at_the_papers_thresholds(tmp_path: Path) -> None:
    circuits = {0.001: TRUTH, 0.01: TRUTH[:9], 0.02: TRUTH[:2]}
    ids = [cell(tmp_path, config(TRACR, "pahq", "int8", t), edges) for t, edges in circuits.items()]
    [row] = edges_frame(found(tmp_path, ids).cells).to_dict("records")
    assert (row["kept at 0.001"], row["kept at 0.01"]) == (15, 9)
    assert pd.isna(row["kept at 0.005"])
    assert (row["kept_min"], row["kept_max"], row["paper_number"]) == (2, 15, NOT_PUBLISHED)


def test_costs_of_a_model_are_over_its_tasks(tmp_path: Path) -> None:
    names = sorted(graph_of(NANO).edge_index)[:4]
    ids = []
    for task in (NANO, "nano-induction"):
        own = [name for name in names if name in graph_of(task).edge_index]
        ids += [cell(tmp_path, config(task, "acdc", "float32", t), own, seconds=2.0) for t in (0.1, 0.2)]
        ids.append(cell(tmp_path, config(task, "pahq", "int8", 0.1), own, seconds=3.0))
    rows = models_frame(found(tmp_path, ids).cells).set_index("method")
    assert (rows.loc["acdc", "tasks"], rows.loc["acdc", "cells"], rows.loc["acdc", "seconds"]) == (2, 4, 8)
    assert rows.loc["pahq", "seconds_to_acdc"] == pytest.approx(1.5)
    assert rows.loc["pahq", "paper_runtime"] == "up to 80% less than ACDC"
    assert rows.loc["acdc", "paper_memory"] == NOT_PUBLISHED
    assert set(rows["model"]) == {"nano"}


def test_the_scheduler_has_a_row_of_its_own_and_no_other(tmp_path: Path) -> None:
    edges = sorted(graph_of(NANO).edge_index)[:4]
    on = [config(NANO, "pahq", name, t) for name in ("int8", "fp8") for t in (0.1, 0.2)]
    serial = on[1].engine.model_copy(update={"schedule": "serial"})
    off = on[1].model_copy(update={"engine": serial})
    lone = config(NANO, "pahq", "int4", 0.1).model_copy(update={"engine": serial})  # with no overlapped one beside it
    coarse = on[1].precision.model_copy(update={"compute": "bf16"})
    other = on[1].model_copy(update={"precision": coarse})  # differs in more than the schedule
    ids = [cell(tmp_path, chosen, edges, seconds=3.0) for chosen in on]
    ids += [cell(tmp_path, chosen, edges, seconds=4.0) for chosen in (off, lone, other)]
    evaluation = found(tmp_path, ids)
    [row] = scheduler_frame(evaluation.cells, evaluation.serial).to_dict("records")
    assert (row["task"], row["precision"], row["threshold"], row["same_end"]) == (NANO, "int8", 0.2, True)
    assert (row["seconds_overlapped"], row["seconds_serial"], row["overlapped_to_serial"]) == (3, 4, 0.75)
    assert row["paper_number"] == NOT_PUBLISHED
    assert len(evaluation.serial) == 1
    for frame in (evaluation.cells, evaluation.agreement, evaluation.auc, evaluation.roc):
        assert set(evaluation.serial["series"]).isdisjoint(frame["series"])
    assert lone.id in set(evaluation.cells["id"])  # in the tables like any other
    assert set(evaluation.cells["variant"]) == {"", "precision.compute=bf16"}
    assert len(models_frame(evaluation.cells)) == 4  # int8, its bf16 products, fp8, int4
    assert "7 of 7 cells are finished" in write_tables(tmp_path, "tiny").read_text()


def test_a_folder_of_an_older_version_is_told(tmp_path: Path) -> None:
    found(tmp_path, [cell(tmp_path, config(TRACR, "acdc", "float32", 0.1), TRUTH)])
    path = tmp_path / "analysis" / "tiny" / "cells.parquet"
    pd.read_parquet(path).drop(columns="full_precision").to_parquet(path)
    with pytest.raises(PahqError, match=r"older version; evaluate the experiment 'tiny' again"):
        Evaluation.read(tmp_path, "tiny")


def test_fewer_bits_anywhere_are_not_acdc_by_construction(tmp_path: Path) -> None:
    plain = config(NANO, "rtn-q", "float32", 0.1)
    for key in ("cache", "compute"):
        low = plain.model_copy(update={"precision": plain.precision.model_copy(update={key: "bf16"})})
        evaluation = found(tmp_path / key, [cell(tmp_path / key, chosen, []) for chosen in (plain, low)])
        told = {row["id"]: is_acdc_by_construction(row) for row in evaluation.cells.to_dict("records")}
        assert told == {plain.id: True, low.id: False}


def dominated(cells: pd.DataFrame) -> list[bool]:
    """The slow twin: every cell against every other."""
    rows = cells.to_dict("records")
    same = ("task", "engine", "device", "threads")
    return [
        any(
            all(a[key] == b[key] for key in same)
            and b["seconds"] <= a["seconds"]
            and b["kl"] <= a["kl"]
            and (b["seconds"] < a["seconds"] or b["kl"] < a["kl"])
            for b in rows
        )
        for a in rows
    ]


def test_the_front_is_what_no_other_beats() -> None:
    pairs = [(1, 0.9), (2, 0.5), (2, 0.7), (2, 0.5), (3, 0.5), (4, 0.1), (1, 1.0), (5, 0.1)]
    rows = [{"task": task, "seconds": s, "kl": kl} for task in "ab" for s, kl in (pairs if task == "a" else pairs[2:5])]
    cells = pd.DataFrame(rows).assign(engine="suffix", device="cpu", threads=1)
    front = on_front(cells)
    assert list(front) == [not beaten for beaten in dominated(cells)]
    assert front.sum() == 5


def test_every_block_is_a_table_of_the_report(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    evaluate(root, "blocks", ids)
    report = write_tables(root, "blocks").read_text()
    evaluation = Evaluation.read(root, "blocks")
    assert set(pareto_frame(evaluation.cells)["task"]) == {"nano-docstring", "nano-induction"}  # Tracr has no KL
    for block in blocks(evaluation):
        assert (f"## {block.title}\n" in report) != block.frame.empty
        frame = pd.read_parquet(root / "analysis" / "blocks" / "tables" / f"{block.name}.parquet")
        assert len(frame) == len(block.frame)
        assert block.frame.empty == (block.name == "scheduler")  # no cell of this experiment is serial
    assert "### nano\n" in report  # costs by model
    assert "HISP" in report
