"""Prompt files: rows as they stand, where they are cut, and what is wrong by row and column."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pahq.config import CellConfig, TaskConfig, parse_config
from pahq.errors import PahqError
from pahq.promptfile import Pair, cut, read_pairs

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


def test_a_file_and_the_kind_own_go_together(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="task: task kind 'own' needs prompts=FILE"):
        cell(tmp_path, prompts=None)
    with pytest.raises(PahqError, match="task: prompts needs kind 'own'"):
        cell(tmp_path / "own.csv", kind="ioi")
    with pytest.raises(PahqError, match=r"task: prompt file .*No such file"):
        cell(tmp_path / "own.csv")


def test_settings_that_are_not_used_leave_no_trace_in_a_cells_address() -> None:
    plain = TaskConfig(name="nano-ioi", kind="ioi", examples=8, metric="kl").model_dump(mode="json")
    assert list(plain) == ["name", "kind", "examples", "metric", "ablation", "split_embed"]
    used = TaskConfig(name="x", kind="ioi", examples=8, metric="kl", bos="<s>").model_dump(mode="json")
    assert set(used) - set(plain) == {"bos"}
