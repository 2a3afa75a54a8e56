"""Parsers of foreign text on texts of chance: each returns, or raises one sentence. A bounded time in all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.bad.foreign import GRAPH, KEPT
from support.bad.prompts import GOOD, table
from support.made_cells import make_config, make_result
from support.places import ROOT

from pahq.cell.files import read_result
from pahq.cell.journal import read_journal
from pahq.cell.result import Result
from pahq.cell.story import fault_of
from pahq.circuits.circuit import Circuit
from pahq.circuits.foreign import from_eap_ig, to_eap_ig
from pahq.config.promptfile import read_pairs
from pahq.errors import PahqError
from pahq.experiments.compose import parse_overrides
from pahq.files.sealed import write_sealed
from pahq.verify.bundle import read_bundle
from pahq.verify.bundledprompts import read

FUZZ = settings(max_examples=100, deadline=None, database=None, derandomize=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ODD = (b"9" * 30, b"NaN", b"null", b'"', b"[[", b"{}", b"\xff", b"-", b"\r\n", b"1e999")
GRAPH_TEXT = json.dumps(to_eap_ig(Circuit.from_indices(GRAPH, [0, 1]), [0.5] * len(GRAPH.edges), 4))
KEYS = st.sampled_from(("threshold", "task", "task.bos", "run.root", "seed", "-m", "~task", "+x", ""))
VALUE = st.text(st.sampled_from("ab1.,=[]{}()'\"\\$~+ :-\n\0\u00fc\ud800"), max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def told(call: Callable[[], object]) -> None:
    """Whatever is wrong is told in one sentence."""
    said = "nothing"
    try:
        call()
    except PahqError as error:
        said = str(error)
    assert said.strip()
    assert "\n" not in said, said


def spoilt(raw: bytes, seed: int) -> bytes:
    """Bytes with some changed, cut out or doubled."""
    rng, found = random.Random(seed), bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(4):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del found[at : at + rng.randint(1, 40)]
            case 2:
                found[at:at] = found[: rng.randint(1, 40)]
            case _:
                found[at:at] = rng.choice(
                    (b"9" * 30, b"NaN", b"null", b'"', b"[[", b"{}", b"\xff", b"-", b"\r\n", b"1e999")
                )
    return bytes(found)


@FUZZ
@given(KEYS, VALUE)
@example("", "5")
@example("task.name", "${")
def test_overrides(key: str, value: str) -> None:
    told(lambda: parse_overrides([f"{key}={value}"]))
    told(lambda: parse_overrides([value], sweep=True))


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_tables_of_prompts(suffix: str, folder: Path) -> None:
    names = ("clean", "corrupted", "answer", "wrong")
    lines = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in GOOD)
    good, path = (table(*GOOD) if suffix == "csv" else lines).encode(), folder / f"own.{suffix}"
    for seed in range(300):
        path.write_bytes(spoilt(good, seed))
        told(lambda: read_pairs(path))


@FUZZ
@given(VALUES)
@example("high")
def test_foreign_circuits(value: Any) -> None:
    told(lambda: from_eap_ig(value))
    for place in ("cfg", "edges", "cfg n_layers", "cfg n_heads", "cfg parallel_attn_mlp", "score", "in_graph"):
        values = json.loads(GRAPH_TEXT)
        edge = next(iter(values["edges"].values()))
        *above, key = place.split()
        (values["cfg"] if above else edge if key in edge else values)[key] = value
        told(lambda values=values: from_eap_ig(values))  # type: ignore[misc]


@FUZZ
@given(VALUES, st.integers(0, 2**32))
def test_prompts_of_bundles(value: Any, seed: int) -> None:
    told(lambda: read(value))
    tensor: dict[str, Any] = {"dtype": "int64", "rows": [[1, 2]]}
    prompts = {"clean": tensor, "corrupted": dict(tensor), "items": dict(tensor), "position_order": None, "targets": {}}
    values: dict[str, Any] = {"task": "t", "metric": "kl", "search": prompts, "fresh": dict(prompts)}
    part = random.Random(seed).choice([values, prompts, tensor])
    part[random.Random(seed).choice(sorted(part))] = value
    told(lambda: read(values))


def test_bundles(folder: Path) -> None:
    good, path = (KEPT / "scores-0.2.0.zip").read_bytes(), folder / "b.zip"
    for seed in range(300):
        raw = spoilt(good, seed)
        path.write_bytes(raw)
        if raw != good:
            with pytest.raises(PahqError, match="is no whole bundle"):
                read_bundle(path)


def test_journals(folder: Path) -> None:
    line = {"i": 0, "edge": "a", "before": 0.0, "after": 0.5, "removed": False, "seconds": 0.1}
    more = {"audited": True, "low": [0.0, 0.5], "rough": [0.0, 0.4], "drift": 1e-9}
    good = "".join(json.dumps(line | {"i": i} | (more if i == 2 else {})) + "\n" for i in range(4)).encode()
    cell, path = make_config("nano-induction", "acdc", "float32", 0.1), folder / "decisions.jsonl"
    for seed in range(500):
        path.write_bytes(spoilt(good, seed))
        lines = read_journal(path)
        assert [one.i for one in lines] == list(range(len(lines)))
        fault_of(cell, lines)


@FUZZ
@given(VALUES, st.integers(0, 2**32))
def test_results(folder: Path, value: Any, seed: int) -> None:
    """Sealed anew, since the seal would tell of any change."""
    values = make_result(make_config("nano-induction", "acdc", "float32", 0.1)).to_json()
    parts = [values, values["config"], values["certainty"], values["fresh"], values["config"]["task"]]
    part = random.Random(seed).choice(parts)
    part[random.Random(seed).choice(sorted(part))] = value
    try:
        write_sealed(folder / "result.json", values)
    except ValueError:  # JSON has no word for what is no number, and text none for half a character
        return
    told(lambda: read_result(folder))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="make fuzz installs atheris")
def test_every_parser_withstands_atheris_for_a_second() -> None:
    command = [sys.executable, "-m", "support.coverage_fuzz", "1"]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_results_by_their_bytes(folder: Path) -> None:
    result = make_result(make_config("nano-induction", "acdc", "float32", 0.1))
    good = json.dumps({key: value for key, value in result.to_json().items() if key != "schema"}).encode()
    for seed in range(200):
        try:
            values = json.loads(spoilt(good, seed))
        except ValueError:
            continue
        if isinstance(values, dict):
            told(lambda values=values: Result.from_json(values, folder / "result.json"))  # type: ignore[misc]
