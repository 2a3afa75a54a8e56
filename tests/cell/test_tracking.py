"""What W&B gets of a cell, read back from its offline files, and that no fault of W&B's reaches a search."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.made_cells import make_result
from support.wandb_records import artifacts, contents, records, run_folders, summary_of

from pahq.cell import tracking
from pahq.cell.files import cell_folder, read_result, write_result
from pahq.cell.tracking import log_cell
from pahq.config.cell import CellConfig, RunConfig
from pahq.experiments.compose import compose_runs

[(CELL, _)] = compose_runs(["task=nano-ioi", "method=pahq", "threshold=0.05"])
TESTS = 5


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's key, and no memory of an earlier failure."""
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_BASE_URL", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setattr(tracking, "_settled", {})


def finished_cell(root: Path, cell: CellConfig = CELL, kl: float = 0.25) -> Path:
    """A finished cell's folder, written by hand."""
    folder = cell_folder(root, cell.id)
    folder.mkdir(parents=True, exist_ok=True)
    journal = [
        {
            "i": i,
            "edge": f"m{i}->logits",
            "before": i / 10,
            "after": (i + 1) / 10,
            "removed": i % 2 == 0,
            "seconds": 0.1,
        }
        for i in range(TESTS)
    ]
    (folder / "config.json").write_text(json.dumps(cell.model_dump(mode="json")))
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))
    (folder / "circuit.json").write_text(json.dumps({"graph": {}, "edges": ["m0->logits"], "cleaned": []}))
    fresh = {"kl": kl, "metric": "logit_diff", "faithfulness": None}
    write_result(folder, make_result(cell, tests=TESTS, kept=2, seconds=0.5, fresh=fresh))
    return folder


def test_a_cell_is_logged_whole(tmp_path: Path) -> None:
    log_cell(CELL, RunConfig(root=str(tmp_path), wandb="offline", experiment="smoke"), finished_cell(tmp_path))
    [folder] = run_folders(tmp_path)
    found = records(folder)
    [run] = [record["run"] for record in found if record["type"] == "run"]
    assert run["run_id"] == CELL.digest
    assert run["run_group"] == "smoke"
    assert run["job_type"] == "pahq"
    assert run["display_name"] == CELL.id
    assert run["project"] == "pahq"
    config = {key: value for key, value in run["config"]["update"].items() if key != "_wandb"}
    assert CellConfig(**config) == CELL

    history = [record["history"] for record in found if record["type"] == "history"]
    assert [entry["step"].get("num", 0) for entry in history] == list(range(TESTS))
    items = [entry["item"] for entry in history]
    assert [item["effect"] for item in items] == pytest.approx([0.1] * TESTS)
    assert [item["metric"] for item in items] == pytest.approx([0.1, 0.1, 0.3, 0.3, 0.5])
    assert [item["kept"] for item in items] == [0, 1, 1, 2, 2]

    summary = summary_of(found)
    assert summary["tests"] == TESTS
    assert summary["kl"] == 0.25
    assert summary["fresh.kl"] == 0.25
    assert summary["fresh.metric"] == "logit_diff"
    assert not any(key.startswith("config.") for key in summary)

    [circuit] = artifacts(found, "circuit")
    assert circuit["name"] == f"circuit-{CELL.digest}"
    assert set(contents(circuit)) == {"circuit.json", "config.json"}
    assert not circuit.get("use_after_commit")  # the run wrote it


def test_the_model_that_a_cell_read_is_known_by_its_weights(tmp_path: Path) -> None:
    hub = CELL.model.model_copy(update={"source": "some/model", "revision": "0" * 40})
    cells = [CELL, CELL.model_copy(update={"seed": 1}), CELL.model_copy(update={"model": hub})]
    for cell in cells:
        log_cell(cell, RunConfig(root=str(tmp_path), wandb="offline"), finished_cell(tmp_path, cell))
    found = {folder.name.rsplit("-", 1)[1]: artifacts(records(folder), "model") for folder in run_folders(tmp_path)}
    models = [found[cell.digest][0] for cell in cells]
    assert all(len(one) == 1 for one in found.values())
    assert all(model["use_after_commit"] for model in models)  # read by the run, not written
    digest = read_result(cell_folder(tmp_path, CELL.id)).model_digest
    assert {model["name"] for model in models} == {f"model-{digest[:16]}"}
    assert json.loads(models[0]["metadata"])["sha256"] == digest
    assert models[0]["digest"] == models[1]["digest"]  # the same artifact
    assert set(contents(models[0])) == {"model.json"}
    reference = contents(models[2])["weights"]["ref"]
    assert reference == f"https://huggingface.co/some/model/tree/{'0' * 40}"


