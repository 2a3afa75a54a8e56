"""Cells of methods that score edges: one scoring for all sizes, files that tell one story, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pahq.__main__ import main
from pahq.api import score
from pahq.cell import run as run_module
from pahq.cell import scored
from pahq.cell.files import SCORES, files_of
from pahq.cell.run import load, run_cell
from pahq.cell.scorefile import read_scores
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.problem import cell_problem
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.files.sealed import read_sealed, write_sealed
from pahq.resamples import cells as resampled
from pahq.resamples.cells import check_finished, measure_cells
from pahq.resamples.resample import draw, resample

BASE = ("task=nano-ioi", "task.examples=4", "method=eap-ig", "method.steps=2")


def composed(*words: str) -> CellConfig:
    return compose_runs([*BASE, *words])[0][0]


def run_in(root: Path, **more: Any) -> RunConfig:
    return RunConfig(root=str(root), wandb="disabled", progress=False, **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CellConfig]:
    root, cell = tmp_path_factory.mktemp("root"), composed("size=60")
    run_cell(cell, run_in(root))
    return root, cell


def test_a_cell_holds_the_scores_and_the_circuit_that_python_gives(finished: tuple[Path, CellConfig]) -> None:
    root, cell = finished
    folder = root / "cells" / cell.id
    result, circuit = check_cell(folder, cell), Circuit.read(folder / "circuit.json")
    model, task = load(cell, "cpu")
    expected = score(model, task, "eap-ig", metric="kl", steps=2)
    assert read_scores(folder / SCORES, circuit.graph, cell).values == expected.values
    assert circuit == expected.top(60)
    assert (result.tests, result.kept, result.search, result.certainty) == (len(expected), len(circuit), None, None)
    assert result.fresh.kl > 0
    assert set(files_of(cell)) == set(result.files)
    assert "-n60-" in cell.id


def test_an_audited_cell_has_the_top_that_python_gives_and_says_what_it_took(tmp_path: Path) -> None:
    """Scores that an audit has mended are those of one size, so that cells of other sizes do not share them."""
    asked = ("method=exact", "method.steps=5", "precision=int4", "audit=band")
    cell, other = (composed(*asked, f"size={size}") for size in (60, 90))
    result = run_cell(cell, run_in(tmp_path)).result
    model, task = load(cell, "cpu")
    expected = score(model, task, "exact", metric="kl", precision=cell.precision, size=60, audit="band")
    folder = tmp_path / "cells" / cell.id
    found = read_scores(folder / SCORES, expected.graph, cell)
    assert found == expected
    assert result.rescored is not None
    assert found.audit is not None
    assert result.rescored.model_dump() == asdict(found.audit)
    assert main(["verify", str(folder)]) == 0
    assert run_cell(other, run_in(tmp_path)).result.rescored != result.rescored
    assert len(list((tmp_path / "scores").rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=exact", "method.steps=5"], "scores edges again in full precision, and that is what is asked for"),
        (["method=exact", "method.steps=5", "precision=int8", "select=greedy"], "select=greedy takes others"),
        (["precision=int8"], "audit=band is for the tests of a search; method eap-ig has none"),
        (["method=exact", "method.steps=5", "precision=int8", "band.share=0.3"], "the settings band"),
    ],
)
def test_an_audit_that_would_do_nothing_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(PahqError, match=says):
        composed("size=60", "audit=band", *words)


def test_a_focus_is_pahqs_and_kept_apart_from_the_rounded_network(tmp_path: Path) -> None:
    """The scores of either are those that Python gives; rounded operands may be asked for too."""
    focused, rounded = (composed("size=60", "precision=int4", f"focus={focus}") for focus in ("receiver", "none"))
    assert focused.id != rounded.id
    found = {}
    for cell in (focused, rounded, composed("size=60", "precision=fp8", "precision.compute=fp8")):
        run_cell(cell, run_in(tmp_path))
        folder = tmp_path / "cells" / cell.id
        graph = Circuit.read(folder / "circuit.json").graph
        found[cell.id] = read_scores(folder / SCORES, graph, cell).values
    assert len(set(found.values())) == 3
    model, task = load(focused, "cpu")
    asked = {"metric": "kl", "steps": 2, "precision": "int4"}
    assert found[focused.id] == score(model, task, "eap-ig", focus="receiver", **asked).values
    assert found[rounded.id] == score(model, task, "eap-ig", **asked).values
    assert main(["verify", str(tmp_path / "cells" / focused.id)]) == 0


def test_sizes_share_one_scoring_and_another_method_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = scored.score

    def counted(problem: Any, method: str, **more: Any) -> Any:
        asked.append(method)
        return real(problem, method, **more)

    monkeypatch.setattr(scored, "score", counted)
    cells = [
        composed("size=10"),
        composed("size=0.1"),
        composed("size=10", "select=greedy"),
        composed("size=9", "seed=1"),
    ]
    found = [run_cell(cell, run_in(tmp_path)).result for cell in cells]
    assert asked == ["eap-ig", "eap-ig"]  # prompts of another seed have scores of their own
    assert found[0].seconds == found[1].seconds == found[2].seconds
    run_cell(composed("size=10", "method=clean-corrupted", "method.steps=5"), run_in(tmp_path))
    assert asked[2:] == ["clean-corrupted"]


def test_from_a_threshold_on(tmp_path: Path, finished: tuple[Path, CellConfig]) -> None:
    root, cell = finished
    circuit = Circuit.read(root / "cells" / cell.id / "circuit.json")
    scores = read_scores(root / "cells" / cell.id / SCORES, circuit.graph, cell)
    cut = abs(scores.values[scores.ranked()[59]])
    other = composed("select=threshold", f"threshold={cut!r}")
    assert "-t" in other.id
    run_cell(other, run_in(tmp_path))
    assert Circuit.read(tmp_path / "cells" / other.id / "circuit.json") == circuit


def test_a_damaged_cell_is_named_and_computed_anew(tmp_path: Path) -> None:
    cell = composed("size=20")
    folder = run_cell(cell, run_in(tmp_path)).folder
    before = (folder / "circuit.json").read_bytes()
    for name in (SCORES, "circuit.json"):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw.replace(b"a0.h0", b"a0.h1", 1))
        with pytest.raises(PahqError, match=f"{name} is damaged"):
            run_cell(cell, run_in(tmp_path))
        run_cell(cell, run_in(tmp_path, repair=True))
        assert (folder / "circuit.json").read_bytes() == before
        check_cell(folder, cell)


def test_shared_scores_that_are_damaged_are_not_taken_and_repair_makes_them_anew(tmp_path: Path) -> None:
    cell = composed("size=20")
    run_cell(cell, run_in(tmp_path))
    (shared,) = (tmp_path / "scores" / "nano-ioi").glob("*.json")
    before = read_sealed(shared)
    shared.write_text(shared.read_text()[:-40])  # cut
    check_cell(run_cell(composed("size=30"), run_in(tmp_path)).folder)
    assert read_sealed(shared)["scores"] == before["scores"]
    write_sealed(shared, before | {"scores": dict.fromkeys(before["scores"], 1.0)})  # whole, and wrong
    wrong = composed("size=40")
    run_cell(wrong, run_in(tmp_path))
    assert main(["verify", str(tmp_path / "cells" / wrong.id)]) == 1
    (tmp_path / "cells" / wrong.id / "result.json").unlink()
    run_cell(wrong, run_in(tmp_path, repair=True))
    assert main(["verify", str(tmp_path / "cells" / wrong.id)]) == 0


def test_verify_computes_the_scores_again(
    finished: tuple[Path, CellConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    root, cell = finished
    folder = root / "cells" / cell.id
    assert main(["verify", str(folder)]) == 0
    assert "1519 scores" in capsys.readouterr().out
    assert main(["verify", str(folder), "--dtype", "float64"]) == 0
    assert cell.id in capsys.readouterr().out
    assert main(["verify", str(folder), "--engine", "suffix"]) == 2
    assert "no search's engine" in capsys.readouterr().err


def test_faithfulness_ranks_edges_by_their_scores(tmp_path: Path) -> None:
    folder = run_cell(composed("size=40"), run_in(tmp_path)).folder
    assert main(["faithfulness", str(folder), "--no-progress"]) == 0
    curve = json.loads((folder / "faithfulness.json").read_text())["curve"]
    assert len(curve["faithfulness"]) == 10
    assert curve["faithfulness"][-1] == pytest.approx(1, abs=1e-4)


def test_its_stability_scores_resampled_prompts_once_for_all_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each circuit is the one that Python gives on those prompts; scores have no order that could be another."""
    cells = [composed(f"size={size}") for size in (60, 90)]
    for cell in cells:
        run_cell(cell, run_in(tmp_path))
    asked: list[object] = []
    monkeypatch.setattr(resampled, "scores_of", lambda *given: asked.append(given) or scored.scores_of(*given))
    found = measure_cells([cell.id for cell in cells], run_in(tmp_path), resamples=2, seeds=1)
    assert len(asked) == 3
    model, task = load(cells[0], "cpu")
    for cell, measured in zip(cells, found, strict=True):
        assert measured.values["orders"]["circuits"] == 0
        for number in range(2):
            prompts = resample(task.search, draw(4, cell.seed, number), copies=False)
            expected = scored.scores_of(cell, cell_problem(cell, model, prompts)).top(cell.size)
            kept = read_sealed(tmp_path / "cells" / cell.id / "stability" / f"resample-{number:03}.json")["edges"]
            assert tuple(kept) == expected.edges
    asked.clear()
    again = measure_cells([cell.id for cell in cells], run_in(tmp_path), resamples=2, seeds=1)
    assert [one.to_json() for one in again] == [one.to_json() for one in found]
    assert not asked


