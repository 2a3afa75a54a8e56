"""Every command answers in one JSON document, and with the keys that docs/commands.md names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.places import GOLDEN, ROOT

from pahq.__main__ import main
from pahq.analysis.names import EVALUATED, FIGURES
from pahq.cell.files import cell_folder, read_result
from pahq.cell.run import run_cell
from pahq.commandline.application import PANELS
from pahq.commandline.output import plain
from pahq.config.cell import RunConfig
from pahq.experiments.compose import cells

IDS = list(cells("smoke"))
PAGE = (ROOT / "docs" / "commands.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (a list|an object)[^|]* \| (.*) \|$", PAGE, re.M)
KEYS = {command: (kind, re.findall(r"`(\w+)`", keys)) for command, kind, keys in ROWS}
SMALL = ("task=tracr-proportion", "task.examples=4", "method=acdc", "wandb=disabled", "run.progress=false")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke experiment's cells."""
    folder = tmp_path_factory.mktemp("root")
    for cell in cells("smoke").values():
        run_cell(cell.config, RunConfig(root=str(folder), wandb="disabled", progress=False))
    return folder


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Any:
    """A function that gives what a command answers with --json, once its keys are those of the page."""

    def answered(*words: str, status: int = 0) -> Any:
        capfd.readouterr()
        assert main([*words, "--json"]) == status
        found = json.loads(capfd.readouterr().out)  # one document and nothing else
        command = words[0] if words[0] in KEYS else "run"
        kind, keys = KEYS[command]
        assert isinstance(found, list) == (kind == "a list")
        for one in found if isinstance(found, list) else [found]:
            assert list(one) == keys
        return found

    return answered


def folder(root: Path, number: int = 0) -> str:
    return str(cell_folder(root, IDS[number]))


def test_the_page_has_every_command() -> None:
    assert list(KEYS) == [name for names in PANELS.values() for name in names]


def test_a_cell_and_a_sweep(told: Any, tmp_path: Path) -> None:
    [one] = told("run", *SMALL, "threshold=0.1", f"run.root={tmp_path}")
    result = read_result(one["folder"])
    assert (one["id"], one["tests"], one["kept"], one["kind"]) == (result.id, result.tests, result.kept, "search")
    assert result.search is not None
    assert (one["loss"], one["seconds"]) == (result.search.final, result.seconds)
    assert one["fresh"]["metric"] == "mse"
    first, second = told("-m", *SMALL, "threshold=0.1,0.2", f"run.root={tmp_path}")
    assert (first["id"], second["id"] == first["id"]) == (result.id, False)
    both = told(*SMALL, "-m", "threshold=0.1,0.2", f"run.root={tmp_path}", "hydra/launcher=basic")
    assert [one["id"].split("-t0.")[1][0] for one in both] == ["1", "2"]


def test_scores_have_no_loss_and_no_doubts(told: Any, tmp_path: Path) -> None:
    words = ("task=nano-ioi", "task.examples=2", "method=eap-ig", "size=20", "wandb=disabled", f"run.root={tmp_path}")
    [one] = told(*words)
    assert (one["kind"], one["loss"], one["settled"]) == ("scores", None, None)