def test_without_a_key_and_unasked_no_page_is_made(tmp_path: Path) -> None:
    """It is half a megabyte a cell: only whoever typed offline, or has a key, has it."""
    made: list[Path] = []
    log_cell(CELL, RunConfig(root=str(tmp_path)), finished_cell(tmp_path), lambda folder: made.append(folder) or "")
    assert len(run_folders(tmp_path)) == 1
    assert not made


def test_the_page_to_explore_is_media_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, run = finished_cell(tmp_path), RunConfig(root=str(tmp_path), wandb="offline")
    log_cell(CELL, run, folder, lambda place: f"<html><p>{place.name}</p></html>")
    [logged] = run_folders(tmp_path)
    summary = summary_of(records(logged))
    assert summary["circuit._type"] == "html-file"
    assert (logged / "files" / summary["circuit.path"]).read_text() == f"<html><p>{folder.name}</p></html>"

    def broken(place: Path) -> str:
        raise ValueError("no\npage")

    log_cell(CELL, run, folder, broken)
    [logged] = run_folders(tmp_path)
    found = records(logged)
    assert artifacts(found, "circuit")  # all else is there
    assert not any(key.startswith("circuit.") for key in summary_of(found))
    told = [one.getMessage() for one in caplog.records if one.name == tracking.LOG.name]
    assert told == [f"W&B: the page of {folder} is left out (no page)"]


def test_logging_again_replaces_the_offline_folder(tmp_path: Path) -> None:
    run = RunConfig(root=str(tmp_path), wandb="offline")
    log_cell(CELL, run, finished_cell(tmp_path))
    (run_folders(tmp_path)[0] / "stale").touch()
    log_cell(CELL, run, finished_cell(tmp_path, kl=0.75))
    [folder] = run_folders(tmp_path)
    assert not (folder / "stale").exists()
    found = records(folder)
    assert sum(record["type"] == "history" for record in found) == TESTS
    assert any(record.get("summary", {}).get("update", {}).get("fresh.kl") == 0.75 for record in found)


def test_disabled_does_nothing_at_all(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pahq.config.cell import CellConfig, RunConfig;"
        "from pahq.files.text import read_json; from pahq.cell.tracking import log_cell;"
        "folder = Path(sys.argv[1]); cell = CellConfig(**read_json(folder / 'config.json'));"
        "log_cell(cell, RunConfig(root=sys.argv[2], wandb='disabled'), folder);"
        "sys.exit('wandb' in sys.modules)"
    )
    folder = finished_cell(tmp_path)
    assert subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path)]).returncode == 0
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize(
    ("name", "value", "mode"),
    [
        ("WANDB_DISABLED", "true", "disabled"),
        ("WANDB_DISABLED", "True", "disabled"),
        ("WANDB_DISABLED", "1", "disabled"),
        ("WANDB_DISABLED", "false", "auto"),
        ("WANDB_DISABLED", "", "auto"),
        ("WANDB_MODE", "disabled", "disabled"),
        ("WANDB_MODE", "Disabled", "disabled"),
        ("WANDB_MODE", "dryrun", "offline"),
        ("WANDB_MODE", "online", "online"),
        ("WANDB_MODE", "other", "auto"),
    ],
)
def test_wandbs_own_variables_count_where_nothing_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, mode: str
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(tracking, "_log_as", lambda asked, *rest: seen.append(asked))
    monkeypatch.setenv(name, value)
    log_cell(CELL, RunConfig(root=str(tmp_path)), tmp_path)
    assert seen == ([] if mode == "disabled" else [mode])
    log_cell(CELL, RunConfig(root=str(tmp_path), wandb="offline"), tmp_path)  # what was typed goes first
    assert seen[-1] == "offline"


HOMES = {
    "none": {"HOME": None, "XDG_CACHE_HOME": None},
    "not a folder": {"HOME": "/dev/null/home", "XDG_CACHE_HOME": None},
    "a cache that is none": {"WANDB_CACHE_DIR": "/dev/null/cache"},
    "a home that can be written": {},
}


