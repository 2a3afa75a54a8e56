"""Tokenizers that mark every text with a space before it (SentencePiece's way): a word is what it is in a sentence."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support.llama_tokenizer import llama_tokenizer as LLAMA
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import pahq
from pahq.cell.precheck import checked_task
from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.model.sources.find import load_model, save_model
from pahq.model.weights import Model
from pahq.tasks import build_task
from pahq.tasks.encoder import encoder_of
from pahq.tasks.english import ENGLISH
from pahq.tasks.words import OPENINGS, TEMPLATE, VERBS

LISTS = dataclasses.astuple(ENGLISH)
WORDS = tuple(dict.fromkeys(word for words in (*LISTS, OPENINGS, VERBS, TEMPLATE) for word in words if word.isalpha()))


@pytest.fixture(scope="module", params=[False, True], ids=["normalizer", "metaspace"])
def llama(request: pytest.FixtureRequest, make_text_model: Any) -> Model:
    return make_text_model(*LLAMA(WORDS, metaspace=request.param))


def task(kind: str, metric: str, **more: Any) -> TaskConfig:
    return TaskConfig(name=f"llama-{kind}", kind=kind, examples=3, metric=metric, **more)


def test_a_word_is_the_token_that_it_is_in_a_sentence(llama: Model) -> None:
    encoder = encoder_of(llama, "x")
    sentence = encoder.ids("Then, Anna and Vincent", "x")
    assert encoder.token("Vincent", "x") == encoder.token(" Vincent", "x", inside=True) == sentence[-1]
    assert encoder.shown(sentence) == " Then|,| Anna| and| Vincent"
    assert encoder.token("5", "x", inside=True) == encoder.ids("1705", "x")[-1]
    with pytest.raises(PahqError, match=r"x 'Vincent' is 7 tokens of model 'text' \(V\|i\|n\|c\|e\|n\|t\); one was"):
        encoder.token("Vincent", "x", inside=True)
    assert encoder_of(llama, "x", bos="<s>").ids("", "x") == [1]


@pytest.mark.parametrize("bos", [None, "<s>"])
def test_built_in_tasks_are_written_in_its_tokens(llama: Model, bos: str | None) -> None:
    encoder = encoder_of(llama, "x")
    ioi = build_task(task("ioi", "logit_diff", bos=bos), llama, 0).search
    first = encoder.shown(ioi.clean[0].tolist()).removeprefix("<s>|").split("|")
    assert first[:3] == [" Then", ",", first[2]]
    assert ioi.targets["answer"][0] == ioi.clean[0, 2 + (bos is not None)]
    assert ioi.targets["wrong"][0] == ioi.clean[0, 4 + (bos is not None)]
    docstring = build_task(task("docstring", "margin", bos=bos), llama, 0).search
    for row, answer in zip(docstring.clean.tolist(), docstring.targets["answer"].tolist(), strict=True):
        assert answer in row
    digits = build_task(task("greaterthan-digits", "prob_diff", bos=bos), llama, 0).search
    assert {encoder.shown([i]) for i in digits.targets["sign"][0].nonzero().flatten().tolist()} <= set("0123456789")
    assert digits.clean[0, -1] == encoder.ids("17", "x")[-1]
    induction = build_task(task("induction", "nll", bos=bos, positions=60), llama, 0).search
    assert induction.clean.shape == (3, 60)
    assert all((prompts.clean[:, 0] == 1).all() for prompts in (ioi, docstring, digits, induction) if bos)
    with pytest.raises(PahqError, match=r"1\|7\|0\|1: for a token a digit take kind greaterthan-digits"):
        build_task(task("greaterthan", "prob_diff"), llama, 0)


def test_byte_level_tokenizers_that_add_a_space_are_read_so_too(make_text_model: Any) -> None:
    """``add_prefix_space``: every text begins with a space, and no number goes on with one."""
    tokens = ["a", "b", "0", "5", "1", "7", ".", "\u010a", "\u0120", "\u0120a", "\u0120b", "05", "\u0120."]
    merges = [("\u0120", "a"), ("\u0120", "b"), ("0", "5"), ("\u0120", ".")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    encoder = encoder_of(make_text_model(str(tokenizer.to_str()), len(tokens)), "x")
    assert encoder.token("05", "x", inside=True) == tokens.index("05")
    assert encoder.token("b", "x") == encoder.token(" b", "x", inside=True) == tokens.index("\u0120b")
    assert encoder.token("b", "x", inside=True) == tokens.index("b")


ROWS = [
    {
        "clean": f"{start}Then, {a} met {b}. {b} gave a ring to",
        "corrupted": f"{start}Then, {c} met {d}. {d} gave a ring to",
    }
    | {"answer": f" {a}", "wrong": f" {b}"}
    for start, a, b, c, d in (("{}", "Anna", "Paul", "Marcus", "Lucy"), ("{}", "Jack", "Emma", "Adam", "Kate"))
]


def written(path: Path, start: str = "") -> Path:
    rows = [{key: text.replace("{}", start) for key, text in row.items()} for row in ROWS]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name.startswith("pahq")]
    caplog.clear()
    return found


MISSING = "the tokenizer of model 'text' begins every text with '<s>', and these prompts have none: task.bos (bos= in "
TWICE = "the prompts begin with '<s>' as they stand, so bos puts no second one before them"


def test_one_first_token_and_a_word_of_which(llama: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From files and from Python alike, each said once."""
    plain, begun = written(tmp_path / "plain.jsonl"), written(tmp_path / "begun.jsonl", "<s>")
    for path, bos, count, said in (
        (plain, None, 0, [MISSING]),
        (plain, "<s>", 1, []),
        (begun, None, 1, []),
        (begun, "<s>", 1, [TWICE]),
    ):
        caplog.set_level(logging.WARNING, "pahq")
        task = pahq.read_prompts(llama, path, bos=bos)
        heard = notes(caplog)
        texts = [json.loads(line) for line in path.read_text().splitlines()]
        clean, corrupted = ([row[name] for row in texts] for name in ("clean", "corrupted"))
        prompts = pahq.prompts(llama, clean, corrupted, bos=bos)
        also = notes(caplog)
        for rows in (task.search.clean, task.fresh.clean, prompts.clean, prompts.corrupted):
            assert {row.count(1) for row in rows.tolist()} == {count}
            assert {row.index(1) for row in rows.tolist() if 1 in row} <= {0}
        assert [note[: len(MISSING)] for note in heard] == [note[: len(MISSING)] for note in said]
        assert heard == also
    mixed = pahq.prompts(llama, ["<s>Then, Anna", "Then, Anna"], ["<s>Then, Adam", "Then, Adam"], bos="<s>")
    assert mixed.clean[0].tolist() == mixed.clean[1].tolist()
    assert notes(caplog) == ["1 of 2 prompts begin with '<s>' as they stand, so bos puts no second one before them"]


