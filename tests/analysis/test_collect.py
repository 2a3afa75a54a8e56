"""Reading cells: a finished one is a row, an unfinished one listed, a broken one refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from support import made_cells

from pahq.analysis.collect import cell_row, collect, variants
from pahq.analysis.evaluate import evaluate
from pahq.cell.files import read_result
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import RunConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.files.sealed import write_sealed

config, cell, graph = made_cells.make_config, made_cells.make_cell, made_cells.graph_of
TASK = "nano-induction"
EDGES = ["embed->a0.h1<v>", "a0.h1<v>", "a0.h1->logits"]


def test_where_a_file_of_prompts_lies_parts_no_cells() -> None:
    here = config("nano-docstring", "acdc", "float32", 0.1)
    tasks = [here.task.model_copy(update={"prompts": name}) for name in ("a.csv", "b.csv")]
    moved, result = [here.model_copy(update={"task": task}) for task in tasks], made_cells.make_result(here)
    first, second = (cell_row(result.model_copy(update={"config": one})) for one in moved)
    assert [first[name] for name in ("series", "pair")] == [second[name] for name in ("series", "pair")]
    assert variants(moved) == ["", ""]


def test_one_row_a_cell(experiment: tuple[Path, list[str]]) -> None:
    root, ids = experiment
    found = collect(root, ids)
    assert sorted(found.cells["id"]) == sorted(ids)
    assert found.missing.empty
    assert set(found.circuits) == set(ids)


def test_row_holds_what_the_files_hold(tmp_path: Path) -> None:
    cell_id = cell(tmp_path, config(TASK, "rtn-q", "int4", 0.05), EDGES)
    row = collect(tmp_path, [cell_id]).cells.iloc[0]
    wanted = {
        "task": TASK,
        "method": "rtn-q",
        "precision": "int4",
        "format": "int4",
        "bits": 4,
        "threshold": 0.05,
        "kept": 3,
        "kept_cleaned": 3,
        "edges": 105,
        "tests": 105,
        "metric": "nll",
        "variant": "",
    }
    assert {name: row[name] for name in wanted} == wanted


@pytest.mark.parametrize(("ablation", "cleaned"), [("corrupted", 3), ("zero", 4), ("mean", 4)])
def test_cleaned_edges_are_counted_as_the_cells_ablation_has_it(tmp_path: Path, ablation: str, cleaned: int) -> None:
    """An edge from a head that nothing reaches carries the head's own biases where its inputs are not prompts."""
    made = config(TASK, "acdc", "float32", 0.05)
    made = made.model_copy(update={"task": made.task.model_copy(update={"ablation": ablation})})
    dangling = [*EDGES, "a1.h0->logits", "a1.h1<q>"]
    row = collect(tmp_path, [cell(tmp_path, made, dangling)]).cells.iloc[0]
    assert (row["ablation"], row["kept"], row["kept_cleaned"]) == (ablation, 5, cleaned)


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean"])
def test_cleaned_edges_of_a_real_search_stand_in_the_table(tmp_path: Path, ablation: str) -> None:
    overrides = ["task=tracr-proportion", f"task.ablation={ablation}", "threshold=0.1", "engine=reference"]
    [(searched, _)] = compose_runs(overrides)
    result = run_cell(searched, RunConfig(root=str(tmp_path), wandb="disabled", progress=False))
    circuit = json.loads((result.folder / "circuit.json").read_text())
    evaluate(tmp_path, "cleaned", [searched.id])
    [row] = pd.read_parquet(tmp_path / "analysis" / "cleaned" / "cells.parquet").to_dict("records")
    assert row["kept_cleaned"] == result.result.kept_cleaned == len(circuit["cleaned"])
    plain = len(Circuit.read(result.folder / "circuit.json").cleaned())  # as corrupted prompts would have it
    assert (row["kept_cleaned"] == plain) == (ablation == "corrupted")


