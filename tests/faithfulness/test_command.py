"""``pahq faithfulness`` on cells that a real search left: files, tables, what is made anew and what is not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.made_cells import change_result

from pahq.__main__ import main
from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import write_figures
from pahq.analysis.names import FIGURES
from pahq.analysis.tables import write_tables
from pahq.cell.files import cell_folder
from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig
from pahq.errors import PahqError
from pahq.experiments.compose import cells
from pahq.faithfulness import command
from pahq.faithfulness.rows import read_rows
from pahq.files.sealed import Damaged, read_sealed, write_sealed
from pahq.files.text import read_json

QUICK = ["--resamples", "50", "--permutations", "20", "--inflated", "12", "--random-circuits", "12", "--no-progress"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke experiment's cells: ACDC and PAHQ on a compiled program, two thresholds."""
    root = tmp_path_factory.mktemp("results")
    for cell in cells("smoke").values():
        run_cell(cell.config, RunConfig(root=str(root), wandb="disabled"))
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "results")
    return tmp_path / "results"


def files(root: Path) -> dict[str, Path]:
    return {name: cell_folder(root, name) / "faithfulness.json" for name in cells("smoke")}


def run(*words: str) -> int:
    return main(["faithfulness", *words, *QUICK])


def test_an_experiment_from_cells_to_tables(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("smoke", "--root", str(root)) == 0
    assert capsys.readouterr().out == f"{root}/analysis/smoke/faithfulness/tracr-proportion.parquet\n"
    for name, path in files(root).items():
        found, result = read_json(path), read_json(path.with_name("result.json"))
        assert found["id"] == name
        assert found["edges"] == result["kept"]
        assert found["settings"]["inflated"] == 12
        for number in ("value", "clean", "corrupted", "faithfulness"):
            assert found[number] == pytest.approx(result["fresh"][number], abs=1e-6)
        json.dumps(found, allow_nan=False)
    evaluate(root, "smoke", list(cells("smoke")))
    report = write_tables(root, "smoke").read_text()
    table = pd.read_parquet(root / "analysis" / "smoke" / "tables" / "faithfulness_cells.parquet")
    assert len(table) == 4
    assert (table["faithfulness_low"] <= table["faithfulness"]).all()
    series = pd.read_parquet(root / "analysis" / "smoke" / "tables" / "faithfulness.parquet")
    assert series["thresholds"].tolist() == [2, 2]
    assert series["equivalence"].tolist() == [1, 1]
    assert "## Faithfulness\n" in report
    assert "figures/faithfulness.png" in report
    assert "[faithfulness_cells.md](faithfulness_cells.md)" in report
    assert (root / "analysis" / "smoke" / "figures" / "faithfulness.png") in write_figures(root, "smoke")


def test_what_is_there_is_not_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("smoke", "--root", str(root)) == 0
    stamps = {path: path.stat().st_mtime_ns for path in files(root).values()}
    with monkeypatch.context() as patch:
        patch.setattr(command, "load", lambda *_: pytest.fail("a model was loaded"))
        assert run("smoke", "--root", str(root)) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in files(root).values()}
    before = {path: read_json(path) for path in stamps}
    first, *_ = stamps
    values = read_sealed(first)
    write_sealed(first, values | {"circuit": "another"})
    assert run("smoke", "--root", str(root)) == 0
    assert before == {path: read_json(path) for path in stamps}
    assert [path for path in stamps if path.stat().st_mtime_ns != stamps[path]] == [first]


def test_a_file_that_is_cut_or_changed_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [path, *_] = files(root).values()
    assert run(str(path.parent)) == 0
    content, rng = path.read_bytes(), random.Random(3)
    for damaged in (b"", content[:-1], content[: len(content) // 2]):
        path.write_bytes(damaged)
        assert run(str(path.parent)) == 2
        assert f"{path} is damaged: it has no whole seal at its end; move it away" in capsys.readouterr().err
    for at in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(8))]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :])
        assert run(str(path.parent)) == 2
        assert f"{path} is damaged: " in capsys.readouterr().err
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :])
        with pytest.raises(Damaged):
            read_sealed(path)
    path.unlink()
    assert run(str(path.parent)) == 0
    again, before = read_sealed(path), json.loads(content)  # numbers may differ by rounding: other places in memory
    assert again.keys() == before.keys() - {"sha256"}
    assert again["value"] == pytest.approx(before["value"], abs=1e-6)


