"""What evaluating thousands of cells, and making tables of them, holds: their numbers, no circuits and no journals."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from support import made_cells

from pahq.analysis import evaluate as evaluation
from pahq.analysis.evaluate import evaluate
from pahq.analysis.summary import Evaluation
from pahq.analysis.tables import circuit_table
from pahq.cell.files import read_result, write_result
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.packed import PackedCircuits

config, cell, graph_of = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TRACR = "tracr-reverse"
NAMES = list(graph_of(TRACR).edge_index)
SEARCHES = (("acdc", "float32"), ("pahq", "int8"), ("pahq", "int4"))
KIB = 1024


def grid(root: Path, seeds: int, thresholds: int) -> list[str]:
    every = [
        (seed, count, search) for seed in range(seeds) for count in range(1, thresholds + 1) for search in SEARCHES
    ]
    return [cell(root, config(TRACR, *search, 0.001 * count, seed), NAMES[:count]) for seed, count, search in every]


def audited(root: Path, count: int) -> list[str]:
    """Cells each of whose tests was measured in both precisions."""
    ids = []
    for seed in range(count):
        made = config("nano-induction", "pahq", "int8", 0.2, seed)
        every = made.band.model_copy(update={"share": 1.0})
        made = made.model_copy(update={"audit": "band", "band": every})
        ids.append(cell(root, made, [], certainty={"audit": made_cells.BAND | {"share": 1.0}}))
        path = root / "cells" / ids[-1] / "decisions.jsonl"
        lines = [json.loads(line) | {"audited": True, "low": [0.0, 0.1]} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_result(path.parent, read_result(path.parent))
    return ids


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python's objects and numpy's took at once, when all texts that stay have been met once.

    Python's table of interned texts grows once in a while, by some megabytes.
    """
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(root: Path, few: Sequence[str], many: Sequence[str]) -> float:
    """KiB that each further cell adds to the peak of an evaluation."""
    evaluate(root, "first", few)  # what is loaded and cached once is no matter of cells
    peaks = [peak(lambda ids=ids: evaluate(root, "grid", ids)) for ids in (few, many)]  # type: ignore[misc]
    return (peaks[1] - peaks[0]) / KIB / (len(many) - len(few))


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a long table that are in memory at once are as many for few cells as for thousands."""
    monkeypatch.setattr(evaluation, "PART", 64)


def test_a_cell_more_adds_a_row_of_numbers(tmp_path: Path) -> None:
    ids = grid(tmp_path, 4, 5)
    assert growth(tmp_path, ids[:15], ids) < 5


def test_a_threshold_more_adds_no_row_for_each_other_threshold(tmp_path: Path) -> None:
    """ROC curves have as many rows as a sweep has thresholds, against as many references."""
    ids = grid(tmp_path, 1, 20)
    assert growth(tmp_path, ids[:15], ids) < 5


def test_journals_in_both_precisions_are_not_held(tmp_path: Path) -> None:
    ids = audited(tmp_path, 12)
    assert growth(tmp_path, ids[:4], ids) < 24


def test_a_table_of_all_circuits_holds_its_rows_alone(tmp_path: Path) -> None:
    """And not every column of every cell as a dict, which took some 3 KiB a cell."""
    evaluate(tmp_path, "few", grid(tmp_path, 1, 5))
    few = Evaluation.read(tmp_path, "few")
    many = pd.concat([few.cells] * 100, ignore_index=True)
    many["id"] += "-" + many.index.astype(str)
    taken = peak(lambda: circuit_table(many, few.stability))
    assert taken / KIB / len(many) < 1


def test_a_circuit_takes_a_bit_an_edge() -> None:
    """Of GPT-2 small's 32,923 edges: 4 KiB, not 257 for a flag each."""
    graph = build_graph(ModelShape(12, 12, 12, mlp=True))
    held = PackedCircuits()
    held.add("first", Circuit.from_indices(graph, [0]))
    circuits = [Circuit.from_indices(graph, [i, len(graph.edges) - 1 - i]) for i in range(8)]
    tracemalloc.start()
    try:
        for i, circuit in enumerate(circuits):
            held.add(str(i), circuit)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(graph.edges) == 32_923
    assert taken < 8 * 5 * KIB
    assert [held[str(i)] for i in range(8)] == circuits
