"""Stored cells: files, going on after a kill with the identical outcome, refusals in one sentence, the command."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from support.made_cells import change_result

from pahq.__main__ import main
from pahq.cell import precheck
from pahq.cell.journal import read_journal
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig, RunConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.experiments.jobs import Asked
from pahq.files.sealed import read_sealed, write_sealed
from pahq.resamples import cells as module
from pahq.resamples.cells import SAME_PROMPTS, measure_cells
from pahq.resamples.resample import draw, resample
from pahq.search.likely import as_in
from pahq.tasks.task import Task

N, SEEDS = 4, 2
OUTCOME = ("stability.json", "inclusion.parquet")
TYPED = ("task=nano-greaterthan", "task.examples=4", "threshold=0.1")


def finish(root: Path, *overrides: str) -> CellConfig:
    """Run a cell below ``root``."""
    [(cell, _)] = compose_runs(overrides)
    run_cell(cell, where(root))
    return cell


def where(root: Path) -> RunConfig:
    return RunConfig(root=str(root), progress=False, wandb="disabled")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CellConfig]:
    """A finished cell, its stability not yet measured; to be copied."""
    root = tmp_path_factory.mktemp("searched")
    return root, finish(root, *TYPED)


@pytest.fixture(scope="module")
def measured(searched: tuple[Path, CellConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CellConfig]:
    root, cell = searched
    copy = tmp_path_factory.mktemp("measured") / "root"
    shutil.copytree(root, copy)
    measure_cells([cell.id], where(copy), resamples=N, seeds=SEEDS)
    return copy / "cells" / cell.id, cell


def test_the_files_say_what_each_search_found(measured: tuple[Path, CellConfig]) -> None:
    folder, cell = measured
    values = json.loads((folder / "stability.json").read_text())
    edges = pd.read_parquet(folder / "inclusion.parquet").set_index("edge")
    searches = {path.stem: json.loads(path.read_text()) for path in (folder / "stability").glob("*-*.json")}
    assert len(searches) == N + 3 + SEEDS
    drawn = [set(found["edges"]) for name, found in searches.items() if name.startswith("resample")]
    circuit = Circuit.read(folder / "circuit.json")
    assert list(edges.index) == [str(edge) for edge in circuit.graph.edges]
    assert set(edges.index[edges["in_circuit"]]) == set(circuit.edges)
    for name, share in edges["resamples"].items():
        assert share == sum(name in found for found in drawn) / N
    own = set(circuit.edges)
    jaccard = [len(found & own) / len(found | own) for found in drawn]
    assert values["resamples"]["to_original"]["mean"] == pytest.approx(sum(jaccard) / N)
    assert values["seeds"]["circuits"] == SEEDS
    assert (values["id"], values["prompts"], values["note"]) == (cell.id, 4, "")
    assert values["asked"] == {"resamples": N, "seeds": SEEDS}
    assert not list((folder / "stability").glob("*.jsonl"))


def test_a_further_search_is_the_cell_on_other_prompts(
    measured: tuple[Path, CellConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against whole cells: of another seed, of another order, and on a resampled task."""
    folder, cell = measured

    def kept(name: str) -> set[str]:
        return set(json.loads((folder / "stability" / f"{name}.json").read_text())["edges"])

    for name, override in (("seed-plus-2", "seed=2"), ("ascending-nearest", "method.order=ascending")):
        other = finish(tmp_path, *TYPED, override)
        assert kept(name) == set(Circuit.read(tmp_path / "cells" / other.id / "circuit.json").edges)

    built = precheck.build_task

    def drawn(*arguments: object) -> Task:
        task = built(*arguments)  # type: ignore[arg-type]
        return Task(task.name, resample(task.search, draw(4, 0, 1)), task.fresh, task.metric)

    monkeypatch.setattr(precheck, "build_task", drawn)
    finish(tmp_path, *TYPED)
    assert kept("resample-001") == set(Circuit.read(tmp_path / "cells" / cell.id / "circuit.json").edges)


