"""Tables of prompts that hold none, or such as no search can be of."""

from __future__ import annotations

import json
from collections.abc import Iterator

from support.bad.row import Make, Row, file

OWN = "task=own model=nano method=acdc threshold=1 task.prompts=given/"
HEADING = "clean,corrupted,answer,wrong"


def clean(names: str = "Edith Jonas", word: str = "went") -> str:
    one, other = names.split()
    return f"Then , {one} and {other} {word} to the market . {other} gave a ribbon to"


CORRUPTED = "Then , Greta and Boris went to the market . Wanda gave a ribbon to"
GOOD = [(clean(), CORRUPTED, "Edith", "Jonas"), (clean("Leon Selma"), CORRUPTED, "Leon", "Selma")]


def table(*rows: tuple[str, ...], heading: str = HEADING) -> str:
    return "\n".join([heading, *(",".join(f'"{cell}"' for cell in row) for row in rows)]) + "\n"


def lines(*rows: object) -> Make:
    return file("\n".join(json.dumps(row) for row in rows), "own.jsonl")


SWAPPED = dict(zip(("clean", "corrupted", "answer"), GOOD[0][:3], strict=True))
PROMPTS: list[tuple[str, Make, str, str]] = [  # name, file, more words, sentence
    ("a missing file", lambda given: None, "", "prompt file given/own.csv: No such file or directory"),
    ("a folder", lambda given: (given / "own.csv").mkdir(), "", "prompt file given/own.csv: Is a directory"),
    (
        "a link to nowhere",
        lambda given: (given / "own.csv").symlink_to("nowhere.csv"),
        "",
        "prompt file given/own.csv: No such file or directory",
    ),
    (
        "a link to itself",
        lambda given: (given / "own.csv").symlink_to("own.csv"),
        "",
        "prompt file given/own.csv: Too many levels of symbolic links",
    ),
    ("an empty file", file(""), "", "given/own.csv, heading lacks the column 'clean'; needed"),
    ("a heading alone", file(HEADING), "", "given/own.csv holds no prompts"),
    (
        "no answer",
        file(table(*GOOD, heading="clean,corrupted,wrong,other")),
        "",
        "unknown column in given/own.csv, heading: 'other'; known",
    ),
    (
        "a column twice",
        file(table(*GOOD, heading="clean,corrupted,answer,answer")),
        "",
        "given/own.csv, heading names a column twice",
    ),
    (
        "semicolons",
        file(table(*GOOD).replace(",corr", ";corr").replace(",ans", ";ans").replace(",wr", ";wr")),
        "",
        "given/own.csv, heading: commas were expected between columns",
    ),
    (
        "too many cells",
        file(table(*GOOD, (*GOOD[0], "x"))),
        "",
        "given/own.csv, row 3 has 5 cells; the heading has 4 columns",
    ),
    (
        "too few cells",
        file(table(*GOOD, GOOD[0][:3])),
        "",
        "given/own.csv, row 3 has 3 cells; the heading has 4 columns",
    ),
    (
        "an empty cell",
        file(table(GOOD[0], (clean(), " ", "Edith", "Jonas"))),
        "",
        "given/own.csv, row 2, column corrupted is empty",
    ),
    (
        "some without wrong",
        file(table(GOOD[0], (*GOOD[1][:3], ""))),
        "",
        "given/own.csv, row 2, column wrong: either all rows have one",
    ),
    ("an open quote", file(f'{HEADING}\n"{clean()}'), "", "given/own.csv, line 2 is no CSV: unexpected end of data"),
    (
        "a null character",
        file(table(*GOOD).replace("Edith", "Ed\0ith")),
        "",
        "has the word 'Ed\\x00ith', which the vocabulary",
    ),
    ("UTF-16", file(table(*GOOD).encode("utf-16")), "", "given/own.csv is UTF-16 text; save it as UTF-8"),
    (
        "Latin-1",
        file(table(*GOOD).replace("Edith", "Édith").encode("latin-1")),
        "",
        "given/own.csv is not UTF-8 text (byte 37)",
    ),
    ("bytes of chance", file(bytes(range(256))), "", "given/own.csv is not UTF-8 text (byte 128)"),
    (
        "an unknown token",
        file(table(GOOD[0], (clean(word="flew"), *GOOD[1][1:]))),
        "",
        "given/own.csv, row 2, column clean (Then , Edith and Jonas",
    ),
    (
        "an unknown answer",
        file(table(GOOD[0], (*GOOD[1][:2], "Zebra", "Selma"))),
        "",
        "given/own.csv, row 2, column answer: 'Zebra' is no word in",
    ),
    (
        "an answer of two words",
        file(table(GOOD[0], (*GOOD[1][:2], "Leon Selma", "Selma"))),
        "",
        "given/own.csv, row 2, column answer: 'Leon Selma' is no word",
    ),
    (
        "prompts that do not align",
        file(table(GOOD[0], (clean() + " the", *GOOD[1][1:]))),
        "",
        "given/own.csv, row 2, column corrupted: 15 tokens (Then",
    ),
    (
        "a corrupted prompt that does not align",
        file(table(GOOD[0], (GOOD[1][0], CORRUPTED + " the", *GOOD[1][2:]))),
        "",
        "given/own.csv, row 2, column corrupted: 16 tokens (Then",
    ),
    (
        "a corrupted prompt that is the clean one",
        file(table(GOOD[0], (GOOD[1][0], *GOOD[1][::3][:1], *GOOD[1][2:]))),
        "",
        "given/own.csv, row 2, column corrupted: the same tokens as in",
    ),
    (
        "an answer that is wrong too",
        file(table(GOOD[0], (*GOOD[1][:3], "Leon"))),
        "",
        "given/own.csv, row 2, column wrong: the same as in column",
    ),
    (
        "prompts that are too long",
        file(table(*(((w + " the" * 60), (CORRUPTED + " the" * 60), a, b) for w, _, a, b in GOOD))),
        "",
        "given/own.csv: prompts have 75 tokens; model 'nano' has 48",
    ),
    ("one row", file(table(GOOD[0])), "", "1 prompts leave none to judge by when 1 are searched on; give"),
    (
        "the same prompt fresh",
        file(table(GOOD[0], GOOD[0])),
        "",
        "given/own.csv: the clean prompt Then , Edith and Jonas went",
    ),
    (
        "more examples than rows",
        file(table(*GOOD)),
        "task.examples=9",
        "2 prompts leave none to judge by when 9 are searched on; give",
    ),
    (
        "all examples",
        file(table(*GOOD)),
        "task.examples=2",
        "2 prompts leave none to judge by when 2 are searched on; give",
    ),
    (
        "a split of one kind",
        file(table(*((*row, "search") for row in GOOD), heading=HEADING + ",split")),
        "",
        "column split marks no row as fresh; both are needed",
    ),
    (
        "an unknown split",
        file(table(*((*row, "test") for row in GOOD), heading=HEADING + ",split")),
        "",
        "unknown split in given/own.csv, row 1: 'test'; known: fresh",
    ),
    (
        "a metric without wrong",
        file(table(*(row[:3] for row in GOOD), heading="clean,corrupted,answer")),
        "task.metric=logit_diff",
        "metric 'logit_diff' needs 'wrong', which this task lacks; it",
    ),
    (
        "a metric of others",
        file(table(*GOOD)),
        "task.metric=prob_diff",
        "metric 'prob_diff' needs 'sign', which this task lacks; it",
    ),
    (
        "another file's sha256",
        file(table(*GOOD)),
        f"+task.sha256={'0' * 64}",
        "given/own.csv has changed: it does not hold the prompts",
    ),
    (
        "a sha256 that is none",
        file(table(*GOOD)),
        "+task.sha256=zz",
        "task.sha256: String should match pattern '^[0-9a-f]{64}$'",
    ),
    (
        "an unknown bos",
        file(table(*GOOD)),
        "task.bos=zebra",
        "model 'nano' has no token 'zebra' to begin its prompts with",
    ),
    (
        "a model without words",
        file(table(*GOOD)),
        "model=tracr-reverse",
        "given/own.csv prompts are made of words; model",
    ),
    ("no JSON", file("{", "own.jsonl"), "", "given/own.jsonl, row 1 is no JSON: Expecting property name"),
    ("a list in JSON", lines([1]), "", "given/own.jsonl, row 1 is no JSON object with the keys clean"),
    (
        "a number in JSON",
        lines(SWAPPED | {"answer": 7}),
        "",
        "given/own.jsonl, row 1, column answer: text was expected, got",
    ),
    (
        "a null in JSON",
        lines(SWAPPED | {"clean": None}),
        "",
        "given/own.jsonl, row 1, column clean: text was expected, got",
    ),
    ("a deep JSON", file("[" * 100_000, "own.jsonl"), "", "given/own.jsonl, row 1 is no JSON: it is nested too deeply"),
    (
        "a large number in JSON",
        file('{"clean": ' + "9" * 10_000 + "}", "own.jsonl"),
        "",
        "given/own.jsonl, row 1 is no JSON: Exceeds the limit (4300",
    ),
]


def rows() -> Iterator[Row]:
    for name, make, more, says in PROMPTS:
        suffix = "jsonl" if "JSON" in name else "csv"
        yield Row(f"{OWN}own.{suffix} {more}", says, make, f"prompts: {name}")