def test_unfinished_cells_are_listed_with_their_reason(tmp_path: Path) -> None:
    done = cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES)
    stopped = cell(tmp_path, config(TASK, "acdc", "float32", 0.2), EDGES)
    begun = cell(tmp_path, config(TASK, "acdc", "float32", 0.3), EDGES)
    for cell_id in (stopped, begun):
        (tmp_path / "cells" / cell_id / "result.json").unlink()
    (tmp_path / "cells" / begun / "decisions.jsonl").unlink()
    found = collect(tmp_path, [done, stopped, begun, "t/never"])
    assert list(found.cells["id"]) == [done]
    assert dict(found.missing.itertuples(index=False)) == {
        stopped: "unfinished after 105 tests",
        begun: "started, no test done",
        "t/never": "not started",
    }


def test_no_cell_at_all(tmp_path: Path) -> None:
    found = collect(tmp_path, ["t/never"])
    assert found.cells.empty
    assert len(found.missing) == 1


def test_an_id_given_twice_counts_once(tmp_path: Path) -> None:
    cell_id = cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES)
    assert len(collect(tmp_path, [cell_id, cell_id]).cells) == 1


def sentence(tmp_path: Path, cell_id: str) -> str:
    with pytest.raises(PahqError) as raised:
        collect(tmp_path, [cell_id])
    text = str(raised.value)
    assert cell_id in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("broken", ['{"schema": 2, "id":', "[]", '{"schema": 2}', '{"schema": 99}', ""])
def test_corrupt_result_is_one_sentence(tmp_path: Path, broken: str) -> None:
    cell_id = cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES)
    (tmp_path / "cells" / cell_id / "result.json").write_text(broken)
    assert "result.json" in sentence(tmp_path, cell_id)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kept": 4}, "it counts 4 kept, the other files 3"),
        ({"tests": 7}, "it counts 7 tests, the other files 105"),
        ({"id": "another"}, "another"),
    ],
)
def test_contradicting_files_are_refused(tmp_path: Path, changes: dict[str, object], word: str) -> None:
    cell_id = cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES, **changes)
    assert word in sentence(tmp_path, cell_id)


def test_an_odd_result_is_one_sentence(tmp_path: Path) -> None:
    """Each kind of fault has its test in tests/cell/test_result.py."""
    folder = tmp_path / "cells" / (cell_id := cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES))
    values = read_result(folder).to_json()
    del values["fresh"]
    write_sealed(folder / "result.json", values)
    assert "result.json is not a whole result: fresh: Field required" in sentence(tmp_path, cell_id)


def test_missing_circuit_is_refused(tmp_path: Path) -> None:
    cell_id = cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES)
    (tmp_path / "cells" / cell_id / "circuit.json").unlink()
    assert "circuit.json" in sentence(tmp_path, cell_id)


def test_faithfulness_without_value_is_no_number(tmp_path: Path) -> None:
    fresh = {"kl": 0.1, "metric": "mse", "value": 0.0, "clean": 0.0, "corrupted": 0.0, "faithfulness": None}
    cell_id = cell(tmp_path, config(TASK, "acdc", "float32", 0.1), EDGES, fresh=fresh)
    frame = collect(tmp_path, [cell_id]).cells
    assert frame["faithfulness"].dtype == float
    assert frame["faithfulness"].isna().all()


def test_an_audit_leaves_the_pair(tmp_path: Path) -> None:
    plain, audited = config(TASK, "acdc", "float32", 0.1), config(TASK, "rtn-q", "int8", 0.1)
    audited = audited.model_copy(update={"audit": "float64"})
    rows = collect(tmp_path, [cell(tmp_path, one, EDGES) for one in (plain, audited)]).cells
    assert rows["pair"].nunique() == 1


def test_series_pair_and_variant(tmp_path: Path) -> None:
    """series: all but threshold; pair: all but method, precision, engine, threshold; variant: at need."""
    configs = [
        config(TASK, "acdc", "float32", 0.1),
        config(TASK, "acdc", "float32", 0.2),
        config(TASK, "rtn-q", "int8", 0.1),
        config(TASK, "rtn-q", "int8", 0.1, seed=1),
    ]
    ids = [cell(tmp_path, one, EDGES) for one in configs]
    rows = collect(tmp_path, ids).cells.set_index("id").loc[ids]
    series, pair = list(rows["series"]), list(rows["pair"])
    assert series[0] == series[1] != series[2] != series[3]
    assert pair[0] == pair[1] == pair[2] != pair[3]
    assert list(rows["variant"]) == ["", "", "seed=0", "seed=1"]
