"""Cells: what they leave, that nothing is computed twice, and that a kill at any moment costs one test."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.places import GOLDEN
from support.slow_search import run_slowly

import pahq
from pahq.__main__ import main
from pahq.cell import run as cell_module
from pahq.cell.files import FILES, cell_folder, read_result, write_result
from pahq.cell.journal import Journal, read_journal
from pahq.cell.outcome import judge
from pahq.cell.result import SCHEMA, Result
from pahq.cell.run import load, rerun, run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig, RunConfig, parse_config
from pahq.engine.reference import ReferenceEngine
from pahq.errors import PahqError
from pahq.files.sealed import digests
from pahq.model import codes as codes_module
from pahq.report.library import explorer
from pahq.verify.recorded import read_recorded

VARYING = ("seconds", "set_up_seconds", "peak_bytes", "resumed")  # of a result: how long and how much, not what


def values_of(kind: str = "tracr-proportion", **changes: Any) -> dict[str, Any]:
    task = {"name": kind, "kind": kind, "examples": 6, "metric": "mse", "split_embed": True}
    values: dict[str, Any] = {
        "task": task | changes.pop("task", {}),
        "model": {"name": kind, "source": kind},
        "method": {"name": "acdc"},
        "precision": {"name": "auto"},
        "engine": {"name": "reference"},
        "threshold": 0.01,
    }
    return values | changes


def make(kind: str = "tracr-proportion", **changes: Any) -> CellConfig:
    return parse_config(values_of(kind, **changes))[0]


def run_in(root: Path) -> RunConfig:
    return RunConfig(root=str(root), wandb="disabled", progress=False)


def without_varying(result: Result) -> dict[str, Any]:
    """The journal holds seconds, so its digest varies with them; what else it says is compared by ``decided``."""
    files = {name: digest for name, digest in result.files.items() if name != "decisions.jsonl"}
    return result.model_dump(exclude=set(VARYING)) | {"files": files}


def decided(folder: Path) -> list[tuple[object, ...]]:
    """The journal without its clock."""
    return [
        (line.i, line.edge, line.before, line.after, line.removed) for line in read_journal(folder / "decisions.jsonl")
    ]


WHOLE = """
import json, sys
from pahq.cell.run import run_cell
from pahq.config.cell import parse_config