def test_a_circuit_and_two(told: Any, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "circuit.svg"
    shown = told("show", folder(root), "--out", str(out), "--top", "1")
    assert (shown["path"], out.exists()) == (str(out), True)
    assert len(shown["edges"]) == shown["kept"] > 1  # all of them, whatever --top says
    assert set(shown["edges"][0]) == {"edge", "effect", "order", "published"}
    effects = [abs(one["effect"]) for one in shown["edges"]]
    assert effects == sorted(effects, reverse=True)
    out = tmp_path / "sweep.html"
    assert main(["show", folder(root), folder(root, 1), "--out", str(out), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"folders": [folder(root), folder(root, 1)], "path": str(out)}
    found = told("diff", folder(root), folder(root, 1))
    assert (found["a"], found["b"], found["path"]) == (IDS[0], IDS[1], None)
    assert found["shared"] + len(found["left"]) >= shown["kept"]


def test_a_replay(told: Any, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    [one] = told("verify", folder(root))
    assert (one["name"], one["kind"], one["agrees"], one["first"]) == (IDS[0], "search", True, None)
    assert one["equal"] == one["tests"] > 0
    assert main(["verify", str(GOLDEN / "eapig_gqa"), "--json"]) == 0
    [*found] = json.loads(capfd.readouterr().out)
    assert {one["kind"] for one in found} == {"scores"}
    assert {"edges", "worst", "circuits", "worst_metric", "ties", "first", "note"} <= set(found[0])


def test_repairs(told: Any, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "cells", tmp_path / "cells")
    damaged = Path(folder(tmp_path)) / "circuit.json"
    damaged.write_text("{")
    found = told("repair", "smoke", "--root", str(tmp_path), "--no-progress")
    assert (found["whole"], found["repaired"], found["damaged"], found["unfinished"]) == (3, 1, 0, 0)
    [one] = [one for one in found["cells"] if one["state"] == "repaired"]
    assert one["folder"] == folder(tmp_path)
    assert f"{damaged} is damaged" in one["said"][0]
    (damaged.parent / "result.json").write_text("{")
    (damaged.parent / "config.json").write_text("{")  # now nothing says what to compute
    found = told("repair", str(damaged.parent), "--no-progress", status=1)
    assert (found["damaged"], len(found["cells"])) == (1, 1)
    assert "its configuration too" in found["cells"][0]["said"][0]


def test_an_experiment_from_its_stability_to_its_report(told: Any, root: Path) -> None:
    where = ("--root", str(root))
    stable = told("stability", folder(root), "--n", "2", "--seeds", "0", "--no-progress", *where)
    assert [one["id"] for one in stable] == [IDS[0]]
    assert Path(stable[0]["path"]).exists()
    quick = ("--random-circuits", "2", "--edges", "2", "--resamples", "10", "--permutations", "10", "--inflated", "2")
    made = [told("faithfulness", "smoke", *quick, "--no-progress", *where)]
    assert len(made[0]["files"]) == 1
    for command in ("evaluate", "figures", "tables"):
        made.append(told(command, "smoke", *where))
        assert made[-1]["experiment"] == "smoke"
    assert len(made[1]["files"]) == len(EVALUATED)
    assert len(made[2]["files"]) == 3 * len(FIGURES)
    assert made[3]["report"] in made[3]["files"]
    assert all(Path(path).is_file() for one in made for path in one["files"])
    report = told("report", "smoke", *where)
    assert len(report["cell_pages"]) == len(IDS)
    assert all(Path(path).is_file() for path in (report["page"], report["own_page"], *report["cell_pages"]))


def test_circuits_out_and_in(told: Any, tmp_path: Path) -> None:
    words = ("task=nano-ioi", "task.examples=2", "method=eap-ig", "size=20", "wandb=disabled", f"run.root={tmp_path}")
    cell = told(*words)[0]["folder"]
    path = tmp_path / "graph.json"
    found = told("export", cell, "--format", "eap-ig", "--out", str(path))
    assert (found["path"], found["text"]) == (str(path), None)
    csv = told("export", cell, "--format", "csv")
    assert csv["path"] is None
    assert len(csv["text"].splitlines()) == 1520
    back = told("import", str(path), "--like", cell, "--out", str(tmp_path / "circuit.json"))
    assert 0 < back["kept"] <= 20 < back["edges"]
    assert back["path"] == str(tmp_path / "circuit.json")


def test_what_is_here(told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = told("models", "nano", "--out", str(tmp_path / "model.json"))
    assert (model["edges"], model["direct_edges"], model["check"]) == (1519, 96, None)
    usual = model["estimate"]
    assert usual.keys() == {"seconds", "bytes", "method", "precision", "threshold", "prompts", "tokens", "machine"}
    assert 0 < usual["seconds"] < 60 < usual["bytes"] / 1e5
    assert model["digest"] == json.loads((tmp_path / "model.json").read_text())["digest"]
    looks = told("doctor", "--root", str(tmp_path))
    assert {look["state"] for look in looks} <= {"ok", "note"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verify", "nowhere"], "nowhere"),
        (["show", "nowhere"], "holds no finished cell"),
        (["task=nano-oi"], "unknown task 'nano-oi'"),
        (["--cfg", "job"], "--json tells of cells that ran, and --cfg has Hydra print something else"),
        (["-m", "threshold=0.1,0.2", "hydra/launcher=joblib"], "hydra/launcher=joblib runs them in others"),
    ],
)
def test_faults_are_a_sentence_and_no_document(
    words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("pahq: error: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1


def test_what_json_cannot_hold_is_null_and_a_path_is_text() -> None:
    values = {"a": float("inf"), "b": (float("nan"), 1.5), 3: Path("x/y"), "d": [None, True]}
    assert plain(values) == {"a": None, "b": [None, 1.5], "3": "x/y", "d": [None, True]}
