"""Cells of methods that learn masks: killed at any step they go on, and sizes share what was not learnt for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pahq.__main__ import main
from pahq.api import score
from pahq.cell import scored
from pahq.cell.files import SCORES
from pahq.cell.run import load, run_cell
from pahq.cell.scorefile import read_scores
from pahq.cell.story import check_cell
from pahq.cell.trainingfile import Kept, read_training, write_training
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig, RunConfig
from pahq.config.method import USUAL
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.scores.learned import Progress

BASE = ("task=nano-greaterthan", "task.examples=4", "method=edge-pruning", "method.training.steps=20")


def composed(*words: str) -> CellConfig:
    return compose_runs([*BASE, *words])[0][0]


def run_in(root: Path, **more: Any) -> RunConfig:
    return RunConfig(root=str(root), wandb="disabled", progress=False, **more)


def scores_in(root: Path, cell: CellConfig) -> tuple[float, ...]:
    folder = root / "cells" / cell.id
    return read_scores(folder / SCORES, Circuit.read(folder / "circuit.json").graph, cell).values


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CellConfig]:
    root, cell = tmp_path_factory.mktemp("root"), composed("size=60")
    run_cell(cell, run_in(root))
    return root, cell


def test_a_cell_holds_what_python_gives_and_leaves_no_training(finished: tuple[Path, CellConfig]) -> None:
    root, cell = finished
    model, task = load(cell, "cpu")
    expected = score(model, task, "edge-pruning", size=60, training={"steps": 20}, progress=False)
    assert scores_in(root, cell) == expected.values
    result = check_cell(root / "cells" / cell.id, cell)
    assert (result.tests, result.resumed, result.search) == (1519, False, None)
    assert not list(root.rglob("*.safetensors"))
    assert main(["verify", str(root / "cells" / cell.id)]) == 0
    assert main(["faithfulness", str(root / "cells" / cell.id), "--no-progress"]) == 0


@pytest.mark.parametrize("method", ["edge-pruning", "sp"])
def test_a_killed_process_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    words = [*BASE, f"method={method}", "size=60", "method.training.steps=60"]
    cell = compose_runs(words)[0][0]
    whole = tmp_path / "whole"
    run_cell(cell, run_in(whole))
    root = tmp_path / "killed"
    code = "from pahq.cell import scored; scored.SECONDS = 0; from pahq.__main__ import main; main()"
    words += ["wandb=disabled", f"run.root={root}"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (found := list(root.rglob("*.training.safetensors"))):
        assert process.poll() is None, "it came to its end before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = read_training(found[0])
    assert kept is not None
    assert 0 < kept.state.step < 60
    result = run_cell(cell, run_in(root)).result
    assert result.resumed
    assert scores_in(root, cell) == scores_in(whole, cell)
    assert not list(root.rglob("*.training.safetensors"))


def test_a_state_that_is_not_whole_is_not_taken(tmp_path: Path, finished: tuple[Path, CellConfig]) -> None:
    root, cell = finished
    path = _interrupted(cell, tmp_path)
    kept = read_training(path)
    assert kept is not None
    assert kept.state.step == 7
    again = tmp_path / "again"
    write_training(again, Kept(kept.state, kept.seconds))
    assert again.read_bytes() == path.read_bytes()
    raw = bytearray(path.read_bytes())
    for damaged in (b"", raw[:-9], raw[:100], raw[:-5] + b"1" + raw[-4:]):
        path.write_bytes(damaged)
        assert read_training(path) is None
    assert not run_cell(cell, run_in(tmp_path)).result.resumed
    assert scores_in(tmp_path, cell) == scores_in(root, cell)


def _interrupted(cell: CellConfig, root: Path) -> Path:
    """The state that a training stopped in its eighth step has left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored, "SECONDS", 0)
        told = Progress.shown

        def shown(self: Progress, metric: str) -> dict[str, str]:
            if self.state.step == 8:
                raise KeyboardInterrupt
            return told(self, metric)

        patch.setattr(Progress, "shown", shown)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, run_in(root))
    (path,) = root.rglob("*.training.safetensors")
    return path


def test_sizes_share_what_was_not_learnt_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = scored.score

    def counted(problem: Any, method: str, **more: Any) -> Any:
        asked.append(method)
        return real(problem, method, **more)

    monkeypatch.setattr(scored, "score", counted)

    def run(*words: str) -> None:
        run_cell(composed("method.training.steps=2", *words), run_in(tmp_path))

    run("size=10")
    run("size=10", "select=greedy")
    run("size=20")
    assert asked == ["edge-pruning"] * 2
    run("size=10", "method.training.target=30")
    run("size=20", "method.training.target=30")
    run("select=threshold", "threshold=0.5", "method.training.target=30")
    assert asked == ["edge-pruning"] * 3
    for method in ("sp", "random", "hisp"):
        words = [f"method={method}", *(["task.metric=prob_diff"] if method == "hisp" else [])]
        steps = ["method.training.steps=2"] if method == "sp" else ["method.training.steps=null"]
        for size in (10, 20):
            run_cell(compose_runs([*BASE[:2], *words, *steps, f"size={size}"])[0][0], run_in(tmp_path))
    assert asked[3:] == ["sp", "random", "hisp"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=acdc"], "method.training.steps is of sp, edge-pruning; it says nothing to method acdc"),
        (["method.training.regularisation=2"], "method.training.regularisation is of sp; it says nothing to"),
        (["method=sp", "method.training.warmup=0.5"], "method.training.warmup is of edge-pruning; it says nothing to"),
        (["method=sp", "method.training.target=9"], "method.training.target is of edge-pruning; it says nothing to"),
        (["method.training.steps=0"], "method.training.steps: Input should be greater than 0"),
        (["method.training.target=1.5"], "target: a number of edges (50) or a share of them (0.02) was expected"),
        (["method.training.warmup=2"], "method.training.warmup: Input should be less than or equal to 1"),
        (["method.training.pace=2"], "pace"),
        (["method.convention=eap-ig"], "method.convention says nothing to method edge-pruning"),
        (["method.steps=9"], "method.steps says nothing to method edge-pruning"),
        (
            ["select=threshold", "threshold=0.5"],
            "learns masks for a size; with select=threshold give it method.training",
        ),
        (
            ["method=hisp", "method.training.steps=null"],
            "method hisp has no use for metric kl, whose gradient at the clean run is zero; take method=eap-ig",
        ),
        (["precision=fp8", "focus=receiver"], "method edge-pruning cannot have focus 'receiver'"),
    ],
)
def test_bad_words_are_one_sentence(words: list[str], says: str) -> None:
    with pytest.raises(PahqError) as raised:
        composed(*words)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_null_is_what_is_usual() -> None:
    cell = compose_runs(["task=nano-ioi", "method=edge-pruning"])[0][0]
    said = compose_runs(["task=nano-ioi", "method=edge-pruning", "method.training.warmup=0.5"])[0][0]
    assert said.id == cell.id
    assert compose_runs(["task=nano-ioi", "method=sp"])[0][0].method.training == USUAL["sp"]
    assert CellConfig.model_validate(cell.model_dump(mode="json")) == cell