def test_an_audited_cells_searches_are_audited_and_go_on_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = ("task=nano-induction", "task.examples=4", "threshold=0.5", "method=pahq", "precision=int4", "audit=band")
    cell, other = finish(tmp_path, *low), finish(tmp_path, *low, "method.order=ascending")
    real = module.search

    def interrupted(*arguments: object, **guesses: object):  # type: ignore[no-untyped-def]
        for decision in real(*arguments, **guesses):  # type: ignore[arg-type]
            if decision.index == 40:
                raise KeyboardInterrupt
            yield decision

    monkeypatch.setattr(module, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_cells([cell.id], where(tmp_path), resamples=2, seeds=0)
    [journal] = (tmp_path / "cells" / cell.id / "stability").glob("*.jsonl")
    begun = read_journal(journal)
    assert any(line.low is not None for line in begun)
    given = []

    def counted(cell, problem, done, memory_gb, full, **guesses):  # type: ignore[no-untyped-def]
        given.append([(d.index, d.before, d.after, d.removed, d.audited, d.low) for d in done])
        return real(cell, problem, done, memory_gb, full, **guesses)

    monkeypatch.setattr(module, "search", counted)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "cells", copy / "cells")
    shutil.rmtree(copy / "cells" / cell.id / "stability")
    for root in (tmp_path, copy):
        measure_cells([cell.id], where(root), resamples=2, seeds=0)
    told = [(line.i, line.before, line.after, line.removed, line.audited, line.low) for line in begun]
    assert given[0] == told
    assert len({(root / "cells" / cell.id / "inclusion.parquet").read_bytes() for root in (tmp_path, copy)}) == 1
    folder = tmp_path / "cells"
    found = json.loads((folder / cell.id / "stability" / "ascending-nearest.json").read_text())
    assert set(found["edges"]) == set(Circuit.read(folder / other.id / "circuit.json").edges)