@pytest.mark.parametrize("home", list(HOMES))
def test_a_home_that_cannot_be_written_is_quiet(tmp_path: Path, home: str) -> None:
    """In a process of its own, since W&B's service speaks to the terminal; two cells, so that it would do so twice."""
    code = (
        "import os, sys; from pathlib import Path; from pahq.config.cell import CellConfig, RunConfig;"
        "from pahq.files.text import read_json; from pahq.cell.tracking import log_cell; before = dict(os.environ);"
        "cells = [(Path(f), CellConfig(**read_json(Path(f) / 'config.json'))) for f in sys.argv[2:]];"
        "[log_cell(c, RunConfig(root=sys.argv[1], wandb='offline'), f) for f, c in cells];"
        "names = 'WANDB_CACHE_DIR', 'WANDB_DATA_DIR';"
        "assert [before.get(name) for name in names] == [os.environ.get(name) for name in names]"
    )
    folders = [str(finished_cell(tmp_path, cell)) for cell in (CELL, CELL.model_copy(update={"seed": 1}))]
    alone = {"WANDB_SERVICE": None}  # which W&B sets for children of a process that has a service already
    variables = {name: value for name, value in (os.environ | HOMES[home] | alone).items() if value is not None}
    command = [sys.executable, "-c", code, str(tmp_path), *folders]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.parametrize(
    ("asked", "environment", "warning"),
    [
        ("auto", {}, None),
        ("online", {}, "no key is configured"),
        ("auto", {"WANDB_API_KEY": "0123456789" * 4}, "cannot be reached"),
        ("online", {"WANDB_API_KEY": "0123456789" * 4}, "cannot be reached"),
        ("auto", {"WANDB_MODE": "offline", "WANDB_API_KEY": "0123456789" * 4}, None),
    ],
    ids=["auto, no key", "online, no key", "auto, key, no network", "online, key, no network", "WANDB_MODE"],
)
def test_what_cannot_go_online_goes_on_offline(
    tmp_path: Path, asked: str, environment: dict[str, str], warning: str | None
) -> None:
    """In a process of its own, since W&B remembers keys; two cells, so that a warning would show twice."""
    code = (
        "import logging, sys; from pathlib import Path; from pahq.config.cell import CellConfig, RunConfig;"
        "from pahq.files.text import read_json; from pahq.cell.tracking import log_cell;"
        "logging.basicConfig(format='%(message)s');"
        "cells = [(Path(f), CellConfig(**read_json(Path(f) / 'config.json'))) for f in sys.argv[3:]];"
        "[log_cell(c, RunConfig(root=sys.argv[1], wandb=sys.argv[2]), f) for f, c in cells]"
    )
    other = CELL.model_copy(update={"seed": 1})
    folders = [str(finished_cell(tmp_path, cell)) for cell in (CELL, other)]
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    # A closed port on this host stands for the network that is not there.
    variables = os.environ | proxies | {"WANDB_BASE_URL": "http://127.0.0.1:9"} | environment
    command = [sys.executable, "-c", code, str(tmp_path), asked, *folders]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [folder.name.split("-")[0] for folder in run_folders(tmp_path)] == ["offline", "offline"]
    lines = done.stderr.splitlines()
    assert len(lines) == (0 if warning is None else 1), done.stderr
    assert warning is None or warning in lines[0]


def test_a_fault_online_falls_back_offline_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    real, asked = wandb.init, []

    def init(**options: Any) -> Any:
        asked.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("the server is gone")
        return real(**options)

    monkeypatch.setattr(tracking, "_choose", lambda asked: "online")
    monkeypatch.setattr(wandb, "init", init)
    run = RunConfig(root=str(tmp_path), wandb="online")
    with caplog.at_level(logging.WARNING):
        log_cell(CELL, run, finished_cell(tmp_path))
        log_cell(CELL, run, finished_cell(tmp_path))
    assert asked == ["online", "offline", "offline"]
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: CommError (the server is gone); tracking goes on offline"
    ]
    assert len(run_folders(tmp_path)) == 1


def test_when_even_offline_fails_nothing_is_tracked_and_nothing_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    calls: list[str] = []

    def init(**options: Any) -> Any:
        calls.append(options["mode"])
        raise RuntimeError("disk\nfull")

    monkeypatch.setattr(wandb, "init", init)
    run = RunConfig(root=str(tmp_path), wandb="offline")
    with caplog.at_level(logging.WARNING):
        log_cell(CELL, run, finished_cell(tmp_path))
        log_cell(CELL, run, finished_cell(tmp_path))
    assert calls == ["offline"]
    assert [record.getMessage() for record in caplog.records] == [
        "W&B: RuntimeError (disk full); cells are no longer tracked"
    ]
