"""Sealed files: what was written comes back, and nothing else does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pahq.errors import PahqError
from pahq.files.sealed import Damaged, check_digests, digests, read_sealed, write_sealed

VALUES: dict[str, Any] = {"name": "x", "numbers": [1, 2.5, None, True], "deep": {"sha256": "own"}, "umlaut": "\u00fc"}


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", VALUES)
    assert read_sealed(tmp_path / "a.json") == VALUES
    plain = json.loads((tmp_path / "a.json").read_text())  # standard JSON to everybody else
    assert plain == VALUES | {"sha256": plain["sha256"]}
    text = (tmp_path / "a.json").read_text().splitlines()
    sealed = "\n".join(text[:-2]).removesuffix(",")
    assert plain["sha256"] == hashlib.sha256(sealed.encode()).hexdigest()  # as the docs tell it


def test_every_bit_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, VALUES)
    content = path.read_bytes()
    for at in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            with pytest.raises(Damaged, match=r"a\.json is damaged: .*; on you go") as caught:
                read_sealed(path, way_on="on you go")
            assert caught.value.path == path


def test_a_file_that_is_cut_or_longer_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, VALUES)
    content = path.read_bytes()
    for other in [*(content[:cut] for cut in range(len(content))), content + b"\n", b" " + content, content * 2]:
        path.write_bytes(other)
        with pytest.raises(Damaged):
            read_sealed(path)


def test_plain_json_has_no_seal(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(VALUES, indent=1))
    with pytest.raises(Damaged, match="it has no whole seal at its end; move it away, and the command that made it"):
        read_sealed(tmp_path / "a.json")


def test_what_is_not_there_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match=r"none\.json does not exist") as caught:
        read_sealed(tmp_path / "none.json")
    assert not isinstance(caught.value, Damaged)
    with pytest.raises(PahqError, match="cannot be read: Is a directory"):
        read_sealed(tmp_path)


def test_digests_of_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    written = digests(tmp_path, ["a", "b"])
    assert written == {"a": hashlib.sha256(b"a").hexdigest()}
    check_digests(tmp_path, written, way_on="on")
    (tmp_path / "a").write_bytes(b"b")
    with pytest.raises(Damaged, match="a is damaged: its sha256 is not the one that the result names; on"):
        check_digests(tmp_path, written, way_on="on")
    (tmp_path / "a").unlink()
    with pytest.raises(Damaged, match="a is damaged: it is gone; on"):
        check_digests(tmp_path, written, way_on="on")
