"""A cell's files: whole or absent, and a journal that may be cut anywhere."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from support.made_cells import make_config, make_result

from pahq.cell.files import FILES, SearchResult, cell_folder, is_done, read_result, write_result
from pahq.cell.journal import Journal, JournalLine, read_journal
from pahq.cell.result import SCHEMA
from pahq.errors import PahqError
from pahq.files.sealed import Damaged, write_sealed
from pahq.files.text import write_json

RESULT = make_result(make_config("nano-induction", "acdc", "float32", 0.1))
LINES = [JournalLine(i, f"a1.h{i}->logits", 0.1 * i, 0.1 * i + 1e-9, i % 2 == 0, 0.004) for i in range(4)]


def write(path: Path, lines: list[JournalLine]) -> bytes:
    with Journal(path, []) as journal:
        for line in lines:
            journal.append(line)
    return path.read_bytes()


def test_a_journal_reads_back_exactly(tmp_path: Path) -> None:
    odd = JournalLine(4, "embed->m0", 1e-300, 1 / 3, False, 0.0)
    content = write(tmp_path / "new" / "decisions.jsonl", [*LINES, odd])
    assert read_journal(tmp_path / "new" / "decisions.jsonl") == [*LINES, odd]
    first = json.loads(content.split(b"\n")[0])
    assert list(first) == ["i", "edge", "before", "after", "removed", "seconds"]
    assert content.count(b"\n") == 5


def test_what_is_said_seldom_reads_back_too(tmp_path: Path) -> None:
    lines = [
        JournalLine(0, "embed->m0", 0.1, 0.2, False, 0.0, True, (0.11, 0.21)),
        JournalLine(1, "embed->m0", 0.1, 0.2, False, 0.0, drift=1e-9, rough=(0.1, 0.3)),
        JournalLine(2, "embed->m0", 0.1, 0.2, False, 0.0),
    ]
    content = write(tmp_path / "j", lines)
    assert read_journal(tmp_path / "j") == lines
    assert list(json.loads(content.split(b"\n")[2])) == ["i", "edge", "before", "after", "removed", "seconds"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_none_is_never_written(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "j", [JournalLine(0, "embed->m0", 0.0, number, False, 0.0)])
    assert read_journal(tmp_path / "j") == []


def test_every_line_is_on_disk_as_soon_as_it_falls(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", []) as journal:
        for count, line in enumerate(LINES, start=1):
            journal.append(line)
            assert read_journal(tmp_path / "j") == LINES[:count]


def test_a_journal_cut_at_any_byte_gives_the_whole_lines_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    content = write(path, LINES)
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert read_journal(path) == LINES[:whole], cut
        if cut % 5:
            continue
        with Journal(path, read_journal(path)) as journal:  # what was half written is gone before the next line comes
            for line in LINES[whole:]:
                journal.append(line)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"{}\n",
        b"[1]\n",
        b"\x00\x00\x00\n",
        b"\xff\xfe\n",
        b'{"i":2,"edge":"m0->logits","before":0.0}\n',
        b'{"i":7,"edge":"m0->logits","before":0.0,"after":0.0,"removed":true,"seconds":0.0}\n',
        b'{"i":1,"edge":"m0->logits","before":0.0,"after":0.0,"removed":true,"seconds":0.0}\n',
        b'{"i":2,"edge":"m0->logits","before":null,"after":0.0,"removed":true,"seconds":0.0}\n',
        b'{"i":2,"edge":"m0->logits","before":0.0,"after":"x","removed":true,"seconds":0.0}\n',
        b'{"i":2,"edge":5,"before":0.0,"after":0.0,"removed":true,"seconds":0.0}\n',
        b'{"i":2,"edge":"m0->logits","before":0.0,"after":0.0,"removed":"no","seconds":0.0}\n',
    ],
)
def test_reading_stops_at_a_line_that_is_none_of_ours(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "decisions.jsonl"
    lines = write(path, LINES).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + bad + b"".join(lines[2:]))
    assert read_journal(path) == LINES[:2]


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none") == []


def test_going_on_keeps_the_lines_given(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    write(path, LINES)
    with Journal(path, LINES[:2]):
        assert read_journal(path) == LINES[:2]


def test_a_cell_is_done_only_with_a_whole_result(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, "tracr/acdc-float32-t0.1-0123456789abcdef")
    assert folder == tmp_path / "cells" / "tracr" / "acdc-float32-t0.1-0123456789abcdef"
    assert not is_done(folder)
    written = write_result(folder, RESULT)
    assert is_done(folder)
    assert read_result(folder) == written == RESULT
    assert SearchResult(folder, read_result(folder)).id == RESULT.id
    whole = (folder / "result.json").read_bytes()
    for cut in range(len(whole)):  # never done, and never taken for an unfinished cell in silence
        (folder / "result.json").write_bytes(whole[:cut])
        with pytest.raises(Damaged, match=r"result\.json is damaged: .*; run\.repair=true .or `pahq repair`."):
            is_done(folder)


def test_a_result_names_the_digests_of_the_other_files(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text(name)
    written = write_result(tmp_path, RESULT)
    assert written.files == {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}


@pytest.mark.parametrize(
    "values", [[], 3, None, {}, {"schema": SCHEMA + 1, "id": "x"}, {"schema": SCHEMA}, {"schema": SCHEMA, "id": ""}]
)
def test_other_json_is_refused_and_no_finished_cell(tmp_path: Path, values: object) -> None:
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(PahqError, match=r"result\.json is (damaged|not a result of schema)"):
        is_done(tmp_path)


def test_a_result_of_another_schema_is_refused_sealed_or_not(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"schema": 1, "id": "x"})  # as earlier versions left them
    with pytest.raises(PahqError, match=rf"is not a result of schema {SCHEMA}, which this version writes; run.repair"):
        read_result(tmp_path)
    for values in (RESULT.to_json() | {"schema": 99}, RESULT.to_json() | {"schema": "3"}, {"id": "x"}):
        write_sealed(tmp_path / "result.json", values)
        with pytest.raises(PahqError, match=f"is not a result of schema {SCHEMA}"):
            read_result(tmp_path)
    with pytest.raises(PahqError, match="does not exist"):
        read_result(tmp_path / "nowhere")