def test_the_stability_of_random_scores_is_refused(tmp_path: Path) -> None:
    cell = composed("method=random", "method.steps=5", "size=60")
    run_cell(cell, run_in(tmp_path))
    with pytest.raises(PahqError, match="method random draws scores from its seed"):
        check_finished([cell.id], run_in(tmp_path))


def test_scores_of_a_rounded_network_differ(tmp_path: Path, finished: tuple[Path, CellConfig]) -> None:
    root, cell = finished
    low = composed("size=60", "precision=int4")
    run_cell(low, run_in(tmp_path))
    graph = Circuit.read(tmp_path / "cells" / low.id / "circuit.json").graph
    mine = read_scores(tmp_path / "cells" / low.id / SCORES, graph, low)
    theirs = read_scores(root / "cells" / cell.id / SCORES, graph, cell)
    assert max(abs(a - b) for a, b in zip(mine.values, theirs.values, strict=True)) > 1e-4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["size=0"], "size: a number of edges (50) or a share of them (0.02) was expected, got 0"),
        (["size=-3"], "was expected, got -3"),
        (["size=1.5"], "was expected, got 1.5"),
        (["size=many"], "was expected, got 'many'"),
        (["size=true"], "a number was expected as size, not true"),
        (["size=5", "threshold=0.1"], "method eap-ig with select=top has a size and no threshold"),
        (["select=threshold"], "method eap-ig with select=threshold has a threshold and no size"),
        (["select=best"], "select"),
        (
            ["method=acdc", "method.steps=5", "size=5"],
            "method acdc has a threshold; size and select are of eap, eap-ig",
        ),
        (["method=acdc", "method.steps=3"], "method.steps and method.convention are of eap, eap-ig"),
        (["method=eap", "method.steps=5"], "whose gradient at the clean run is zero; take method=eap-ig"),
        (["audit=float64"], "audit=float64 is for the tests of a search; method eap-ig has none"),
        (["method.convention=eap-ig", "method.direct_edges=true"], "convention=eap-ig has no Direct edges"),
        (
            ["method.arithmetic=changes"],
            "arithmetic=changes is for low precision (method pahq or rtn-q); eap-ig has none",
        ),
        (["method=exact", "method.steps=9"], "method.steps says nothing to method exact"),
        (["engine=reference"], "engine says nothing to method eap-ig"),
        (
            ["engine.schedule=serial", "focus=receiver", "precision=int8"],
            "engine.schedule says nothing to method eap-ig",
        ),
        (["method.order=ascending"], "method.order says nothing to method eap-ig"),
        (["focus=sender"], "method eap-ig cannot have focus 'sender'"),
    ],
)
def test_bad_words_are_one_sentence(words: list[str], says: str) -> None:
    with pytest.raises(PahqError) as raised:
        composed(*words)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("run", "says"), [({"memory_gb": 4.0}, "run.memory_gb"), ({"store": "packed"}, "run.store=packed")]
)
def test_what_only_a_search_can_do_is_refused_before_anything_is_written(
    tmp_path: Path, run: dict[str, Any], says: str
) -> None:
    with pytest.raises(PahqError, match=f"{says} is for searches, and method eap-ig scores edges; leave it out"):
        run_cell(composed("size=40"), run_in(tmp_path, **run))
    assert list(tmp_path.iterdir()) == []


def test_addresses_of_searches_are_as_before_there_were_scores() -> None:
    assert compose_runs(["task=nano-ioi"])[0][0].id == "nano-ioi/pahq-int8-t0.01-f3497a76e50663fc"


@pytest.mark.parametrize("words", [("method=eap-ig", "method.steps=1", "size=60"), ("method=acdc", "threshold=0.3")])
def test_a_peak_counts_the_model_whatever_the_method(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or memory of methods that score could not be compared with a search's."""
    told: list[str] = []
    for where, name in ((run_module, "PeakMemory"), (run_module, "load"), (run_module, "open_model")):
        made = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, made=made, name=name, **k: told.append(name) or made(*a, **k))
    run_cell(compose_runs(["task=nano-ioi", "task.examples=4", *words])[0][0], run_in(tmp_path))
    assert told[0] == "PeakMemory"
    assert len(told) > 1