run_cell(*parse_config(json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``make()`` run to its end without a break, in a process of its own: nothing hides its peak."""
    root = tmp_path_factory.mktemp("finished")
    argument = json.dumps(values_of() | {"run": run_in(root).model_dump()})
    subprocess.run([sys.executable, "-c", WHOLE, argument], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    return cell_folder(root, make().id)


def test_a_cell_leaves_its_files(finished: Path) -> None:
    cell = make()
    assert finished == cell_folder(finished.parents[2], cell.id)
    names = {path.name for path in finished.glob("[!.]*")}
    assert names == {"config.json", "provenance.json", "decisions.jsonl", "circuit.json", "result.json"}
    assert CellConfig(**json.loads((finished / "config.json").read_text())) == cell


def test_the_result_follows_from_the_journal(finished: Path) -> None:
    cell, result = make(), read_result(finished)
    lines = read_journal(finished / "decisions.jsonl")
    kept = [line.edge for line in lines if not line.removed]
    assert json.loads((finished / "result.json").read_text())["schema"] == SCHEMA == 3
    assert (result.id, result.config) == (cell.id, cell)
    assert (result.edges_addition, result.edges_direct, result.edges) == (32, 6, 38)
    assert result.tests == len(lines)
    assert result.kept == len(kept)
    assert result.kept_addition == sum("->" in edge for edge in kept)
    circuit = Circuit.read(finished / "circuit.json")
    assert set(circuit.edges) == set(kept)
    assert result.kept_cleaned == len(circuit.cleaned()) <= len(kept)
    search = result.search
    assert search.start == lines[0].before
    assert search.final == (lines[-1].after if lines[-1].removed else lines[-1].before)
    assert search.smallest_margin == min(abs(line.after - line.before - 0.01) for line in lines) > 0
    assert result.seconds == pytest.approx(sum(line.seconds for line in lines))
    assert result.seconds > 0
    assert result.set_up_seconds > 0
    assert result.peak_bytes > 0
    assert result.resumed is False
    assert (result.device, result.threads) == ("cpu", 1)
    assert all(result.versions.model_dump().values())
    assert result.files == digests(finished, FILES)
    assert set(result.files) == set(FILES)
    assert len(result.model_digest) == 64
    fresh = result.fresh
    assert fresh.metric == "mse"
    assert fresh.clean == pytest.approx(0.0, abs=1e-9)
    assert fresh.corrupted > 0.01
    assert fresh.faithfulness == pytest.approx((fresh.value - fresh.corrupted) / (fresh.clean - fresh.corrupted))


def test_a_second_call_computes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise AssertionError("a finished cell was computed again")

    for name in ("load_model", "checked_task", "cell_problem", "log_cell", "write_json"):
        monkeypatch.setattr(cell_module, name, fail)
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    again = run_cell(make(), run_in(finished.parents[2]))
    assert again.folder == finished
    assert again.result == read_result(finished)
    assert before == {path: path.stat().st_mtime_ns for path in finished.iterdir()}


def test_what_is_returned_is_what_is_written(tmp_path: Path) -> None:
    first = run_cell(make(method={"name": "rtn-q"}), run_in(tmp_path))
    assert first.result == read_result(first.folder)
    assert first.id == make(method={"name": "rtn-q"}).id


def test_tracking_hears_of_a_cell_once_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def listen(cell: CellConfig, run: RunConfig, folder: Path, page: object) -> None:
        heard.append((cell.id, run.root, read_result(folder).id, page))

    monkeypatch.setattr(cell_module, "log_cell", listen)
    for _ in range(2):
        pahq.run_cell(make(), run_in(tmp_path))
    assert heard == [(make().id, str(tmp_path), make().id, explorer)]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.31, 0.77, 1.0])
def test_a_cut_journal_is_gone_on_with(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    folder = cell_folder(tmp_path, make().id)
    folder.mkdir(parents=True)
    for name in ("config.json", "provenance.json"):
        (folder / name).write_bytes((finished / name).read_bytes())
    journal = (finished / "decisions.jsonl").read_bytes()
    cut = journal[: int(share * len(journal))]
    (folder / "decisions.jsonl").write_bytes(cut)
    whole, count = cut.count(b"\n"), count_measured(monkeypatch)
    result = run_cell(make(), run_in(tmp_path))
    assert without_varying(result.result) == without_varying(read_result(finished))
    assert result.result.resumed == (whole > 0)
    assert decided(folder) == decided(finished)
    assert (folder / "decisions.jsonl").read_bytes().startswith(cut[: cut.rfind(b"\n") + 1])
    assert (folder / "circuit.json").read_bytes() == (finished / "circuit.json").read_bytes()
    tests = read_result(finished).tests
    assert sum(count) == tests - whole + (whole == 0)  # each remaining test once, and the first state


def count_measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []
    measure = ReferenceEngine.measure

    def counted(engine: ReferenceEngine, trials: Any) -> list[float]:
        count.append(len(trials))
        return measure(engine, trials)

    monkeypatch.setattr(ReferenceEngine, "measure", counted)
    return count


@pytest.mark.parametrize("engine", ["reference", "suffix"])
@pytest.mark.parametrize("method", [{"name": "acdc"}, {"name": "pahq", "focus": "receiver"}, {"name": "rtn-q"}])
def test_an_interrupt_costs_nothing_that_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, str], engine: str
) -> None:
    changes = {"method": method, "precision": {"name": "auto"}, "engine": {"name": engine}}
    cell = make("tracr-reverse", **changes)
    whole = run_cell(cell, run_in(tmp_path / "whole"))
    lines: list[int] = []
    append = Journal.append

    def interrupted(journal: Any, line: Any) -> None:
        if line.i == 20:
            raise KeyboardInterrupt
        append(journal, line)
        lines.append(line.i)

    with monkeypatch.context() as broken:
        broken.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, run_in(tmp_path / "cut"))
    folder = cell_folder(tmp_path / "cut", cell.id)
    assert not (folder / "result.json").exists()
    assert len(read_journal(folder / "decisions.jsonl")) == len(lines) == 20
    again = run_cell(cell, run_in(tmp_path / "cut"))
    assert again.result.resumed is True
    decisions = [(name, removed) for _, name, _, _, removed in decided(folder)]
    assert decisions == [(name, removed) for _, name, _, _, removed in decided(whole.folder)]
    assert again.result.kept == whole.result.kept
    assert again.result.fresh == whole.result.fresh
    if engine == "reference":
        assert without_varying(again.result) == without_varying(whole.result)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"threshold": 0.5}),
        ("config.json", {"seed": 4}),
        ("provenance.json", {"model": "0" * 64}),
        ("provenance.json", {"pahq": "0.0.1"}),
    ],
)
def test_the_journal_of_another_run_is_refused(
    tmp_path: Path, finished: Path, name: str, change: dict[str, Any]
) -> None:
    folder = cell_folder(tmp_path, make().id)
    folder.mkdir(parents=True)
    for file in ("config.json", "provenance.json", "decisions.jsonl"):
        (folder / file).write_bytes((finished / file).read_bytes())
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = {file: file.read_bytes() for file in folder.glob("[!.]*")}
    with pytest.raises(
        PahqError, match=rf"holds the journal of another run \({name} differs\); move it away"
    ) as caught:
        run_cell(make(), run_in(tmp_path))
    assert "\n" not in str(caught.value)
    assert before == {file: file.read_bytes() for file in folder.glob("[!.]*")}


def test_a_journal_whose_tests_are_another_searchs_is_refused(tmp_path: Path, finished: Path) -> None:
    folder = cell_folder(tmp_path, make().id)
    folder.mkdir(parents=True)
    for file in ("config.json", "provenance.json"):
        (folder / file).write_bytes((finished / file).read_bytes())
    lines = [json.loads(line) for line in (finished / "decisions.jsonl").read_text().splitlines()]
    lines[2]["edge"] = lines[5]["edge"]
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(PahqError, match="the recorded decision 2 is not this search's test 2"):
        run_cell(make(), run_in(tmp_path))
    lines[2]["edge"] = "a9.h9->logits"
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(PahqError, match=r"no edge 'a9\.h9->logits'"):
        run_cell(make(), run_in(tmp_path))


@pytest.mark.parametrize("damage", ["half", "edited", "empty"])
def test_a_result_that_is_not_what_was_written_is_refused_by_name_and_made_anew_on_request(
    tmp_path: Path, finished: Path, damage: str
) -> None:
    folder = cell_folder(tmp_path, make().id)
    folder.mkdir(parents=True)
    for file in finished.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = (finished / "result.json").read_text()
    ruined = {
        "half": text[: len(text) // 2],
        "edited": text.replace('"resumed": false', '"resumed": true'),
        "empty": "",
    }[damage]
    assert ruined != text
    (folder / "result.json").write_text(ruined)
    with pytest.raises(PahqError, match=r"result\.json is damaged: .*run\.repair=true") as caught:
        run_cell(make(), run_in(tmp_path))
    assert "\n" not in str(caught.value)
    assert (folder / "result.json").read_text() == ruined
    result = run_cell(make(), run_in(tmp_path).model_copy(update={"repair": True}))
    assert without_varying(result.result) == without_varying(read_result(finished))
    assert decided(folder) == decided(finished)


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({}, "cuda:77", "device 'cuda:77' is not available"),
        ({}, "abacus", "device 'abacus' is not available"),
        ({"model": {"name": "x", "source": "no-such-model"}}, "cpu", "no-such-model"),
        ({"task": {"kind": "chess"}}, "cpu", "unknown task kind 'chess'"),
        ({"task": {"metric": "logit_diff"}}, "cpu", "metric 'logit_diff' needs"),
        ({"task": {"examples": 10_000}}, "cpu", "10000 were asked for"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], device: str, words: str
) -> None:
    run = RunConfig(root=str(tmp_path), wandb="disabled", device=device, progress=False)
    with pytest.raises(PahqError, match=words) as caught:
        run_cell(make(**changes), run)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.json*")) == []


@pytest.mark.parametrize("kind", ["tracr-reverse", "tracr-proportion"])
def test_cells_find_the_circuits_that_the_original_recorded(tmp_path: Path, kind: str) -> None:
    """The task's prompts and corruption are the recorded ones, so the recorded circuit comes out of a cell."""
    examples = {"tracr-reverse": 6, "tracr-proportion": 50}[kind]
    for recorded in read_recorded(GOLDEN / kind.replace("-", "_")):
        task = {"ablation": recorded.ablation, "examples": examples}
        result = run_cell(make(kind, task=task, threshold=recorded.threshold), run_in(tmp_path))
        circuit = Circuit.read(result.folder / "circuit.json")
        assert set(circuit.edges) == {test.edge for test in recorded.tests if test.kept}, recorded.name
        assert result.result.tests == len(recorded.tests)


def test_a_stored_cell_can_be_verified(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--engine", "reference"], ["--engine", "suffix", "--dtype", "float64"]):
        assert main(["verify", str(finished), *options]) == 0
        assert f"{make().id}: " in capsys.readouterr().out
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in finished.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    lines = (copy / "decisions.jsonl").read_text().splitlines(keepends=True)
    (copy / "decisions.jsonl").write_text("".join(lines[:-1]))
    assert main(["verify", str(copy)]) == 2
    assert f"{copy / 'decisions.jsonl'} is damaged: " in capsys.readouterr().err
    (copy / "decisions.jsonl").write_text("".join(lines))
    for content, words in (
        ("[]", "is no cell's configuration"),
        ("{", "is not readable JSON"),
        ("{}", "no cell's conf"),
    ):
        (copy / "config.json").write_text(content)
        for told in ("config.json is damaged: ", words):
            assert main(["verify", str(copy)]) == 2
            error = capsys.readouterr().err
            assert told in error
            assert len(error.splitlines()) == 1
            write_result(copy, read_result(copy))  # and where the result names the digest of that


def test_absolute_values_count_for_the_margin(tmp_path: Path) -> None:
    result = run_cell(make(method={"name": "acdc", "absolute": True}, threshold=0.2), run_in(tmp_path))
    lines = read_journal(result.folder / "decisions.jsonl")
    effects = [abs(line.after - line.before) for line in lines]
    assert result.result.search.smallest_margin == min(abs(effect - 0.2) for effect in effects)


def test_circuits_are_judged_on_the_full_precision_network() -> None:
    """Two cells with the same circuit get the same marks, however coarse the search was."""
    coarse = make(
        method={"name": "rtn-q"}, precision={"name": "int4", "format": "int4", "scales": "group32", "mlp": "bf16"}
    )
    marks = []
    for cell in (make(), coarse):
        model, task = load(cell, "cpu")
        graph = cell_module.cell_problem(cell, model, task.search).graph
        marks.append(judge(model, task, Circuit.from_names(graph, ["a1.h0->logits", "pos->logits"]), cell))
    assert marks[0] == marks[1]


KILLED = """
import json, sys, time
from pahq.cell import run as cells
from pahq.config.cell import parse_config
from pahq.engine.reference import ReferenceEngine

measure = ReferenceEngine.measure

def slow(engine, trials):
    time.sleep(0.1)
    return measure(engine, trials)

ReferenceEngine.measure = slow
cells.run_cell(*parse_config(json.loads(sys.argv[1])))
"""


def test_a_killed_process_is_gone_on_with(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"root": str(tmp_path), "wandb": "disabled", "progress": False}
    argument = json.dumps(values_of() | {"run": run})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, argument], env=environment)
    folder = cell_folder(tmp_path, make().id)
    deadline = time.monotonic() + 60
    while len(read_journal(folder / "decisions.jsonl")) < 5:
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < deadline, "the process got nowhere"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = len(read_journal(folder / "decisions.jsonl"))
    tests = read_result(finished).tests
    assert 5 <= whole < tests
    assert not (folder / "result.json").exists()
    count = count_measured(monkeypatch)
    result = run_cell(make(), run_in(tmp_path))
    assert sum(count) == tests - whole
    assert without_varying(result.result) == without_varying(read_result(finished))
    assert decided(folder) == decided(finished)


def test_a_search_killed_again_and_again_ends_in_the_same_circuit(tmp_path: Path) -> None:
    """The suffix engine, killed with -9 at random moments until a run comes through."""
    changes = {"engine": {"name": "suffix"}, "method": {"name": "pahq", "focus": "receiver"}, "threshold": 1e-9}
    values = values_of("tracr-reverse", **changes)
    cell = parse_config(values)[0]
    run = {"root": str(tmp_path / "killed"), "wandb": "disabled", "progress": False}
    folder = cell_folder(tmp_path / "killed", cell.id)
    rng, kills = random.Random(7), 0
    forked = multiprocessing.get_context("forkserver")  # torch is imported once for all of them
    forked.set_forkserver_preload(["pahq.cell.run"])
    for _ in range(12):
        before = len(read_journal(folder / "decisions.jsonl"))
        process = forked.Process(target=run_slowly, args=(values | {"run": run},))
        process.start()
        while process.is_alive() and len(read_journal(folder / "decisions.jsonl")) <= before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 2
    killed = run_cell(cell, run_in(tmp_path / "killed"))
    whole = run_cell(cell, run_in(tmp_path / "whole"))
    assert killed.result.resumed
    assert (killed.folder / "circuit.json").read_bytes() == (whole.folder / "circuit.json").read_bytes()
    pairs = zip(decided(killed.folder), decided(whole.folder), strict=True)
    for ours, theirs in pairs:
        assert (ours[:2], ours[4]) == (theirs[:2], theirs[4])
        assert ours[2:4] == pytest.approx(theirs[2:4], abs=1e-6)


@pytest.mark.parametrize("method", ["pahq", "rtn-q"])
def test_packed_and_plain_weights_take_the_same_decisions(tmp_path: Path, method: str) -> None:
    focus = "receiver" if method == "pahq" else "none"
    cell = make(method={"name": method, "focus": focus}, precision={"name": "int8", "format": "int8", "mlp": "bf16"})
    plain = run_cell(cell, RunConfig(root=str(tmp_path / "plain"), store="plain", wandb="disabled", progress=False))
    packed = run_cell(cell, RunConfig(root=str(tmp_path / "packed"), wandb="disabled", progress=False))
    assert (plain.result.store, packed.result.store) == ("plain", "packed")
    assert decided(plain.folder) == decided(packed.folder)
    assert plain.result.fresh == packed.result.fresh


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_cell_multiplies_codes(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same search, effects by float noise apart; searched again and audited by the same kernel."""
    precision = {"name": kind, "format": kind, "mlp": "bf16", "compute": kind}
    pahq = {"method": {"name": "pahq", "focus": "receiver"}}
    unpack, codes = (make(**pahq, precision=precision | {"kernel": kernel}) for kernel in ("unpack", "codes"))
    run = RunConfig(root=str(tmp_path), wandb="disabled", progress=False)
    seen: list[str] = []
    kernel_of = codes_module.multiply
    monkeypatch.setattr(codes_module, "multiply", lambda *args: seen.append(args[2]) or kernel_of(*args))
    found = {unpack: read_journal(run_cell(unpack, run).folder / "decisions.jsonl")}
    assert not seen
    found[codes] = read_journal(run_cell(codes, run).folder / "decisions.jsonl")
    assert set(seen) == {kind}
    assert [(x.edge, x.removed) for x in found[unpack]] == [(x.edge, x.removed) for x in found[codes]]
    for ours, theirs in zip(found[codes], found[unpack], strict=True):
        assert ours.after == pytest.approx(theirs.after, abs=1e-4)
    problem, again = rerun(codes, "cpu")
    assert [(str(problem.graph.edges[d.edge]), d.removed) for d in again] == [(x.edge, x.removed) for x in found[codes]]
    with pytest.raises(PahqError, match=r"precision\.kernel=codes needs run\.store=packed"):
        run_cell(codes, RunConfig(root=str(tmp_path / "plain"), store="plain", wandb="disabled", progress=False))


@pytest.mark.parametrize("engine", ["suffix", "reference"])
def test_schedules_take_the_same_decisions(tmp_path: Path, engine: str) -> None:
    pahq = {"method": {"name": "pahq", "focus": "receiver"}, "precision": {"name": "fp8", "format": "fp8"}}
    cells = [make(**pahq, engine={"name": engine, "schedule": name}) for name in ("overlapped", "serial")]
    overlapped, serial = (
        run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False)) for cell in cells
    )
    assert {overlapped.result.store, serial.result.store} == {"packed"}
    assert decided(overlapped.folder) == decided(serial.folder)
    with pytest.raises(PahqError, match=r"engine\.schedule=serial needs run\.store=packed"):
        run_cell(cells[1], RunConfig(root=str(tmp_path / "plain"), store="plain", wandb="disabled", progress=False))
