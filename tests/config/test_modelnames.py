"""What a cell records of a model that was typed: its own name, its absolute folder, no other model's revision."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.made_cells import make_result

from pahq.__main__ import main
from pahq.cell import run as cell
from pahq.cell.files import SearchResult, cell_folder
from pahq.config.cell import CellConfig, ModelChoice, RunConfig, parse_config
from pahq.config.modelnames import PACKAGED, embedded_models, settled
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.model.sources.find import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def one(*typed: str) -> CellConfig:
    [(found, _)] = compose_runs(typed)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ckpt").mkdir(parents=True)
    (tmp_path / "runs" / "ckpt" / "config.json").write_text("{}")
    return tmp_path / "runs" / "ckpt"


def test_a_folder_has_its_own_name_and_needs_no_revision(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("clean,corrupted,answer\na,b,c\nd,e,f\n")
    for task in (["task=gpt2-ioi"], ["task=own", "task.prompts=own.csv"], ["task=nano-ioi"]):
        for typed in (str(folder), "runs/ckpt", "./runs/../runs/ckpt/"):
            found = one(*task, f"model.source={typed}").model
            assert found == ModelChoice(name="ckpt", source=str(folder), revision=None)
            assert resolve(found.source, found.revision).folder == folder
    assert one("model=gpt2", "model.source=runs/ckpt", "model.name=mine").model.name == "mine"
    swept = compose_runs(["task=gpt2-ioi", "model.source=runs/ckpt,nano"], sweep=True)
    assert [(cell.model.name, cell.model.revision) for cell, _ in swept] == [("ckpt", None), ("nano", None)]


def test_two_working_folders_share_no_address(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = one("model.source=runs/ckpt")
    other = tmp_path / "other"
    (other / "runs" / "ckpt").mkdir(parents=True)
    monkeypatch.chdir(other)
    second = one("model.source=runs/ckpt")
    assert first.id != second.id
    monkeypatch.chdir(folder.parent)
    assert one("model.source=ckpt").id == one("model.source=.", "model.source=ckpt").id == first.id
    composed = first.model_dump(mode="json")
    composed["model"]["source"] = "ckpt"
    assert parse_config(composed)[0].id == first.id  # from Python too


def test_names_of_ours_go_before_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nano", "tracr-reverse", *PACKAGED):
        plain = one(f"model={name}").model
        (tmp_path / name).mkdir()
        assert one(f"model={name}").model == plain
        typed = one("task=gpt2-ioi", f"model.source={name}").model
        assert typed == ModelChoice(name=name, source=name, revision=None)
    assert "nano" in embedded_models()
    assert one("model.source=./nano").model.source == str(tmp_path / "nano")


def test_a_revision_that_was_typed_stays_and_is_refused_for_a_folder(folder: Path) -> None:
    found = one("model.source=runs/ckpt", f"model.revision={COMMIT}").model
    with pytest.raises(PahqError, match=r"a revision belongs to a hub name; .* is a folder"):
        resolve(found.source, found.revision)


def test_a_hub_name_that_was_typed_names_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = one("model.source=org/small", f"model.revision={COMMIT}").model
    assert found == ModelChoice(name="small", source="org/small", revision=COMMIT)
    mirror = one("model=gpt2", "model.source=mirror/gpt2").model
    assert mirror.revision == one("model=gpt2").model.revision  # the same commit, fetched from elsewhere


def test_a_model_of_a_yaml_file_keeps_its_name_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert one("model=redwood").model.source == "models/redwood"
    (tmp_path / "models" / "redwood").mkdir(parents=True)
    found = one("model=redwood").model
    assert (found.name, found.source) == ("redwood", str(tmp_path / "models" / "redwood"))
    (tmp_path / "openai-community" / "gpt2").mkdir(parents=True)  # shadows what the YAML names: told, not taken
    assert one("model=gpt2").model.revision is not None


def test_what_was_written_down_is_read_back_as_it_stands(folder: Path) -> None:
    written = one("model.source=runs/ckpt").model_dump(mode="json")
    written["model"]["source"] = "runs/ckpt"  # as cells recorded it once
    assert CellConfig(**written).model.source == "runs/ckpt"
    assert settled({"name": "x", "source": ""}) == {"name": "x", "source": ""}
    assert settled({"name": "x", "source": 3}, {"model.source"}) == {"name": "x", "source": 3}


def test_hydra_and_we_give_one_address(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CellConfig] = []

    def run_cell(what: CellConfig, where: RunConfig, page: object) -> SearchResult:
        seen.append(what)
        return SearchResult(cell_folder(where.root, what.id), make_result(what))

    monkeypatch.setattr(cell, "run_cell", run_cell)
    monkeypatch.setattr(sys, "argv", ["pahq"])  # Hydra's entry writes there
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    typed = ["task=gpt2-ioi", "model.source=runs/ckpt", f"run.root={tmp_path}"]
    assert main(typed) == main([*typed, "hydra/launcher=basic"]) == 0
    assert seen[0] == seen[1]
    assert seen[0].model.name == "ckpt"
