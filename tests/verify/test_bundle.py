"""Bundles: written from cells, the same bytes each time, and read only if they are whole."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import changed, finish, forged

import pahq
from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.files.archive import unpack
from pahq.tasks.task import Prompts, Task, last_items
from pahq.verify.bundle import ABOUT, KNOWN, PROMPTS, VERSION, bundle, read_bundle
from pahq.verify.bundledprompts import alike, read, told


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(tmp_path_factory.mktemp("cell"), "task=tracr-reverse", "method=acdc", "threshold=0.1")


@pytest.fixture(scope="module")
def made(cell: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(cell, tmp_path_factory.mktemp("made") / "cell.zip").path


def test_a_cell_makes_the_same_bytes_whenever_and_wherever(cell: Path, made: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(cell, tmp_path / "elsewhere"))
    again = bundle(moved, tmp_path / "deep" / "again.ZIP")
    assert again.path.read_bytes() == made.read_bytes()
    assert [path.name for path in again.path.parent.iterdir()] == ["again.ZIP"]


def test_a_bundle_holds_the_cell_and_says_what_it_claims(cell: Path, made: Path) -> None:
    files, result = unpack(made, KNOWN), pahq.read_result(cell)
    assert next(iter(files)) == ABOUT
    for name in ("config.json", "provenance.json", "decisions.jsonl", "circuit.json", "result.json"):
        assert files[name] == (cell / name).read_bytes()
    about = json.loads(files[ABOUT])
    assert (about["id"], about["kind"], about["version"]) == (result.id, "search", VERSION)
    assert about["claim"]["kept"] == result.kept
    assert about["model"] == {
        **{"name": "tracr-reverse", "source": "tracr-reverse", "revision": None},
        **{"sha256": hashlib.sha256(files["model/model.safetensors"]).hexdigest(), "included": True},
    }
    assert about["margins"]["smallest_margin"] > 0
    assert about["files"].keys() == files.keys() - {ABOUT}
    found = read_bundle(made)
    assert str(found).startswith(f"{made}: {result.id}, 0.09 MiB, ")
    assert "its model included; `pahq verify cell.zip` checks it anywhere" in str(found)


def test_the_command_answers_in_words_and_in_json(
    cell: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.zip"
    assert main(["bundle", str(cell), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{read_bundle(out)}\n"
    assert main(["bundle", str(cell), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sha256"] == hashlib.sha256(made.read_bytes()).hexdigest()
    assert (told["path"], told["model_included"], told["files"][0]) == (str(out), True, ABOUT)


@pytest.mark.parametrize(
    ("spoil", "out", "sentence"),
    [
        (lambda cell: None, "c.tar", "--out c.tar: a bundle is a ZIP file; end the name in .zip"),
        (lambda cell: (cell / "result.json").unlink(), "c.zip", "result.json does not exist"),
        (lambda cell: (cell / "circuit.json").write_text("{}"), "c.zip", "circuit.json is damaged"),
        (lambda cell: shutil.rmtree(cell), "c.zip", "does not exist"),
    ],
)
def test_what_cannot_be_bundled_is_told_and_nothing_is_written(
    cell: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    out: str,
    sentence: str,
) -> None:
    own = Path(shutil.copytree(cell, tmp_path / "cells" / "cell"))
    spoil(own)
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", str(own), "--out", out]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
    assert not (tmp_path / out).exists()


def without(name: str) -> Callable[[dict[str, bytes]], object]:
    return lambda files: files.pop(name)


def about(**changes: Any) -> Callable[[dict[str, bytes]], object]:
    def change(files: dict[str, bytes]) -> None:
        files[ABOUT] = json.dumps(json.loads(files[ABOUT]) | changes).encode()

    return change


def content(name: str, raw: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda files: files.update({name: raw})


def prompts(**changes: Any) -> Callable[[dict[str, bytes]], object]:
    def change(files: dict[str, bytes]) -> None:
        files[PROMPTS] = json.dumps(json.loads(files[PROMPTS]) | changes).encode()

    return change


SPOILT = [  # with the digests left as they were, and with new ones
    (about(format="zip"), False, "its bundle.json is of the format 'zip', version 1"),
    (about(version=0), False, "its bundle.json is of the format 'pahq-bundle', version 0"),
    (about(version=True), False, "version True"),
    (about(version=99), False, "is a bundle of version 99, and this pahq reads version 1; take a newer pahq"),
    (about(files=[]), False, "bundle.json is not what bundle.json names by its sha256"),
    (about(claim={}), False, None),  # it says less, and all of that is so
    (about(claim={"kept": 3}), False, "bundle.json claims what its other files do not say"),
    (about(id="other/cell"), False, "bundle.json claims what its other files do not say"),
    (content(ABOUT, b"{"), False, "it has no bundle.json that says what it is"),
    (content(ABOUT, b"[" * 100_000), False, "it has no bundle.json that says what it is"),
    (content(ABOUT, b"[]"), False, "it has no bundle.json that says what it is"),
    (content(ABOUT, b"\xff"), False, "it has no bundle.json that says what it is"),
    (without(ABOUT), False, "it has no bundle.json that says what it is"),
    (content("circuit.json", b"{}"), False, "circuit.json is not what bundle.json names by its sha256"),
    (without("circuit.json"), False, "circuit.json is not what bundle.json names by its sha256"),
    (content("scores.json", b"{}"), False, "scores.json is not what bundle.json names by its sha256"),
    (without("circuit.json"), True, "circuit.json is damaged: it is gone"),
    (without("result.json"), True, "result.json does not exist"),
    (content("circuit.json", b"{}"), True, "circuit.json is damaged: its sha256 is not the one that the result names"),
    (content("result.json", b"{}"), True, "result.json is damaged: it has no whole seal at its end"),
    (without(PROMPTS), True, "it lacks prompts.json"),
    (content(PROMPTS, b"{"), True, "prompts.json is not readable JSON"),
    (content(PROMPTS, b"[" * 100_000), True, "is no whole bundle"),
    (prompts(search=5), True, "its prompts cannot be read"),
    (prompts(search={}), True, "its prompts lack the entry 'clean'"),
    (without("model/config.json"), True, "bundle.json claims what its other files do not say"),
    (without("model/model.safetensors"), True, "of its model, model/model.safetensors"),
    (content("model/model.safetensors", b"\x10"), True, "of its model, model/model.safetensors"),
    (content("model/config.json", b"{}"), True, "of its model, model/config.json describes no model"),
]


@pytest.mark.parametrize(("spoil", "sealed", "sentence"), SPOILT, ids=range(len(SPOILT)))
def test_a_spoilt_bundle_is_told_in_one_sentence(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, bytes]], object],
    sealed: bool,
    sentence: str | None,
) -> None:
    path = changed(made, tmp_path / "spoilt.zip", spoil, sealed=sealed)
    status = main(["verify", str(path), "--sample", "1"])
    shown = capsys.readouterr()
    if sentence is None:
        assert (status, shown.err) == (0, "")
        return
    assert status == 2
    assert shown.err.startswith(f"pahq: error: {path}")
    assert sentence in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
    assert "/tmp/pahq-bundle-" not in shown.err


def test_flipped_and_cut_bundles_are_told(made: Path, tmp_path: Path) -> None:
    raw, path = made.read_bytes(), tmp_path / "spoilt.zip"
    for part in range(20):
        at = part * len(raw) // 20
        for spoilt in (raw[:at], raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]):
            path.write_bytes(spoilt)
            with pytest.raises(PahqError, match="is no whole bundle"):
                read_bundle(path)


TASK = Task(
    "t",
    Prompts(torch.tensor([[1, 2]]), torch.tensor([[3, 4]]), last_items(1, 2), {"sign": torch.eye(1, 2000) * -0.1}),
    Prompts(torch.tensor([[5]]), torch.tensor([[6]]), last_items(1, 1), {}, torch.tensor([0])),
    "prob_diff",
)


def test_prompts_come_back_as_they_were() -> None:
    values = json.loads(json.dumps(told(TASK)))
    assert values["search"]["targets"]["sign"]["at"] == [0]  # most of it is nought
    found = read(values)
    assert alike(found, TASK)
    assert torch.equal(found.search.targets["sign"], TASK.search.targets["sign"])
    assert found.fresh.position_order is not None


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        (("search", "clean", "rows"), [[0.5, 1]], "are not those that would be written"),
        (("search", "clean", "rows"), [[1], [1, 2]], "cannot be read"),
        (("search", "clean", "rows"), [[2**80, 1]], "cannot be read"),
        (("search", "clean", "dtype"), "bfloat16", "lack the entry 'bfloat16'"),
        (("search", "targets", "sign", "shape"), [10**6, 10**6], "a tensor of shape"),
        (("search", "targets", "sign", "shape"), [-1, -2000], "a tensor of shape"),
        (("search", "targets", "sign", "at"), [2000], "cannot be read"),
        (("search", "corrupted", "rows"), [[3]], "clean prompts have shape [1, 2], corrupted ones [1, 1]"),
        (("metric",), 5, "task and metric are names"),
        (("more",), 5, "are not those that would be written"),
    ],
)
def test_prompts_that_are_none_are_told(where: tuple[str, ...], value: Any, sentence: str) -> None:
    values = json.loads(json.dumps(told(TASK)))
    at = values
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    with pytest.raises(PahqError, match=re.escape(sentence)):
        read(values)


def test_a_forger_seals_as_the_package_does(made: Path, tmp_path: Path) -> None:
    """Else the tests above would see the seal alone."""
    path = changed(made, tmp_path / "same.zip", lambda files: None, sealed=True)
    assert path.read_bytes() == made.read_bytes()
    assert forged(made, tmp_path / "same.zip").read_bytes() == made.read_bytes()