@pytest.mark.parametrize("after", [1, N, N + 4])
def test_interrupted_it_goes_on_to_the_identical_outcome(
    searched: tuple[Path, CellConfig],
    measured: tuple[Path, CellConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    shutil.copytree(searched[0], tmp_path / "root")
    folder, cell = tmp_path / "root" / "cells" / searched[1].id, searched[1]
    real, begun = module.search, []

    def interrupted(*arguments: object, **guesses: object):  # type: ignore[no-untyped-def]
        begun.append(arguments)
        for decision in real(*arguments, **guesses):  # type: ignore[arg-type]
            if len(begun) > after and decision.index == 7:
                raise KeyboardInterrupt
            yield decision

    monkeypatch.setattr(module, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_cells([cell.id], where(tmp_path / "root"), resamples=N, seeds=SEEDS)
    finished = {path: path.read_bytes() for path in (folder / "stability").glob("*-*.json")}
    [journal] = (folder / "stability").glob("*.jsonl")
    tests = journal.read_text().splitlines()
    assert (len(finished), len(tests)) == (after, 7)
    assert not (folder / "stability.json").exists()

    resumed: list[int] = []

    def counted(cell, problem, done, memory_gb, full, **guesses):  # type: ignore[no-untyped-def]
        resumed.append(len(done))
        return real(cell, problem, done, memory_gb, full, **guesses)

    monkeypatch.setattr(module, "search", counted)
    measure_cells([cell.id], where(tmp_path / "root"), resamples=N, seeds=SEEDS)
    assert sum(resumed) == 7  # the tests of the search under way are not run again
    assert len(resumed) == N + 3 + SEEDS - after
    assert all(path.read_bytes() == content for path, content in finished.items())
    assert all((folder / name).read_bytes() == (measured[0] / name).read_bytes() for name in OUTCOME)


def test_killed_it_goes_on_to_the_identical_outcome(
    searched: tuple[Path, CellConfig], measured: tuple[Path, CellConfig], tmp_path: Path
) -> None:
    root, cell = tmp_path / "root", searched[1]
    shutil.copytree(searched[0], root)
    folder = root / "cells" / cell.id
    typed = [sys.executable, "-m", "pahq", "stability", cell.id, "--root", str(root)]
    typed += ["--n", str(N), "--seeds", str(SEEDS)]
    running = subprocess.Popen(typed, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "stability" / "resample-000.json").exists():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (folder / "stability.json").exists()
    done = subprocess.run(typed, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{cell.id}: {N} resamples, Jaccard ")
    assert all((folder / name).read_bytes() == (measured[0] / name).read_bytes() for name in OUTCOME)


def test_what_is_there_is_not_searched_again_and_more_resamples_keep_the_first(
    measured: tuple[Path, CellConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cell = measured
    shutil.copytree(folder.parents[2], tmp_path / "root")
    copy = tmp_path / "root" / "cells" / cell.id
    before = {name: (copy / name).stat().st_mtime_ns for name in OUTCOME}
    monkeypatch.setattr(module, "load", lambda *_: pytest.fail("loaded a model for nothing"))
    [found] = measure_cells([cell.id], where(tmp_path / "root"), resamples=N, seeds=SEEDS)
    assert found.seconds > 0
    assert before == {name: (copy / name).stat().st_mtime_ns for name in OUTCOME}
    monkeypatch.undo()
    searches, real = [], module.search
    monkeypatch.setattr(module, "search", lambda *a, **named: searches.append(named) or real(*a, **named))
    [more] = measure_cells([cell.id], where(tmp_path / "root"), resamples=N + 1, seeds=1)
    assert searches == [{"guesses": as_in(Circuit.read(copy / "circuit.json"))}]
    for _ in range(2):  # and less asked leaves what is there, whether or not the summary was lost
        assert more.values["asked"] == {"resamples": N + 1, "seeds": SEEDS}
        assert [more.values[kind]["circuits"] for kind in ("resamples", "seeds")] == [N + 1, SEEDS]
        [more] = measure_cells([cell.id], where(tmp_path / "root"), resamples=2, seeds=0)
        (copy / "stability.json").unlink()
    [again] = measure_cells([cell.id], where(tmp_path / "root"), resamples=2, seeds=0)
    assert again.values == more.values
    assert len(searches) == 1
    asked = [(N, SEEDS), (N + 1, 1), (2, 0)]
    assert {path.name for path in (copy / "stability").glob("*.done")} == {
        f"resamples{n}-seeds{k}.done" for n, k in asked
    }


def test_recorded_prompts_have_no_other_seeds_and_cells_of_a_task_load_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [finish(tmp_path, "task=tracr-reverse", f"method={method}", "threshold=0.01") for method in ("acdc", "pahq")]
    loads, real = [], module.load
    monkeypatch.setattr(module, "load", lambda *a: loads.append(a) or real(*a))
    found = measure_cells([cell.id for cell in pair], where(tmp_path), resamples=2, seeds=3)
    assert len(loads) == 1
    for one in found:
        assert (one.values["seeds"]["circuits"], one.values["note"]) == (0, SAME_PROMPTS)
        assert pd.read_parquet(one.path.with_name("inclusion.parquet"))["seeds"].isna().all()


def test_searches_of_another_model_or_version_are_refused(measured: tuple[Path, CellConfig], tmp_path: Path) -> None:
    folder, cell = measured
    shutil.copytree(folder.parents[2], tmp_path / "root")
    copy = tmp_path / "root" / "cells" / cell.id
    provenance = copy / "stability" / "provenance.json"
    write_sealed(provenance, read_sealed(provenance) | {"pahq": "0.0.1"})
    (copy / "stability.json").unlink()
    with pytest.raises(PahqError, match="searches of another run; move it away"):
        measure_cells([cell.id], where(tmp_path / "root"), resamples=N, seeds=SEEDS)
    change_result(copy, model_digest="f" * 64)
    with pytest.raises(PahqError, match="was searched on a model of digest ffff"):
        measure_cells([cell.id], where(tmp_path / "root"), resamples=N, seeds=SEEDS)


@pytest.fixture
def copied(measured: tuple[Path, CellConfig], tmp_path: Path) -> tuple[Path, CellConfig]:
    """The measured cell's folder, to be damaged."""
    folder, cell = measured
    shutil.copytree(folder.parents[2], tmp_path / "root")
    return tmp_path / "root" / "cells" / cell.id, cell


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << (at % 7)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    ["stability.json", "inclusion.parquet", *(f"stability/{name}.json" for name in ("resample-001", "provenance"))],
)
def test_a_byte_that_changed_is_noticed_before_any_search(
    copied: tuple[Path, CellConfig], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, cell = copied
    monkeypatch.setattr(module, "_search_again", lambda *_: pytest.fail("searched for nothing"))
    path = folder / name
    content, rng = path.read_bytes(), random.Random(name)
    if name == "stability/provenance.json":  # read where something is still to be measured
        (folder / "stability.json").unlink()
    for _ in range(12):
        flip(path, rng.randrange(len(content)))
        with pytest.raises(PahqError, match=rf"{name} is damaged: .*move .*away, and .*anew"):
            measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
        path.write_bytes(content)
    measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)


def test_every_byte_of_a_search_counts(copied: tuple[Path, CellConfig]) -> None:
    folder, _ = copied
    for path in (folder / "stability" / "resample-000.json", folder / "stability.json"):
        content = path.read_bytes()
        for at in range(len(content)):
            flip(path, at)
            with pytest.raises(PahqError, match=rf"{path.name} is damaged"):
                read_sealed(path)
            path.write_bytes(content)


def test_a_damaged_search_is_made_anew_once_it_is_moved_away(
    copied: tuple[Path, CellConfig], measured: tuple[Path, CellConfig]
) -> None:
    folder, cell = copied
    flip(folder / "stability" / "seed-plus-1.json", 100)
    (folder / "stability.json").unlink()
    with pytest.raises(PahqError, match=r"seed-plus-1\.json is damaged"):
        measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    (folder / "stability" / "seed-plus-1.json").unlink()
    measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    assert all((folder / name).read_bytes() == (measured[0] / name).read_bytes() for name in OUTCOME)


@pytest.mark.parametrize("name", ["provenance.json", "resample-001.json"])
def test_one_file_that_was_moved_away_is_made_anew(
    copied: tuple[Path, CellConfig], measured: tuple[Path, CellConfig], name: str
) -> None:
    """Beside a whole stability.json too; the other searches stay."""
    folder, cell = copied
    others = {path: path.stat().st_mtime_ns for path in (folder / "stability").glob("resample-*.json")}
    others.pop(folder / "stability" / name, None)
    (folder / "stability" / name).unlink()
    measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    assert (folder / "stability" / name).exists()
    assert others == {path: path.stat().st_mtime_ns for path in others}
    assert all((folder / name).read_bytes() == (measured[0] / name).read_bytes() for name in OUTCOME)


def test_a_searchs_journal_that_contradicts_itself_is_refused(
    copied: tuple[Path, CellConfig], measured: tuple[Path, CellConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cell = copied
    (folder / "stability.json").unlink()
    (folder / "stability" / "resample-002.json").unlink()
    real = module.search

    def interrupted(*arguments: object, **guesses: object):  # type: ignore[no-untyped-def]
        for decision in real(*arguments, **guesses):  # type: ignore[arg-type]
            if decision.index == 9:
                raise KeyboardInterrupt
            yield decision

    with monkeypatch.context() as broken:
        broken.setattr(module, "search", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    path = folder / "stability" / "resample-002.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[4]["removed"] = not lines[4]["removed"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(PahqError, match=r"resample-002\.jsonl is damaged: line 5 .*; move it away, and pahq"):
        measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    path.unlink()
    measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    edges = [json.loads((at / "stability" / "resample-002.json").read_text())["edges"] for at in (folder, measured[0])]
    assert edges[0] == edges[1]


@pytest.mark.parametrize("name", ["circuit.json", "decisions.jsonl", "result.json", "config.json"])
def test_no_stability_is_measured_of_a_damaged_cell(
    copied: tuple[Path, CellConfig], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder, cell = copied
    flip(folder / name, 40)
    assert main(["stability", cell.id, "--root", str(folder.parents[2])]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["nano-ioi/none"], "cells/nano-ioi/none holds no finished cell; its search comes before its stability"),
        (["papr"], "unknown experiment 'papr'; known: "),
        (["smoke", "--n", "1"], "n=1 resamples cannot be compared"),
        (["smoke", "--seeds", "-1"], "seeds=-1"),
        (["smoke", "--threads", "0"], "threads: Input should be greater than 0"),
        (["smoke"], "holds no finished cell"),
    ],
)
def test_faults_of_the_command_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: list[str], sentence: str
) -> None:
    assert main(["stability", *typed, "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pahq: error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_folder_below_another_root_names_the_root(
    searched: tuple[Path, CellConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, cell = searched
    folder = root / "cells" / cell.id
    assert main(["stability", str(folder), "--root", str(tmp_path), "--n", "2"]) == 2
    told = capsys.readouterr().err
    assert told == f"pahq: error: {folder} does not lie below {tmp_path}/cells; say --root {root}\n"
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["stability", "a/b", "--n", "2"]) == 2
    told = capsys.readouterr().err
    assert (
        told == "pahq: error: a/b does not lie below results/cells; say --root FOLDER, the one whose cells/ it is in\n"
    )
    asked: list[str] = []
    monkeypatch.setattr(module, "check_finished", lambda ids, run: asked.extend(ids))
    monkeypatch.setattr(module, "measure_cells", lambda *given, **more: None)
    monkeypatch.chdir(root)
    for name in (cell.id, f"cells/{cell.id}/", str(folder)):
        for below in (str(root), "."):
            assert main(["stability", name, "--root", below]) == 0
    (tmp_path / "cells" / cell.id).parent.mkdir(parents=True)
    (tmp_path / "cells" / cell.id).symlink_to(folder)
    assert main(["stability", str(tmp_path / "cells" / cell.id), "--root", str(tmp_path)]) == 0
    assert set(asked) == {cell.id}


def test_an_experiments_marked_cells_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marked = [
        finish(tmp_path, "task=tracr-proportion", f"method={method}", "threshold=0.01").id
        for method in ("acdc", "pahq")
    ]
    assert main(["stability", "smoke", "--root", str(tmp_path), "--n", "2", "--no-progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == marked
    assert main(["stability", str(tmp_path / "cells" / marked[0]), "--root", str(tmp_path), "--n", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:1]


def test_an_experiments_rows_say_how_much_where_the_command_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pahq.resamples.command import measure

    ids = [finish(tmp_path, "task=tracr-proportion", "method=acdc", f"threshold={at}").id for at in (0.01, 0.1, 1)]
    asked = {ids[0]: Asked(resamples=8), ids[1]: Asked(resamples=20)}
    found: dict[str, tuple[int, int]] = {}

    def noted(cells: list[str], run: RunConfig, *, resamples: int, seeds: int, report: object) -> None:
        found.update({cell_id: (resamples, seeds) for cell_id in cells})

    def told(found: object) -> None:
        raise AssertionError("nothing was measured")

    monkeypatch.setattr(module, "measure_cells", noted)
    measure(["some", ids[2]], RunConfig(root=str(tmp_path)), lambda name: asked, None, None, told)
    assert found == {ids[0]: (8, 2), ids[1]: (20, 5), ids[2]: (20, 5)}
    measure(["some"], RunConfig(root=str(tmp_path)), lambda name: asked, 3, None, told)
    assert found == {ids[0]: (3, 2), ids[1]: (3, 5), ids[2]: (20, 5)}
    twice = {"a": {ids[0]: Asked(resamples=20)}, "b": {ids[0]: Asked(resamples=5)}}
    for names in ("ab", "ba"):  # once, and the more
        found.clear()
        measure(names, RunConfig(root=str(tmp_path)), twice.__getitem__, None, None, told)
        assert found == {ids[0]: (20, 5)}


def test_a_cell_whose_searches_were_removed_is_still_measured(measured: tuple[Path, CellConfig]) -> None:
    folder, cell = measured
    before = (folder / "stability.json").read_bytes()
    shutil.rmtree(folder / "stability")
    measure_cells([cell.id], where(folder.parents[2]), resamples=N, seeds=SEEDS)
    assert (folder / "stability.json").read_bytes() == before
