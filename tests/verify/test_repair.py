"""``pahq repair``: of several cells those that are damaged are computed anew, each told in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pahq.__main__ import main
from pahq.cell.files import cell_folder, read_result
from pahq.cell.run import run_cell
from pahq.cell.story import check_cell
from pahq.config.cell import RunConfig
from pahq.experiments.compose import cells
from pahq.experiments.jobs import done_marker
from pahq.files.sealed import write_sealed

IDS = list(cells("smoke"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke experiment's four cells; not to be touched."""
    root = tmp_path_factory.mktemp("finished")
    for cell in cells("smoke").values():
        run_cell(cell.config, RunConfig(root=str(root), wandb="disabled", progress=False))
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "root")
    return tmp_path / "root"


def flip(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 2
    path.write_bytes(content)
    return bytes(content)


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def repair(*words: str) -> int:
    return main(["repair", *words, "--no-progress"])


@pytest.mark.parametrize("name", ["config.json", "decisions.jsonl", "circuit.json", "result.json"])
def test_only_the_damaged_cell_of_an_experiment_is_computed_anew(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folders = {cell_id: cell_folder(root, cell_id) for cell_id in IDS}
    bad = IDS[2]
    damaged, before = flip(folders[bad] / name), {cell_id: files(folders[cell_id]) for cell_id in IDS}
    circuit = before[bad][folders[bad] / "circuit.json"][0]
    assert repair("smoke", "--root", str(root)) == 0
    shown = capsys.readouterr()
    first, second, last = shown.out.splitlines()
    assert first.startswith(f"{bad}: {folders[bad] / name} is damaged: ")
    assert re.fullmatch(rf"{bad}: computed anew, \d+ tests, \d+ kept", second)
    assert last == "3 of 4 finished cells were whole, 1 repaired"
    assert (folders[bad] / "damaged" / "1" / name).read_bytes() == damaged
    for cell_id in IDS:
        check_cell(folders[cell_id], cells("smoke")[cell_id].config)
        assert cell_id == bad or files(folders[cell_id]) == before[cell_id]
    if name != "circuit.json":
        assert (folders[bad] / "circuit.json").read_bytes() == circuit
    assert repair("smoke", "--root", str(root)) == 0
    assert capsys.readouterr().out == "4 of 4 finished cells were whole, 0 repaired\n"


def test_unfinished_cells_are_counted_and_left(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell_folder(root, IDS[0]) / "result.json").unlink()
    assert repair("smoke", "--root", str(root)) == 0
    assert capsys.readouterr().out == "3 of 3 finished cells were whole, 0 repaired; 1 are not finished\n"
    assert not (cell_folder(root, IDS[0]) / "result.json").exists()


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "decisions.jsonl", "circuit.json", "result.json"])
def test_folders_are_repaired_from_what_they_say_of_themselves(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folders = [cell_folder(root, cell_id) for cell_id in IDS[:2]]
    flip(folders[0] / name)
    assert repair(*map(str, folders)) == 0
    assert capsys.readouterr().out.endswith("1 of 2 finished cells were whole, 1 repaired\n")
    check_cell(folders[0], cells("smoke")[IDS[0]].config)


def test_a_folder_that_no_longer_says_what_it_is_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cell_folder(root, IDS[0])
    flip(folder / "result.json")
    for content in ("{", json.dumps(cells("smoke")[IDS[1]].config.model_dump(mode="json"))):  # broken, or of another
        (folder / "config.json").write_text(content)
        before = files(folder)
        assert repair(str(folder), str(cell_folder(root, IDS[1]))) == 1
        shown = capsys.readouterr()
        assert f"{folder} is damaged, its configuration too" in shown.err
        assert shown.err.count("\n") == 1
        assert shown.out == "1 of 2 finished cells were whole, 0 repaired, 1 still damaged\n"
        assert files(folder) == before
    assert repair("smoke", "--root", str(root)) == 0  # the experiment knows


def test_damage_beside_a_whole_cell_is_moved_aside(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cell_folder(root, IDS[0])
    names = ("faithfulness.json", "stability/resample-000.json")
    for name in names:
        write_sealed(folder / name, {"name": name})
        flip(folder / name)
    marker = done_marker(folder, 20, 5)
    marker.touch()
    assert main(["verify", str(folder)]) == 2
    assert f"{folder / names[0]} is damaged" in capsys.readouterr().err
    before = read_result(folder)
    assert repair("smoke", "--root", str(root)) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "3 of 4 finished cells were whole, 1 repaired"
    for line, name, maker in zip(lines, names, ("faithfulness", "stability"), strict=True):
        assert f"{folder / name} is damaged: it" in line
        assert f"once it is moved away, pahq {maker} makes it anew (moved to" in line
        assert not (folder / name).exists()
    assert not marker.exists()  # so the workflow has it measured again
    assert {path.name for path in (folder / "damaged").rglob("*.json")} == {Path(name).name for name in names}
    assert read_result(folder) == before
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["smok"], "unknown experiment 'smok'"),
        (["smoke", "--threads", "0"], "threads: Input should be greater than 0"),
        (["smoke", "--device", "abacus"], "device 'abacus' is not available"),
        (["smoke"], "none of 4 cells is finished below "),
        (["./nowhere"], "./nowhere holds no finished cell (no result.json)"),
        ([], "pahq repair: NAME is missing (--help lists what it takes)"),
        (["smoke", "--colour"], "pahq repair: unknown option '--colour'; known: --device, "),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(["repair", *words, "--root", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("pahq: error: ")
    assert sentence in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_a_folder_that_lies_elsewhere_is_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(cell_folder(root, IDS[0]), tmp_path / "elsewhere")
    assert repair(str(tmp_path / "elsewhere")) == 2
    assert "is not where cells lie: below the folder cells/TASK of a root" in capsys.readouterr().err
