"""Prompt files: rows as they stand, where they are cut, and what is wrong by row and column."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pahq.config.cell import CellConfig, parse_config
from pahq.config.promptfile import Pair, cut, pairs_digest, read_pairs
from pahq.errors import PahqError

HEADING = "clean,corrupted,answer,wrong,split\n"


def write(folder: Path, text: str, name: str = "own.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_both_forms_say_the_same_and_spaces_count(tmp_path: Path) -> None:
    rows = [("The a,", 'The "b"', " x", " y"), ("ü", "v", " x\n", " y")]
    table = write(tmp_path, 'answer,clean,corrupted,wrong\n x,"The a,","The ""b"""," y"\n\n" x\n",ü,v, y\n')
    lines = write(
        tmp_path,
        "\n".join(json.dumps(dict(zip(("clean", "corrupted", "answer", "wrong"), row, strict=True))) for row in rows),
        "own.jsonl",
    )
    assert read_pairs(table) == read_pairs(lines) == [Pair(i + 1, *row) for i, row in enumerate(rows)]
    bom = write(tmp_path, "\ufeffclean,corrupted,answer\na,b,c\n")
    assert read_pairs(bom) == [Pair(1, "a", "b", "c")]


def test_half_or_as_many_as_asked_for_or_as_the_file_says() -> None:
    pairs = [Pair(i, "a", "b", "c") for i in range(1, 6)]
    assert [len(part) for part in cut(pairs, None)] == [3, 2]
    assert cut(pairs, 1) == (pairs[:1], pairs[1:])
    marked = [Pair(i, "a", "b", "c", None, "fresh" if i < 4 else "search") for i in range(1, 6)]
    assert cut(marked, None) == (marked[3:], marked[:3])
    assert cut(marked, 1) == (marked[3:4], marked[:3])
    with pytest.raises(PahqError, match="5 prompts leave none to judge by when 5 are searched on"):
        cut(pairs, 5)
    with pytest.raises(PahqError, match="1 prompts leave none"):
        cut(pairs[:1], None)
    with pytest.raises(PahqError, match="3 examples were asked for; the file marks 2 as search"):
        cut(marked, 3)
    with pytest.raises(PahqError, match="column split marks no row as fresh"):
        cut(marked[3:], None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "heading lacks the column 'clean'; needed: clean, corrupted, answer"),
        ("clean,corrupted\na,b\n", "heading lacks the column 'answer'"),
        ("clean,corrupted,answer,answr\n", "heading: 'answr'; known: answer, clean, corrupted, split, wrong"),
        ("clean,corrupted,answer,clean\n", "names a column twice"),
        ("clean,corrupted,answer\n", "own.csv holds no prompts"),
        (HEADING + "a,b,c,d,search\na,b,c\n", "own.csv, row 2 has 3 cells; the heading has 5 columns"),
        (HEADING + "a,b,c,d,search\na, ,c,d,fresh\n", "own.csv, row 2, column corrupted is empty"),
        (HEADING + "a,b,c,d,search\na,b,c,,fresh\n", "own.csv, row 2, column wrong: either all rows have one or none"),
        (HEADING + "a,b,c,d,serch\n", "own.csv, row 1: 'serch'; known: fresh, search"),
        (HEADING + '"a,b', "own.csv, line 2 is no CSV"),
    ],
)
def test_a_faulty_table_is_told_by_row_and_column(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(PahqError) as caught:
        read_pairs(write(tmp_path, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n", "holds no prompts"),
        ('{"clean": "a"\n', "row 1 is no JSON"),
        ("[1]", "row 1 is no JSON object with the keys clean, corrupted, answer"),
        ('{"clean": "a", "corrupted": "b"}', "row 1 lacks the column 'answer'"),
        ('{"clean": "a", "corrupted": "b", "answer": 7}', "row 1, column answer: text was expected, got 7"),
    ],
)
def test_a_faulty_line_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(PahqError) as caught:
        read_pairs(write(tmp_path, text, "own.jsonl"))
    assert sentence in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match=r"read from .csv or .jsonl files, not from 'own.txt'"):
        read_pairs(tmp_path / "own.txt")
    with pytest.raises(PahqError, match=r"own.csv: No such file"):
        read_pairs(tmp_path / "own.csv")
    (tmp_path / "own.csv").write_bytes(b"clean\xff")
    with pytest.raises(PahqError, match=r"is not UTF-8 text \(byte 5\)"):
        read_pairs(tmp_path / "own.csv")


def cell(path: Path, **task: object) -> CellConfig:
    values = {"name": "own", "kind": "own", "prompts": str(path), "examples": None, "metric": "kl"} | task
    composed = {"task": values, "model": {"name": "nano", "source": "nano"}, "method": {"name": "acdc"}}
    return parse_config(composed | {"precision": {"name": "auto"}, "threshold": 0.1})[0]


