"""Text and JSON files: whole or not at all, and standard."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from pahq.errors import PahqError
from pahq.files.text import dump_json, read_json, write_atomic, write_json


def test_a_write_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "result.json"
    write_atomic(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError("no space left")

    for step in ("fsync", "replace", "chmod"):
        with monkeypatch.context() as broken:
            broken.setattr(os, step, fail)
            with pytest.raises(OSError, match="no space left"):
                write_atomic(path, "new and longer")
        assert path.read_text() == "old"
        assert list(path.parent.iterdir()) == [path]  # no half file is left behind
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_interrupt_while_writing_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "result.json", "half")
    assert list(tmp_path.iterdir()) == []


def test_json_reads_or_says_why_not(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None, True]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, None, True]}
    with pytest.raises(PahqError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")
    for content in (b"", b"{", b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(PahqError, match=r"bad\.json is not readable JSON"):
            read_json(tmp_path / "bad.json")
    with pytest.raises(PahqError, match="is not readable JSON"):
        read_json(tmp_path)


def test_json_is_standard(tmp_path: Path) -> None:
    """NaN and infinities have no words in JSON: they are refused where they would be written."""
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="JSON"):
            dump_json({"value": [number]})
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "a.json", {"value": number})
    assert list(tmp_path.iterdir()) == []
    assert json.loads(dump_json({"value": None})) == {"value": None}
