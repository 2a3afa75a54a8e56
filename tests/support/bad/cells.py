"""Cells that are damaged, unfinished or somebody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from support.bad.row import Make, Row

AGAIN = "task=tracr-proportion task.examples=4 method=acdc threshold=0.05 run.root=given"


def cell(given: Path) -> Path:
    """A finished cell's copy; the test puts the original where this finds it."""
    folder = given / "cells" / "tracr-proportion"
    folder.mkdir(parents=True)
    original = Path(os.environ["BAD_INPUT_CELL"])
    return Path(shutil.copytree(original, folder / original.name))


def spoilt(name: str, content: bytes | None = None, change: Callable[[bytes], bytes] | None = None) -> Make:
    def make(given: Path) -> None:
        path = cell(given) / name
        raw = path.read_bytes()
        path.unlink()
        if change is not None:
            path.write_bytes(change(raw))
        elif content is not None:
            path.write_bytes(content)

    return make


def unfinished(name: str, change: Callable[[bytes], bytes]) -> Make:
    def make(given: Path) -> None:
        folder = cell(given)
        (folder / "result.json").unlink()
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return make


def linked(target: str) -> Make:
    def make(given: Path) -> None:
        folder = cell(given)
        shutil.rmtree(folder)
        folder.symlink_to(target)

    return make


def flipped(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]


def other_loss(raw: bytes) -> bytes:
    first, *rest = raw.splitlines(keepends=True)
    values = json.loads(first)
    return (
        json.dumps(values | {"after": values["before"] + (1 if values["removed"] else 0)}).encode()
        + b"\n"
        + b"".join(rest)
    )


FILES = ("config.json", "provenance.json", "decisions.jsonl", "circuit.json", "result.json")
CELLS: list[tuple[str, Make, str, str]] = [
    *(
        (f"a flipped bit in {name}", spoilt(name, change=flipped), "verify $CELL", f"{name} is damaged: its")
        for name in FILES
    ),
    *((f"without {name}", spoilt(name), "show $CELL", f"{name} is damaged: it is gone") for name in FILES[:-1]),
    (
        "the same words on a flipped bit",
        spoilt("circuit.json", change=flipped),
        AGAIN,
        "circuit.json is damaged: its sha256 is not the one that the",
    ),
    (
        "the same words on an empty result",
        spoilt("result.json", b""),
        AGAIN,
        "result.json is damaged: it has no whole seal at its end",
    ),
    (
        "the same words on a result in depth",
        spoilt("result.json", b"[" * 100_000),
        AGAIN,
        "result.json is damaged: it has no whole seal at its end",
    ),
    (
        "a result of a later schema",
        spoilt("result.json", b'{"schema": 99}'),
        AGAIN,
        "result.json is not a result of schema 3, which this version",
    ),
    (
        "another model's journal",
        unfinished("provenance.json", lambda raw: raw.replace(b'"model": "', b'"model": "0')),
        AGAIN,
        "holds the journal of another run (provenance.json differs)",
    ),
    (
        "another version's journal",
        unfinished("provenance.json", lambda raw: raw.replace(b"0.2.0", b"0.0.1")),
        AGAIN,
        "holds the journal of another run (provenance.json differs)",
    ),
    (
        "another cell's journal",
        unfinished("config.json", lambda raw: raw.replace(b"0.05", b"0.06")),
        AGAIN,
        "holds the journal of another run (config.json differs); move",
    ),
    (
        "a journal without its configuration",
        unfinished("config.json", lambda raw: b"{"),
        AGAIN,
        "config.json is not readable JSON: Expecting property name",
    ),
    (
        "a journal that contradicts itself",
        unfinished("decisions.jsonl", other_loss),
        AGAIN,
        "decisions.jsonl is damaged: line 1 (m1->logits) says removed",
    ),
    (
        "a journal of other edges",
        unfinished("decisions.jsonl", lambda raw: raw.replace(b"->logits", b"->logit")),
        AGAIN,
        "the graph has no edge 'm1->logit'; edges look like",
    ),
    (
        "a journal in another order",
        unfinished("decisions.jsonl", lambda raw: raw.replace(b'"edge":"m1', b'"edge":"m0', 1)),
        AGAIN,
        "the recorded decision 0 is not this search's test 0 of",
    ),
    ("a folder that is a file", lambda given: (given / "cells").write_text(""), AGAIN, ": Not a directory"),
    ("a cell that is a link to nowhere", linked("nowhere"), AGAIN, ": File exists"),
    ("a cell that is a link to itself", linked("../tracr-proportion"), "verify $CELL", "config.json does not exist"),
    (
        "an unfinished cell, shown",
        spoilt("result.json"),
        "diff $CELL $CELL",
        "holds no finished cell, which is a folder like",
    ),
    ("an unfinished cell, exported", spoilt("result.json"), "export $CELL --format csv", "result.json does not exist"),
    (
        "an unfinished cell, bundled",
        spoilt("result.json"),
        "bundle $CELL --out given/c.zip",
        "result.json does not exist",
    ),
    ("an unfinished cell, repaired", spoilt("result.json"), "repair $CELL", "holds no finished cell (no result.json)"),
    (
        "an unfinished cell, judged",
        spoilt("result.json"),
        "faithfulness $CELL",
        "is no folder of a finished cell (no result.json), and an",
    ),
    (
        "an unfinished cell, resampled",
        spoilt("result.json"),
        "stability $CELL",
        "does not lie below results/cells; say --root",
    ),
    (
        "a circuit of many layers",
        spoilt(
            "circuit.json", b'{"graph": {"layers": 1000000000, "heads": 1, "kv_heads": 1, "mlp": true}, "edges": []}'
        ),
        "show $CELL",
        "circuit.json is damaged: its sha256 is not the one that the",
    ),
]


def rows() -> Iterator[Row]:
    for name, make, words, says in CELLS:
        yield Row(words, says, make, f"a cell: {name}")
