"""Claims: those of every method hold where they are true, and each way of changing one is noticed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.bundles import changed, finish, forged
from support.places import ROOT

import pahq
from pahq.__main__ import main
from pahq.cell.files import SCORES
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.text import dump_json
from pahq.model import save_model
from pahq.verify import claim as claims
from pahq.verify.bundle import PROMPTS, bundle
from pahq.verify.claim import verify_bundle
from pahq.verify.claimed import Claim
from pahq.verify.redecide import chosen_tests

KEPT = sorted((ROOT / "tests" / "files" / "bundles").glob("*.zip"))
SMALL = ("task=tracr-proportion", "task.examples=4")
NANO = ("task=nano-ioi", "task.examples=2", "threshold=1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    return bundle(finish(root, *SMALL, "method=acdc", "threshold=0.05"), root / "cell.zip").path


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_bundle_of_an_earlier_version_holds(path: Path) -> None:
    found = verify_bundle(path)
    assert found.first is None
    assert found.equal == found.checked == found.tests > 0


def test_bundles_are_kept() -> None:
    assert {path.stem for path in KEPT} >= {"search-0.2.0", "scores-0.2.0", "changes-0.2.0"}


@pytest.mark.parametrize(
    "words",
    [
        (*SMALL, "method=acdc", "threshold=0.001", "engine.dtype=float64"),
        (*SMALL, "method=acdc", "threshold=0.01", "engine.doubts=leave", "method.absolute=true"),
        ("task=tracr-reverse", "method=pahq", "precision=int4", "threshold=0.1", "focus=both", "engine=reference"),
        (*NANO, "method=pahq", "precision=int4", "audit=band"),
        (*NANO, "method=pahq", "precision=int8", "precision.rounding=calibrated", "method.order=ascending"),
        # at losses of many nats float32 is off by more than is asked for below, on some processors
        (*NANO[:2], "threshold=0.2", "method=pahq-changes", "precision=fp8", "audit=band", "method.round=8"),
        (*NANO, "method=rtn-q", "precision=int4", "task.ablation=mean", "audit=float64"),
        ("task=tracr-reverse", "method=acdc", "threshold=1e-6", "method.direct_edges=false", "method.senders=farthest"),
    ],
    ids=" ".join,
)
def test_a_search_of_any_kind_holds(words: tuple[str, ...], tmp_path: Path) -> None:
    found = verify_bundle(bundle(finish(tmp_path, *words), tmp_path / "c.zip").path, sample=30)
    assert found.first is None, found.first
    assert found.equal == found.checked == min(30, found.tests) > 0
    assert found.at_risk == 0
    assert found.worst < 1e-5


@pytest.mark.parametrize(
    ("words", "by"),
    [
        ("method=eap-ig size=5", "the method's own code in float32"),
        ("method=exact size=5", "the reference engine in float64"),
        ("method=exact size=5 precision=int8 audit=band", "the method's own code in float32"),
        ("method=sp size=5 method.training.steps=5 engine.dtype=float64", "the method's own code in float64"),
    ],
)
def test_scores_of_any_kind_hold(words: str, by: str, tmp_path: Path) -> None:
    found = verify_bundle(bundle(finish(tmp_path, *SMALL, *words.split()), tmp_path / "c.zip").path)
    assert (found.first, found.kind, found.by) == (None, "scores", by)
    assert found.equal == found.checked == found.tests > 0
    assert f"all {found.tests} scores came out alike by {by}" in str(found)


def test_a_sample_is_drawn_by_its_seed_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen_tests(10, 3, 0) == {2, 4, 6}
    assert chosen_tests(10, 3, 1) != chosen_tests(10, 3, 0) < chosen_tests(10, 4, 0)
    assert chosen_tests(10, None, 0) == chosen_tests(10, 10, 5) == set(range(10))
    assert main(["verify", str(made), "--sample", "5", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "the claim holds: a sample of 5 of " in told
    assert "with 95% confidence at most 45.07% of all would not" in told  # 1 - 0.05 ** (1 / 5)
    assert main(["verify", str(made), "--sample", "5", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert (told["agrees"], told["checked"], told["seed"], told["confidence"]) == (True, 5, 0, 0.95)
    assert told["could_differ"] == pytest.approx(1 - 0.05 ** (1 / 5))
    assert main(["verify", str(made)]) == 0
    assert "the claim holds: all " in capsys.readouterr().out


def test_a_claim_is_told_in_one_line() -> None:
    held = Claim("a", "search", tests=9, edges=20, kept=3, checked=9, equal=9, worst=1e-7, margin=0.5)
    end = "the circuit of 3 of 20 edges and its fresh prompts are as said"
    assert str(held) == (
        "a: the claim holds: all 9 tests came out alike by the reference engine in float64, worst difference of an "
        f"effect 1.0e-07, smallest margin to the threshold 5.0e-01, {end}"
    )
    assert ", but for 2 that the cell itself calls at risk," in str(replace(held, at_risk=2))
    assert str(replace(held, notes=("so",))).endswith(f"{end} (so)")
    failed = replace(held, first="it differs", before="elsewhere; ")
    assert str(failed) == "a: the claim does NOT hold: elsewhere; it differs"
    assert (failed.holds, failed.to_json()["first"]) == (False, "elsewhere; it differs")


def journal(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[dict[str, bytes]], object]:
    def changing(files: dict[str, bytes]) -> None:
        lines = [json.loads(line) for line in files["decisions.jsonl"].splitlines()]
        change(lines)
        kept = [line["edge"] for line in lines if not line["removed"]]
        circuit = json.loads(files["circuit.json"])
        circuit["edges"] = [edge for edge in circuit["edges"] if edge in kept]
        files["circuit.json"] = dump_json(circuit).encode()
        files["decisions.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()

    return changing


def stronger(lines: list[dict[str, Any]]) -> None:
    line = next(line for line in lines if not line["removed"])
    line["after"] += 0.25


def gone(lines: list[dict[str, Any]]) -> None:
    line = [line for line in lines if not line["removed"]][-1]
    line.update(after=line["before"], removed=True)


def cut(lines: list[dict[str, Any]]) -> None:
    while lines[-1]["removed"]:
        lines.pop()


def swapped(lines: list[dict[str, Any]]) -> None:
    one, other = next(pair for pair in pairwise(lines) if pair[0]["removed"] and pair[1]["removed"])
    one["edge"], other["edge"] = other["edge"], one["edge"]


def counted(**changes: Any) -> Callable[[dict[str, Any]], object]:
    def change(values: dict[str, Any]) -> None:
        for key, value in changes.items():
            values[key] = value(values[key]) if callable(value) else value

    return change


def nothing(of: Any) -> None:
    """Leaves files or a result as they are."""


FORGED = {
    "an effect": (journal(stronger), nothing, r"the search's losses|has effect .*, the bundle says"),
    "a decision": (
        journal(gone),
        counted(kept=lambda n: n - 1),
        r"test \d+ of \S+ kept it \(effect .*\), the bundle says removed \(0\)|losses",
    ),
    "fewer tests": (journal(cut), counted(tests=lambda n: n - 1), "the journal ends before the test of|losses"),
    "another order": (
        journal(swapped),
        nothing,
        r"the recorded decision \d+ is not this search's test \d+ of",
    ),
    "an audit": (journal(lambda lines: lines[0].update(audited=True)), nothing, "was audited, where audit=none has it"),
    "losses": (
        nothing,
        counted(search=lambda of: of | {"smallest_margin": 7.0}),
        "says of the search's losses what the",
    ),
    "a count": (nothing, counted(kept_cleaned=99), r"kept_cleaned of the circuit is \d+, the bundle says 99"),
    "kl": (
        nothing,
        counted(fresh=lambda of: of | {"kl": of["kl"] + 0.01}),
        "on fresh prompts kl is .*, the bundle says",
    ),
    "faithfulness": (
        nothing,
        counted(fresh=lambda of: of | {"faithfulness": 0.99}),
        "faithfulness is .* by the bundle's own",
    ),
    "a metric": (
        nothing,
        counted(fresh=lambda of: of | {"metric": "kl"}),
        "on fresh prompts metric is mse, the bundle says kl",
    ),
    "settings": (
        lambda files: files.update({"config.json": files["config.json"].replace(b'"seed": 0', b'"seed": 1')}),
        nothing,
        "config.json and provenance.json are not of the result's cell",
    ),
    "no provenance": (
        lambda files: files.update({"provenance.json": b"[]"}),
        nothing,
        "config.json and provenance.json are not of the result's cell",
    ),
    "no certainty": (nothing, counted(certainty=None), "says nothing of how certain the search's decisions are"),
    "provenance": (
        lambda files: files.update({"provenance.json": b'{"model": "00"}'}),
        nothing,
        "config.json and provenance.json are not of the result's cell",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_false_claim_does_not_hold(name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, result, sentence = FORGED[name]
    path = forged(made, tmp_path / "forged.zip", change, result)
    assert main(["verify", str(path)]) == 1
    shown = capsys.readouterr()
    assert ": the claim does NOT hold: " in shown.out
    assert re.search(sentence, shown.out), shown.out
    assert (shown.out.count("\n"), shown.err) == (1, "")
    assert main(["verify", str(path), "--json"]) == 1
    [told] = json.loads(capsys.readouterr().out)
    assert told["agrees"] is False


class _Anything:
    """What equals whatever it is compared with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