def test_the_address_follows_what_the_file_holds_not_where_it_lies(tmp_path: Path) -> None:
    path = write(tmp_path, "clean,corrupted,answer\na,b,c\nd,e,f\ng,h,i\n")
    one = cell(path)
    assert one.task.examples == 2
    assert cell(write(tmp_path, path.read_text(), "copy.csv")).digest == one.digest
    assert cell(path, examples=2).digest == one.digest
    assert cell(path, examples=1).digest != one.digest
    path.write_text(path.read_text().replace("f", "F"))
    assert cell(path).digest != one.digest
    # what was written down is complete: it is read back without the file
    path.unlink()
    assert CellConfig(**json.loads(json.dumps(one.model_dump(mode="json")))) == one


TABLE = 'clean,corrupted,answer\na,b,c\n"d\nD",e,f\n'
LINES = """{"clean": "a", "corrupted": "b", "answer": "c"}
{"clean": "d\\nD", "corrupted": "e", "answer": "f"}
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", "\ufeff" + TABLE),
        ("crlf.csv", TABLE.replace("\n", "\r\n")),
        ("both.csv", "\ufeff" + TABLE.replace("\n", "\r\n")),
        ("quoted.csv", TABLE.replace("a,b,c", '"a","b","c"')),
        ("blank.csv", TABLE.replace("a,b", "\na,b") + "\n\n"),
        ("columns.csv", 'answer,clean,corrupted\nc,a,b\nf,"d\nD",e\n'),
        ("unended.csv", TABLE.rstrip("\n")),
        ("plain.jsonl", LINES),
        ("bom.jsonl", "\ufeff" + LINES),
        ("crlf.jsonl", LINES.replace("\n", "\r\n")),
        ("both.jsonl", "\ufeff" + LINES.replace("\n", "\r\n") + "\r\n"),
    ],
)
def test_the_address_follows_what_is_read_not_its_bytes(tmp_path: Path, name: str, content: str) -> None:
    plain = cell(write(tmp_path, TABLE))
    (tmp_path / name).write_bytes(content.encode())
    other = cell(tmp_path / name)
    assert other.id == plain.id
    assert read_pairs(tmp_path / name, sha256=plain.task.sha256) == read_pairs(tmp_path / "own.csv")


def test_each_text_of_a_table_has_a_part_in_its_digest() -> None:
    base = [Pair(1, "a", "b", "c", "d", "search"), Pair(2, "e", "f", "g", "h", "fresh")]
    changed = [
        [Pair(1, "A", "b", "c", "d", "search"), base[1]],
        [Pair(1, "a", "B", "c", "d", "search"), base[1]],
        [Pair(1, "a", "b", "C", "d", "search"), base[1]],
        [Pair(1, "a", "b", "c", "D", "search"), base[1]],
        [Pair(1, "a", "b", "c", "d", "fresh"), base[1]],
        [Pair(1, "a", "b", "c", None, "search"), base[1]],
        [Pair(1, "ab", "", "c", "d", "search"), base[1]],
        base[:1],
        base[::-1],
    ]
    digests = {pairs_digest(pairs) for pairs in (base, *changed)}
    assert len(digests) == 1 + len(changed)


def test_a_file_that_changed_is_refused_and_a_digest_of_its_bytes_is_known_still(tmp_path: Path) -> None:
    path = write(tmp_path, TABLE)
    known = pairs_digest(read_pairs(path))
    older = hashlib.sha256(path.read_bytes()).hexdigest()  # what cells recorded once
    assert read_pairs(path, sha256=known) == read_pairs(path, sha256=older)
    write(tmp_path, TABLE.replace("f", "F"))
    for digest in (known, older):
        with pytest.raises(PahqError, match=f"own.csv has changed: it does not hold the prompts .{digest[:12]}"):
            read_pairs(path, sha256=digest)


@pytest.mark.parametrize(("mark", "shown"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
@pytest.mark.parametrize("columns", ["clean,corrupted,answer,wrong", "answer,kleen,corrupted", '"clean","corrupted"'])
def test_a_table_of_other_separators_is_told_that_commas_were_expected(
    tmp_path: Path, mark: str, shown: str, columns: str
) -> None:
    text = f"{columns}\nThe cat , sat,The dog , sat,a,b\n".replace(" , ", "~").replace(",", mark).replace("~", " , ")
    with pytest.raises(PahqError, match=f"own.csv, heading: commas were expected between columns, not {shown}"):
        cell(write(tmp_path, text))


def test_a_file_in_utf_16_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(TABLE.encode("utf-16"))
    with pytest.raises(PahqError, match=r"is UTF-16 text; save it as UTF-8"):
        read_pairs(tmp_path / "own.csv")


def test_a_file_and_the_kind_own_go_together(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="task kind 'own' needs prompts=FILE"):
        cell(tmp_path, prompts=None)
    with pytest.raises(PahqError, match="task: prompts needs kind 'own'"):
        cell(tmp_path / "own.csv", kind="ioi")
    with pytest.raises(PahqError, match=r"task: prompt file .*No such file"):
        cell(tmp_path / "own.csv")
