"""A look at the set-up: one line a thing, the rest is looked at whatever is wrong, and a fault is an exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pahq.__main__ import main
from pahq.errors import nearest, unknown
from pahq.precision import formats
from pahq.search import start
from pahq.search.acdc import Decision

LOOKED = ["packages", "torch", "device", "results", "formats", "tracking", "hub", "exactness"]


def looked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    status = main(["doctor", "--json", *words])
    found = json.loads(capsys.readouterr().out)
    assert [look["what"] for look in found] == LOOKED
    return status, {look["what"]: look for look in found}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_sound_set_up_has_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = looked(capsys, "--root", str(tmp_path / "not" / "there"))
    assert status == 0
    assert not [look for look in found.values() if look["state"] == "fault"]
    assert "decided alike by both engines" in found["exactness"]["sentence"]
    assert "disabled" in found["tracking"]["sentence"]  # as the tests have it
    assert "HF_HUB_OFFLINE" in found["hub"]["sentence"]
    assert not (tmp_path / "not").exists()  # it looks, and leaves nothing


def test_what_is_wrong_is_told_and_the_rest_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(formats, "round_trip", lambda weight, form: 2 * weight)

    def other(*given: object, **more: object) -> Sequence[Decision]:
        found = list(real(*given, **more))  # type: ignore[arg-type]
        return found[: len(found) - (type(given[0]).__name__ == "SuffixEngine")]

    real = start.search_by
    monkeypatch.setattr(start, "search_by", other)
    status, found = looked(capsys, "--root", str(tmp_path))
    assert status == 1
    assert [what for what, look in found.items() if look["state"] == "fault"] == ["formats", "exactness"]
    assert "the fast engine decides otherwise than the reference engine" in found["exactness"]["sentence"]


def test_an_error_is_a_fault_and_no_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str) -> list[str]:
        raise RuntimeError("no\nmetadata")

    monkeypatch.setattr("pahq.verify.doctor.requires", broken)
    status, found = looked(capsys)
    assert status == 1
    assert found["packages"]["sentence"] == "RuntimeError: no metadata"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["tabels"], "'tables'"),
        (["treshold=0.1"], "'threshold'"),
        (["task=nano-io"], "'nano-ioi'"),
        (["task=tracr-reverse", "task.exmples=3"], "'examples'"),
        (["evaluate", "defualt"], "'default'"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(
    typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert told.endswith(f"; did you mean {meant}?\n")
    assert told.count("\n") == 1


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert nearest("xyzzy", ["acdc", "pahq"]) == ""
    assert (
        str(unknown("method", "pahk", ["acdc", "pahq"]))
        == "unknown method 'pahk'; known: acdc, pahq; did you mean 'pahq'?"
    )