@pytest.fixture
def summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a forger had forged the summaries to fit, which the rows above do not."""
    monkeypatch.setattr(claims, "losses", lambda cell, decisions: _Anything())
    monkeypatch.setattr(claims, "_summary_fault", lambda *of: None)
    monkeypatch.setattr(claims, "_fresh_fault", lambda *of: None)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("an effect", "has effect"), ("a decision", "kept it (effect"), ("fewer tests", "ends before")],
)
def test_a_forged_journal_is_found_by_deciding_again(
    name: str, sentence: str, made: Path, tmp_path: Path, summed_up: None
) -> None:
    change, result, _ = FORGED[name]
    assert sentence in (verify_bundle(forged(made, tmp_path / "forged.zip", change, result)).first or "")


def test_noise_excuses_no_more_tests_than_the_cell_says(made: Path, tmp_path: Path, summed_up: None) -> None:
    for at_risk, holds in ((0, False), (1, True)):
        noisy = {"noise": 1e3, "at_risk": at_risk}
        path = forged(
            made,
            tmp_path / f"{at_risk}.zip",
            journal(gone),
            counted(kept=lambda n: n - 1, certainty=noisy.__ror__),
        )
        found = verify_bundle(path)
        assert (found.holds, found.at_risk) == (holds, at_risk)


def test_other_weights_in_it_are_told(made: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        raw = bytearray(files["model/model.safetensors"])
        raw[-1] ^= 1
        files["model/model.safetensors"] = bytes(raw)

    path = changed(made, tmp_path / "other.zip", change, sealed=True)
    with pytest.raises(PahqError, match=r"own model has weights of sha256 .*, and the claim is of"):
        verify_bundle(path)


def other_prompts(files: dict[str, bytes]) -> None:
    values = json.loads(files[PROMPTS])
    for name in ("clean", "corrupted"):
        values["search"][name]["rows"].reverse()
    files[PROMPTS] = dump_json(values).encode()


def test_other_prompts_are_told(made: Path, tmp_path: Path) -> None:
    path = forged(made, tmp_path / "same.zip", other_prompts)
    with pytest.raises(PahqError, match="its prompts are not those of task tracr-proportion and seed 0"):
        verify_bundle(path)
    earlier = counted(versions=lambda of: of | {"pahq": "0.1.0"})  # which may have drawn others
    found = verify_bundle(forged(made, tmp_path / "earlier.zip", other_prompts, earlier))
    assert found.first is None  # the same prompts in another order: every mean is the same
    assert "draws other prompts for task tracr-proportion; the bundle's own were taken)" in str(found)


def test_no_more_prompts_are_drawn_than_there_are(made: Path, tmp_path: Path) -> None:
    def many(values: dict[str, Any]) -> None:
        values["config"]["task"]["examples"] = 10**9
        values["id"] = CellConfig.model_validate(values["config"]).id

    with pytest.raises(PahqError, match="it has 4 prompts where its task has 1000000000 examples"):
        verify_bundle(forged(made, tmp_path / "many.zip", result=many))


def test_what_is_no_path_is_told() -> None:
    for call in (lambda: bundle(5, "c.zip"), lambda: bundle("cell", None), lambda: verify_bundle(None)):  # type: ignore[arg-type]
        with pytest.raises(PahqError, match=r"expected, not (int|NoneType)"):
            call()


def test_a_table_of_ones_own_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Edith Jonas Greta Boris", "Leon Selma Ulf Irma", "Noor Felix Kira Simon", "Edith Leon Greta Ulf")
    rows = []
    for a, b, c, d in (name.split() for name in names):
        end = "went to the market . {} gave a ribbon to"
        rows.append(f'"Then , {a} and {b} {end.format(b)}","Then , {c} and {d} {end.format("Wanda")}",{a},{b}')
    table = tmp_path / "own.csv"
    table.write_text("\n".join(["clean,corrupted,answer,wrong", *rows]))
    cell = finish(tmp_path, "task=own", f"task.prompts={table}", "model=nano", "method=acdc", "threshold=1")
    path = bundle(cell, tmp_path / "own.zip").path
    table.unlink()
    monkeypatch.chdir(tmp_path)
    found = verify_bundle(path, sample=10)
    assert found.first is None
    shutil.move(path, tmp_path / "moved.zip")
    spoilt = changed(
        tmp_path / "moved.zip",
        path,
        lambda files: files.update({"prompts.csv": files["prompts.csv"].replace(b"ribbon", b"kettle")}),
        sealed=True,
    )
    with pytest.raises(PahqError, match=r"its task cannot be set up here: prompts\.csv has changed"):
        verify_bundle(spoilt)
    with pytest.raises(PahqError, match=r"it lacks prompts\.csv"):
        verify_bundle(changed(tmp_path / "moved.zip", path, lambda files: files.pop("prompts.csv"), sealed=True))
    with pytest.raises(PahqError, match=r"own\.csv"):  # the table is gone, so it can be bundled no more
        bundle(cell, tmp_path / "again.zip")


def test_a_model_that_is_elsewhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "weights"
    save_model(pahq.load_model("tracr-proportion"), folder)
    cell = finish(tmp_path, *SMALL, f"model.source={folder}", "method=acdc", "threshold=0.05")
    found = bundle(cell, tmp_path / "c.zip")
    assert not found.has_model
    assert "its model by sha256" in str(found)
    assert main(["verify", str(found.path)]) == 0
    capsys.readouterr()
    moved = folder.rename(tmp_path / "moved")
    assert main(["verify", str(found.path)]) == 2
    assert "(--model says where it is)" in capsys.readouterr().err
    assert main(["verify", str(found.path), "--model", str(moved)]) == 0
    assert ": the claim holds: " in capsys.readouterr().out
    assert main(["verify", str(found.path), "--model", "tracr-reverse"]) == 2
    assert "tracr-reverse has weights of sha256" in capsys.readouterr().err


def test_changed_scores_do_not_hold(tmp_path: Path) -> None:
    path = bundle(finish(tmp_path, *SMALL, "method=exact", "size=5"), tmp_path / "c.zip").path

    def change(files: dict[str, bytes]) -> None:
        from pahq.files.sealed import read_sealed, write_sealed

        file = tmp_path / SCORES
        file.write_bytes(files[SCORES])
        values = read_sealed(file)
        weakest = min(values["scores"], key=lambda edge: abs(values["scores"][edge]))
        values["scores"][weakest] += 1e-3 * max(map(abs, values["scores"].values()))
        write_sealed(file, values)
        files[SCORES] = file.read_bytes()

    found = verify_bundle(forged(path, tmp_path / "forged.zip", change))
    assert re.search(r"\S+ scored \S+, the bundle says ", found.first or "")
    assert found.equal == found.checked - 1
    assert verify_bundle(path, sample=3).checked == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{}", "--engine", "suffix"], "decided by the reference engine in float64: leave --engine out"),
        (["{}", "--dtype", "float32"], "leave --dtype out"),
        (["{}", "--sample", "0"], "--sample is a number of tests from 1 on, not 0"),
        (["{}", "--seed", "1"], "--seed draws a sample: say --sample N too"),
        (["{}", "--model", "nano"], "includes its model, so that none is to be given"),
        (["{}", "--device", "quantum"], "device 'quantum' is not available"),
        (["nowhere.zip"], "nowhere.zip does not exist"),
        (["tests", "--sample", "5"], "--sample is for a bundle (FILE.zip), and tests is none; leave it out"),
        (["tests", "--model", "nano"], "--model is for a bundle"),
        (["README.md"], "is no whole bundle: it is no ZIP file"),
    ],
)
def test_what_is_typed_wrongly_is_told(
    made: Path,
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["verify", *(word.format(made) for word in words)]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_scores_that_come_all_at_once_have_no_sample(tmp_path: Path) -> None:
    path = bundle(finish(tmp_path, *SMALL, "method=eap-ig", "size=5"), tmp_path / "c.zip").path
    with pytest.raises(PahqError, match="method eap-ig gives all scores at once"):
        verify_bundle(path, sample=5)
    with pytest.raises(PahqError, match="a number of tests from 1 on was expected"):
        verify_bundle(path, sample=0)
