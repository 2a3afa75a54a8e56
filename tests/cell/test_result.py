"""A result's one type: what is written reads back, and what is odd is one sentence that names file and field."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.made_cells import BAND, make_config, make_result

import pahq
from pahq.cell.files import read_result, write_result
from pahq.cell.result import SCHEMA, BandAudit, Float64Audit, Result
from pahq.errors import PahqError
from pahq.files.sealed import write_sealed

CONFIG = make_config("nano-induction", "acdc", "float32", 0.1)
CHECK = {
    **{"items": 4, "done": 0.5, "means": "the answer before all others", "among_top": None, "warning": None},
    "examples": [{"prompt": 0, "answer": " a", "top": [" b", " c"]}],
}
FLOAT64 = {"kind": "float64", "tests": 2, "flipped": ["m0->logits"], "worst_difference": 1e-9}
KINDS: list[dict[str, Any]] = [
    {},
    {"task_check": CHECK},
    {"certainty": {"audit": BAND}},
    {"certainty": {"audit": FLOAT64}},
    {"levels": "ab" * 32, "store": "packed", "fresh": {"faithfulness": None}},
]


@pytest.mark.parametrize("changes", KINDS)
def test_what_is_written_reads_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    written = write_result(tmp_path, make_result(CONFIG, **changes))
    assert read_result(tmp_path) == pahq.read_result(str(tmp_path)) == written
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == SCHEMA
    assert written.config == CONFIG


def test_an_audit_is_of_its_kind() -> None:
    band = make_result(CONFIG, certainty={"audit": BAND})
    other = make_result(CONFIG, certainty={"audit": FLOAT64})
    assert isinstance(band.band, BandAudit)
    assert other.band is make_result(CONFIG).band is None
    assert isinstance(other.certainty.audit, Float64Audit)


def test_a_result_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_result(CONFIG).kept = 3  # type: ignore[misc]


def changed(values: dict[str, Any], place: str, value: object) -> None:
    *parents, last = place.split(".")
    for parent in parents:
        values = values[parent]
    if value is ...:
        del values[last]
    else:
        values[last] = value


FAULTS: list[tuple[str, object, str]] = [
    # missing
    ("seconds", ..., "seconds: Field required"),
    ("fresh.kl", ..., "fresh.kl: Field required"),
    ("certainty.audit.share", ..., "certainty.audit.band.share: Field required"),
    ("config.task", ..., "config.task: Field required"),
    ("task_check.examples", ..., "task_check.examples: Field required"),
    # of another type
    ("seconds", "long", "seconds: Input should be a valid number (got 'long')"),
    ("kept", 2.5, "kept: Input should be a valid integer"),
    ("kept", True, "kept: Input should be a valid integer (got True)"),
    ("kept", -1, "kept: Input should be greater than or equal to 0 (got -1)"),
    ("fresh", [1], "fresh: a mapping was expected (got [1])"),
    ("config", None, "config: a mapping was expected (got None)"),
    ("resumed", "no", "resumed: Input should be a valid boolean (got 'no')"),
    ("store", "boxed", "store: Input should be 'packed' or 'plain' (got 'boxed')"),
    ("id", "", "id: String should have at least 1 character"),
    ("certainty.audit.kind", "ear", "certainty.audit: Input tag 'ear' found using 'kind' does not match any"),
    # unknown
    ("colour", 3, "unknown key 'colour'"),
    ("fresh.colour", 3, "unknown key 'fresh.colour'"),
    ("config.precision.colour", 3, "unknown key 'config.precision.colour'"),
]
NUMBERS = ("seconds", "set_up_seconds", "fresh.kl", "search.start", "certainty.noise", "certainty.audit.band")


@pytest.mark.parametrize(("place", "value", "words"), FAULTS)
def test_an_odd_field_is_one_sentence(tmp_path: Path, place: str, value: object, words: str) -> None:
    values = make_result(CONFIG, certainty={"audit": BAND}, task_check=CHECK).to_json()
    changed(values, place, value)
    write_sealed(tmp_path / "result.json", values)
    with pytest.raises(PahqError) as told:
        read_result(tmp_path)
    assert str(told.value).startswith(f"{tmp_path / 'result.json'} is not a whole result: {words}")
    assert str(told.value).endswith("; run.repair=true (or `pahq repair`) sets it aside and computes the cell anew")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", NUMBERS)
def test_every_number_is_finite(place: str, number: float) -> None:
    values = make_result(CONFIG, certainty={"audit": BAND}).to_json()
    changed(values, place, number)
    with pytest.raises(PahqError, match=rf"{place.split('.')[-1]}: Input should be a finite number"):
        Result.from_json(values, Path("result.json"))