@pytest.mark.parametrize("name", ["circuit.json", "decisions.jsonl", "result.json", "config.json", "provenance.json"])
def test_a_damaged_cell_is_named_before_a_model_is_loaded(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(command, "load", lambda *_: pytest.fail("a model was loaded"))
    path = list(files(root).values())[1].with_name(name)
    content = path.read_bytes()
    path.write_bytes(content[:50] + bytes([content[50] ^ 4]) + content[51:])
    assert run("smoke", "--root", str(root)) == 2
    assert f"{path} is damaged: " in capsys.readouterr().err


def test_other_settings_make_it_anew(root: Path) -> None:
    [path, *_] = files(root).values()
    assert run(str(path.parent)) == 0
    assert read_json(path)["settings"]["edges"] == 30
    assert main(["faithfulness", str(path.parent), *QUICK, "--edges", "2"]) == 0
    assert read_json(path)["tests"]["minimality"]["tested"] == 2
    assert not any(other.exists() for other in list(files(root).values())[1:])


def test_one_model_and_one_judgement_for_equal_circuits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, measured = [], []
    load, measure = command.load, command.measure
    monkeypatch.setattr(command, "load", lambda *given: loaded.append(1) or load(*given))
    monkeypatch.setattr(command, "measure", lambda *given: measured.append(1) or measure(*given))
    assert run("smoke", "--root", str(root)) == 0
    circuits = {tuple(read_json(path.with_name("circuit.json"))["edges"]) for path in files(root).values()}
    assert (len(loaded), len(measured)) == (1, len(circuits))
    assert len(circuits) < 4


def test_unfinished_cells_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    [first, *others] = files(root).values()
    first.with_name("result.json").unlink()
    assert run("smoke", "--root", str(root), "--cells", *cells("smoke")) == 0
    assert "1 of 4 cells are not finished and left out" in caplog.text
    assert not first.exists()
    assert all(path.exists() for path in others)
    assert len(read_rows(root / "analysis" / "smoke")) == 3
    path = root / "analysis" / "smoke" / "faithfulness" / "tracr-proportion.parquet"
    for half in (b"", path.read_bytes()):  # what a kill leaves of a write: it counts for nothing
        path.with_name(".tracr-proportion.x1.parquet").write_bytes(half)
        assert len(read_rows(root / "analysis" / "smoke")) == 3
    pd.read_parquet(path).assign(schema=1).to_parquet(path)
    with pytest.raises(PahqError, match="is of an earlier version"):
        read_rows(root / "analysis" / "smoke")


def test_cells_that_are_named_leave_the_rows_of_others(root: Path) -> None:
    table = root / "analysis" / "smoke" / "faithfulness" / "tracr-proportion.parquet"
    first, second, *_ = cells("smoke")
    assert run("smoke", "--root", str(root), "--cells", second) == 0
    assert list(pd.read_parquet(table)["id"]) == [second]
    assert run("smoke", "--root", str(root)) == 0
    every = pd.read_parquet(table).sort_values("id", ignore_index=True)
    assert sorted(every["id"]) == sorted(cells("smoke"))
    assert run("smoke", "--root", str(root), "--cells", first) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(table).sort_values("id", ignore_index=True), every)
    pd.read_parquet(table).assign(schema=1).to_parquet(table)
    assert run("smoke", "--root", str(root), "--cells", first) == 2  # what cannot be read cannot be kept
    assert run("smoke", "--root", str(root)) == 0


def test_two_processes_that_judge_one_task_keep_each_other_s_rows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one begins and ends while the first is at work."""
    table, judged = root / "analysis" / "smoke" / "faithfulness" / "tracr-proportion.parquet", command.judge_cells
    first, second, *_ = cells("smoke")

    def slowly(*of: Any, **more: Any) -> Iterator[Any]:
        yield from judged(*of, **more)
        monkeypatch.setattr(command, "judge_cells", judged)
        assert run("smoke", "--root", str(root), "--cells", second) == 0

    monkeypatch.setattr(command, "judge_cells", slowly)
    assert run("smoke", "--root", str(root), "--cells", first) == 0
    assert sorted(pd.read_parquet(table)["id"]) == sorted([first, second])


def test_a_folder_has_no_tasks_to_choose_among(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [path, *_] = files(root).values()
    for words in (["--task", "ioi"], ["--cells", "a/b"]):
        assert run(str(path.parent), *words) == 2
        error = capsys.readouterr().err
        assert f"{words[0]} chooses among an experiment's cells, and {path.parent} is a cell's folder" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["defualt", "--cells", "a/b"], "unknown experiment 'defualt'; known: "),
        (["smoke", "--cells", "a/b", "c/d"], "none of the 4 cells of the experiment 'smoke' is a/b, c/d"),
        (["/nope"], "/nope is no folder of a finished cell (no result.json), and an experiment has no slash"),
        (["smoke", "--task", "ioi"], "the experiment 'smoke' has no task 'ioi'; known: tracr-proportion"),
        (["smoke", "--edges", "0"], "edges must be at least 1, got 0"),
        (["smoke", "default"], "one experiment or folders of finished cells are expected, not smoke default"),
        (["smok"], "unknown experiment 'smok'"),
        (["smoke", "--root", "nowhere"], "none of the 4 cells of the experiment 'smoke' is finished below nowhere"),
    ],
)
def test_bad_input_is_told_in_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["faithfulness", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pahq: error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_another_model_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [path, *_] = files(root).values()
    change_result(path.parent, model_digest="0" * 64)
    assert run(str(path.parent)) == 2
    assert "was found on another model" in capsys.readouterr().err


def test_tables_and_figures_do_without(root: Path) -> None:
    evaluate(root, "smoke", list(cells("smoke")))
    assert "Faithfulness" in write_tables(root, "smoke").read_text().split("Tables without a row")[1]
    assert len(write_figures(root, "smoke")) == 3 * len(FIGURES)