def test_a_cell_says_it_once_and_keeps_its_prompts(llama: Model, caplog: pytest.LogCaptureFixture) -> None:
    from pahq.experiments.compose import compose_runs

    [(cell, _)] = compose_runs(["task=nano-ioi", "model=nano", "method=acdc"])
    found = checked_task(cell, llama)
    [said] = notes(caplog)
    assert said.startswith(f"task nano-ioi: {MISSING}")
    assert 1 not in found.search.clean
    checked_task(cell.model_copy(update={"task": cell.task.model_copy(update={"bos": "<s>"})}), llama)
    assert notes(caplog) == []
    checked_task(cell, load_model("nano"))
    assert notes(caplog) == []


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("setting", [None, False, True])
@pytest.mark.parametrize("named", ["<s>", {"content": "<s>", "lstrip": False}])
def test_tokenizer_config_has_the_last_word(
    tmp_path: Path, make_text_model: Any, adds: bool, setting: bool | None, named: Any
) -> None:
    save_model(make_text_model(*LLAMA(["to"], adds=adds)), tmp_path)
    if setting is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": setting, "bos_token": named}))
    encoder = encoder_of(load_model(tmp_path), "x")
    assert encoder.own_bos == ("<s>" if (adds if setting is None else setting) else None)
    assert encoder.shown(encoder.ids("to to", "x")) == " to| to"


def test_a_word_as_first_token_is_no_second_one_either(caplog: pytest.LogCaptureFixture) -> None:
    nano = load_model("nano")
    made = pahq.prompts(nano, ["Later Hugo went"], ["Later Rosa went"], bos="Later")
    assert made.clean.shape == (1, 3)
    assert notes(caplog) == ["the prompts begin with 'Later' as they stand, so bos puts no second one before them"]


def test_special_tokens_at_the_end_are_no_beginning(make_text_model: Any) -> None:
    from tokenizers import processors

    text, size = LLAMA(["to"], adds=False)
    tokenizer = Tokenizer.from_str(text)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    assert encoder_of(make_text_model(str(tokenizer.to_str()), size), "x").own_bos is None
