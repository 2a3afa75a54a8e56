"""Your own prompts: from a file to a circuit, by the command line and from Python, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pahq
from pahq.__main__ import main
from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig, TaskConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.model import load_model
from pahq.tasks import build_task

ROWS = [
    # clean, corrupted, answer, wrong: words that nano knows
    ("Then , Hugo and Rosa went to the library . Rosa gave a candle to", "Vera and Otto", "Hugo", "Rosa"),
    ("Then , Edith and Jonas went to the market . Jonas gave a ribbon to", "Greta and Boris", "Edith", "Jonas"),
    ("Then , Leon and Selma went to the station . Selma gave a kettle to", "Ulf and Irma", "Leon", "Selma"),
    ("Then , Noor and Felix went to the chapel . Felix gave a violin to", "Kira and Simon", "Noor", "Felix"),
]


def rows(*, wrong: bool = True) -> list[dict[str, str]]:
    found = []
    for clean, names, answer, other in ROWS:
        corrupted = clean.replace(f"{answer} and {other}", names).replace(f". {other}", ". Wanda")
        found.append({"clean": clean, "corrupted": corrupted, "answer": answer} | ({"wrong": other} if wrong else {}))
    return found


def write(path: Path, content: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content) + "\n")
    return path


def test_a_file_is_a_task_by_halves(tmp_path, model, words):
    task = pahq.read_prompts(model, write(tmp_path / "gifts.jsonl", rows()))
    assert (task.name, task.metric) == ("gifts", "logit_diff")
    for prompts, part in ((task.search, rows()[:2]), (task.fresh, rows()[2:])):
        assert words(prompts.clean) == [tuple(row["clean"].split()) for row in part]
        assert words(prompts.corrupted) == [tuple(row["corrupted"].split()) for row in part]
        for name in ("answer", "wrong"):
            assert words(prompts.targets[name][:, None]) == [(row[name],) for row in part]
        assert prompts.last_only


def test_the_configured_task_is_the_same(tmp_path, model):
    path = write(tmp_path / "gifts.jsonl", rows())
    config = TaskConfig(name="own", kind="own", prompts=str(path), examples=None, metric="logit_diff")
    for seed in (0, 1):
        for part in ("search", "fresh"):
            one, other = getattr(build_task(config, model, seed), part), getattr(pahq.read_prompts(model, path), part)
            assert torch.equal(one.clean, other.clean)
            assert torch.equal(one.targets["wrong"], other.targets["wrong"])
    path.write_text(path.read_text() + "\n")  # the same prompts
    build_task(config, model, 0)
    path.write_text(path.read_text().replace("candle", "kettle"))
    with pytest.raises(PahqError, match=r"gifts.jsonl has changed"):
        build_task(config, model, 0)


def test_without_wrong_answers_there_is_no_logit_difference(tmp_path, model):
    path = write(tmp_path / "gifts.jsonl", rows(wrong=False))
    assert pahq.read_prompts(model, path).metric == "nll"
    config = TaskConfig(name="own", kind="own", prompts=str(path), examples=None, metric="logit_diff")
    with pytest.raises(
        PahqError, match="metric 'logit_diff' needs 'wrong', which this task lacks; it has: kl, mse, nll"
    ):
        build_task(config, model, 0)


@pytest.mark.parametrize(
    ("row", "column", "value", "sentence"),
    [
        (2, "clean", "Then , Hugo", "row 2, column clean: 3 tokens (Then , Hugo) where row 1, column clean has 15"),
        (
            1,
            "corrupted",
            "Then , Hugo",
            "row 1, column corrupted: 3 tokens (Then , Hugo) where row 1, column clean has",
        ),
        (3, "clean", ROWS[2][0].replace("kettle", "teapot"), "row 3, column clean (Then , Leon"),
        (4, "answer", "Noor Felix", "row 4, column answer: 'Noor Felix' is no word in the vocabulary"),
        (2, "wrong", "Jonah", "row 2, column wrong: 'Jonah' is no word in the vocabulary of model 'words'"),
        (1, "corrupted", ROWS[0][0], "row 1, column corrupted: the same tokens as in column clean"),
        (2, "wrong", "Edith", "row 2, column wrong: the same as in column answer"),
        (3, "wrong", " Leon", "row 3, column wrong: the same token as in column answer"),
        (3, "clean", ROWS[0][0], "is searched on and judged by; fresh prompts must be others"),
    ],
)
def test_what_does_not_fit_is_told_by_row_and_column(tmp_path, model, row, column, value, sentence):
    content = rows()
    content[row - 1][column] = value
    with pytest.raises(PahqError) as caught:
        pahq.read_prompts(model, write(tmp_path / "gifts.jsonl", content))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_is_taken_as_it_stands(tmp_path, gpt2):
    content = [
        {"clean": f"{a} met {b} and greeted", "corrupted": f"{c} met {d} and greeted", "answer": f" {b}"}
        for a, b, c, d in (("Anna", "Paul", "Mark", "Lucy"), ("Jack", "Emma", "Adam", "Jane"))
    ]
    path = write(tmp_path / "met.jsonl", content)
    task = pahq.read_prompts(gpt2, path, bos="<|endoftext|>")
    assert task.search.clean.shape == (1, 6)
    assert task.search.clean[0, 0] == 50256
    assert task.search.targets["answer"][0] == task.search.clean[0, 3]
    content[1]["answer"] = " Emma's"
    with pytest.raises(PahqError, match=r"row 2, column answer: \" Emma's\" is 2 tokens of model 'text' \( Emma\|'s\)"):
        pahq.read_prompts(gpt2, write(path, content))


def test_from_python_to_a_circuit(tmp_path):
    model = load_model("nano")
    found = pahq.acdc(model, pahq.read_prompts(model, write(tmp_path / "own.jsonl", rows())), 0.3, progress=False)
    assert 0 < len(found.edges) < 500


def test_from_the_command_line_to_a_circuit(tmp_path, capsys):
    path = write(tmp_path / "own.jsonl", rows())
    typed = ["task=own", f"task.prompts={path}", "model=nano", "method=acdc", "threshold=0.3", "wandb=disabled"]
    assert main([*typed, "task.metric=logit_diff", f"run.root={tmp_path}", "run.progress=false"]) == 0
    [result] = (tmp_path / "cells" / "own").glob("acdc-float32-t0.3-*/result.json")
    values = json.loads(result.read_text())
    assert values["config"]["task"]["examples"] == 2
    assert values["fresh"]["metric"] == "logit_diff"
    assert values["fresh"]["clean"] > values["fresh"]["corrupted"]
    capsys.readouterr()
    assert main(["task=own", "method=acdc"]) == 2
    assert "task kind 'own' needs prompts=FILE" in capsys.readouterr().err
    content = rows()
    content[1]["wrong"] = content[1]["answer"]
    write(path, content)
    assert main(typed) == 2
    assert "own.jsonl, row 2, column wrong: the same as in column answer" in capsys.readouterr().err
    content = rows()
    content[1]["answer"] = ""
    write(path, content)
    assert main(typed) == 2
    assert "own.jsonl, row 2, column answer is empty" in capsys.readouterr().err


def test_a_search_goes_on_after_its_file_moved(tmp_path):
    row = "Then , {} and Bruno went to the market . Bruno gave a candle to"
    other = "Then , Celia and Hugo went to the market . Vera gave a candle to"
    lines = ["clean,corrupted,answer", *(f'"{row.format(name)}","{other}",{name}' for name in ("Agnes", "Rosa"))]
    typed = ["task=own", "model=nano", "method=acdc", "threshold=1"]
    cells = []
    for name in ("first.csv", "moved.csv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        cells.append(compose_runs([*typed, f"task.prompts={tmp_path / name}"])[0][0])
    run = RunConfig(root=str(tmp_path), wandb="disabled", progress=False)
    whole = run_cell(cells[0], run)
    journal = whole.folder / "decisions.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:20]))
    (whole.folder / "result.json").unlink()
    again = run_cell(cells[1], run)
    assert (again.folder, again.values["resumed"]) == (whole.folder, True)
    assert again.values["kept"] == whole.values["kept"]
