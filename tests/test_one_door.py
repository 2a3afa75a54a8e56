"""One validation, two doors: what Python is given is checked as the command line's words are, one sentence each."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import small_models

import pahq
from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.config.presets import preset
from pahq.tasks.task import Prompts, last_items

MODEL = small_models.random_model("gpt2")  # 11 tokens, 8 positions
ROWS, TWINS = [[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [6, 5, 4]]
GOOD = pahq.prompts(MODEL, ROWS, TWINS, answer=[7, 8], wrong=[8, 7])
WORDS = pahq.load_model("nano")
SENTENCES = ["Then , Hugo and Rosa went", "Then , Otto and Rosa went"]
PRECISIONS = "known: auto, bf16, float32, fp16, fp8, fp8-head, int4, int4s, int8, int8-head, nf4"


def prompts(model: Any = MODEL, clean: Any = ROWS, corrupted: Any = TWINS, **more: Any) -> Any:
    return pahq.prompts(model, clean, corrupted, **more)


def acdc(model: Any = MODEL, task: Any = GOOD, threshold: Any = 0.1, **more: Any) -> Any:
    return pahq.acdc(model, task, threshold, progress=False, **more)


def sweep(thresholds: Any, **more: Any) -> Any:
    return pahq.sweep(MODEL, GOOD, thresholds, progress=False, **more)


def stability(task: Any = GOOD, **more: Any) -> Any:
    return pahq.stability(MODEL, task, 0.1, progress=False, **({"n": 2} | more))


def made(**changes: Any) -> Prompts:
    return replace(GOOD, **changes)


def targets(**changes: Any) -> Prompts:
    return made(targets=dict(GOOD.targets) | changes)


WHAT = "a list of texts, of lists of words, or rows of token ids"
BAD = {
    # thresholds
    "negative": (lambda: acdc(threshold=-1), "threshold must be a finite number of at least 0, got -1"),
    "nan": (lambda: acdc(threshold=float("nan")), "threshold must be a finite number of at least 0, got nan"),
    "inf": (lambda: acdc(threshold=float("inf")), "threshold must be a finite number of at least 0, got inf"),
    "text": (lambda: acdc(threshold="0.1"), "threshold: Input should be a valid number (got '0.1')"),
    "truth": (lambda: acdc(threshold=True), "a number was expected as threshold, not true"),
    "nothing": (lambda: acdc(threshold=None), "threshold: Input should be a valid number (got None)"),
    "a list": (lambda: acdc(threshold=[0.1]), "threshold: Input should be a valid number (got [0.1])"),
    "a sweep of none": (lambda: sweep([]), "thresholds: the list is empty"),
    "a sweep of a number": (lambda: sweep(0.1), "thresholds: a list of numbers was expected (got 0.1)"),
    "a sweep of text": (lambda: sweep("0.1"), "thresholds: a list of numbers was expected (got '0.1')"),
    "a sweep with nan": (lambda: sweep([0.1, float("nan")]), "threshold must be a finite number of at least 0"),
    # settings
    "metric": (lambda: acdc(metric="loss"), "metric: Input should be 'kl', 'logit_diff', 'prob_diff', 'margin'"),
    "metric of a type": (lambda: acdc(metric=3), "metric: Input should be 'kl'"),
    "metric without targets": (lambda: acdc(metric="margin"), "metric 'margin' needs 'choices', which this task lacks"),
    "ablation": (
        lambda: acdc(ablation="noise"),
        "ablation: Input should be 'corrupted', 'zero' or 'mean' (got 'noise')",
    ),
    "precision": (lambda: acdc(precision="int7"), f"unknown precision 'int7'; {PRECISIONS}"),
    "precision of a type": (lambda: acdc(precision=8), "precision: a mapping was expected (got 8)"),
    "focus": (
        lambda: acdc(focus="heads"),
        "focus: Input should be 'receiver', 'sender', 'both' or 'none' (got 'heads')",
    ),
    "focus of an engine": (
        lambda: acdc(focus="both", precision="int8"),
        "engine suffix has no focus 'both'; known: none",
    ),
    "engine": (lambda: acdc(engine="fast"), "engine: Input should be 'suffix' or 'reference' (got 'fast')"),
    "engine of a type": (lambda: acdc(engine=None), "engine: Input should be 'suffix' or 'reference' (got None)"),
    "order": (lambda: acdc(order="descending"), "order: an Order(indices, senders) was expected (got 'descending')"),
    "order of heads": (lambda: acdc(order=Order("down")), "order: Input should be 'descending' or 'ascending'"),
    "absolute": (lambda: acdc(absolute="yes"), "absolute: Input should be a valid boolean (got 'yes')"),
    "direct_edges": (lambda: acdc(direct_edges=1), "direct_edges: Input should be a valid boolean (got 1)"),
    "split_embed": (lambda: acdc(split_embed="no"), "split_embed: Input should be a valid boolean (got 'no')"),
    "a name misspelt": (
        lambda: acdc(metrik="kl"),
        "unknown setting 'metrik'; known: ablation, arithmetic, direct_edges, focus",
    ),
    "a model's name": (lambda: acdc(model="nano"), "a model as pahq.load_model gives it was expected, not str"),
    "a task's name": (lambda: acdc(task="nano-ioi"), "prompts as pahq.prompts or pahq.read_prompts gives them were"),
    # prompts
    "floats": (lambda: prompts(clean=[[0.5, 1.0]]), "clean prompt 0 has float (0.5); words or token ids"),
    "truth values": (lambda: prompts(clean=[[True, False, True]]), "clean prompt 0 has bool (True)"),
    "None in a row": (lambda: prompts(corrupted=[[1, None, 2]]), "corrupted prompt 0 has NoneType (None)"),
    "None for a row": (lambda: prompts(clean=[[1, 2, 3], None]), "clean prompt 1 is NoneType (None)"),
    "None at all": (lambda: prompts(clean=None), f"clean: {WHAT}"),
    "one text": (lambda: prompts(WORDS, SENTENCES[0], SENTENCES[1]), f"clean: {WHAT}"),
    "mixed": (lambda: prompts(clean=[[1, "two", 3]]), "clean prompt 0 mixes words and token ids"),
    "mixed rows": (lambda: prompts(clean=[[1, 2, 3], "and"]), "clean prompt 1 is text where prompt 0 is token ids"),
    "a float tensor": (lambda: prompts(clean=torch.ones(2, 3)), "token ids are whole numbers, not torch.float32 of a"),
    "a float array": (lambda: prompts(clean=np.ones((2, 3))), "token ids are whole numbers, not float64 of a ndarray"),
    "a mask": (lambda: prompts(clean=torch.ones(2, 3) > 0), "token ids are whole numbers, not torch.bool of a Tensor"),
    "float rows": (lambda: prompts(clean=[torch.ones(3)] * 2), "token ids are whole numbers, not torch.float32 of a"),
    "one row": (lambda: prompts(clean=torch.tensor([1, 2])), "clean prompt 0 is int (1); text, words or token ids"),
    "three axes": (lambda: prompts(clean=np.ones((2, 3, 4), int)), "clean prompt 0 has list"),
    "a mapping": (lambda: prompts(clean={0: [1]}), f"clean: {WHAT}"),
    "no prompts": (lambda: prompts(clean=[], corrupted=[]), "clean: no prompts were given"),
    "an empty prompt": (lambda: prompts(clean=[[], []]), "clean prompt 0 is empty"),
    "unequal prompts": (lambda: prompts(clean=[[1, 2], [3]]), "clean prompt 1 has 1 tokens where prompt 0 has 2"),
    "a large id": (lambda: prompts(clean=[[1, 2, 11]]), "clean prompt 0 has token 11; model 'gpt2' has tokens 0 to 10"),
    "a negative id": (lambda: prompts(corrupted=[[1, 2, 3], [1, -1, 2]]), "corrupted prompt 1 has token -1; model"),
    "bos": (lambda: prompts(WORDS, SENTENCES, SENTENCES[::-1], bos=5), "bos: a token's text was expected, not int"),
    "no model": (lambda: prompts("nano"), "a model as pahq.load_model gives it was expected, not str"),
    "prompts too long": (
        lambda: acdc(task=prompts(clean=[[1] * 9], corrupted=[[2] * 9])),
        "prompts have 9 tokens; model",
    ),
    "equal prompts": (
        lambda: acdc(task=prompts(corrupted=ROWS)),
        "clean and the corrupted prompt 0 are the same tokens",
    ),
    "one equal pair": (
        lambda: acdc(task=prompts(corrupted=[[3, 2, 1], [4, 5, 6]])),
        "the clean and the corrupted prompt 1 are the same tokens",
    ),
    "one equal pair, slowly": (
        lambda: acdc(task=prompts(corrupted=[[3, 2, 1], [4, 5, 6]]), engine="reference"),
        "the clean and the corrupted prompt 1 are the same tokens",
    ),
    # answers
    "a negative answer": (
        lambda: prompts(answer=[7, -1]),
        "answer of prompt 1 has token -1; model 'gpt2' has tokens 0",
    ),
    "a large answer": (
        lambda: prompts(answer=[99999, 7]),
        "answer of prompt 0 has token 99999; model 'gpt2' has tokens",
    ),
    "answers of two": (lambda: prompts(answer=[[5, 6], [7, 8]]), "answer of prompt 0 is 2 tokens ([5, 6]); one was"),
    "answers in a table": (lambda: prompts(answer=torch.ones(2, 2).long()), "answer of prompt 0 is 2 tokens ([1, 1])"),
    "no answers": (lambda: prompts(answer=[]), "0 values of answer for 2 prompts; one word or token id each"),
    "one answer": (lambda: prompts(answer=[1]), "1 values of answer for 2 prompts; one word or token id each"),
    "an answer's number": (
        lambda: prompts(answer=5),
        "answer: a list of token texts or token ids was expected, not int",
    ),
    "a float answer": (lambda: prompts(answer=[1.0, 2.0]), "answer of prompt 0 has float (1.0)"),
    "float answers": (lambda: prompts(answer=np.ones(2)), "answer: token ids are whole numbers, not float64"),
    "no answer": (lambda: prompts(answer=[1, None]), "answer of prompt 1 has NoneType (None)"),
    "mixed answers": (
        lambda: prompts(WORDS, SENTENCES, SENTENCES[::-1], answer=["to", 5]),
        "answer mixes words and token ids",
    ),
    "words without a vocabulary": (lambda: prompts(answer=["a", "b"]), "has no word-level vocabulary"),
    "a wrong answer that is right": (
        lambda: prompts(answer=[1, 2], wrong=[2, 2]),
        "answer and wrong of prompt 1 are the same token (2); they must differ",
    ),
    # prompts made by hand
    "lists for tensors": (lambda: Prompts(ROWS, TWINS, last_items(2, 3)), "must be a tensor of token ids, not list"),  # type: ignore[arg-type]
    "floats for ids": (lambda: acdc(task=made(clean=GOOD.clean.float())), "clean prompts must be token ids as int64"),
    "an id beyond": (lambda: acdc(task=made(clean=GOOD.clean + 8)), "clean prompt 0 has token 11; model"),
    "items beyond": (lambda: acdc(task=made(items=GOOD.items + 1)), "items must be one row (prompt, position) or more"),
    "no items": (lambda: acdc(task=made(items=GOOD.items[:0])), "items must be one row (prompt, position) or more"),
    "items of a type": (lambda: acdc(task=made(items=[[0, 1]])), "items must be an int64 tensor of rows"),
    "targets beyond": (
        lambda: acdc(task=targets(answer=torch.tensor([1, 99]))),
        "answer of item 1 has token 99; model",
    ),
    "targets too few": (lambda: acdc(task=targets(answer=torch.tensor([1]))), "target answer has 1 rows for 2 items"),
    "a single target": (lambda: acdc(task=targets(answer=torch.tensor(1))), "target answer is a single number"),
    "targets of a type": (lambda: acdc(task=targets(answer=[1, 2])), "target answer must be a tensor, not list"),
    "targets in floats": (
        lambda: acdc(task=targets(answer=torch.ones(2))),
        "target answer must hold token ids as int64",
    ),
    "targets alike": (
        lambda: acdc(task=targets(wrong=GOOD.targets["answer"]), metric="logit_diff"),
        "answer and wrong of prompt 0 are the same token (7)",
    ),
    "signs of another width": (lambda: acdc(task=targets(sign=torch.ones(2, 5))), "target sign has shape [2, 5], not"),
    # the other doors
    "one resample": (lambda: stability(n=1), "n=1 resamples cannot be compared"),
    "resamples in text": (lambda: stability(n="3"), "n: a whole number was expected (got '3')"),
    "half a resample": (lambda: stability(n=2.5), "n: a whole number was expected (got 2.5)"),
    "a seed below 0": (lambda: stability(seed=-1), "seed: Input should be greater than or equal to 0"),
    "a seed in text": (lambda: stability(seed="0"), "seed: Input should be a valid integer (got '0')"),
    "others alone": (lambda: stability(others=GOOD), "others: a list of prompts or tasks was expected, not Prompts"),
    "others of a type": (lambda: stability(others=["nano-ioi"]), "gives them were expected, not str"),
    "stability of a name": (lambda: stability("nano-ioi"), "gives them were expected, not str"),
    "a file's type": (lambda: pahq.read_prompts(WORDS, 5), "its path was expected, not int"),
    "a file that is none": (lambda: pahq.read_prompts(WORDS, "none.csv"), "prompt file none.csv: No such file"),
    "no examples": (
        lambda: pahq.read_prompts(WORDS, "a.csv", examples=0),
        "examples: a whole number of at least 1 was",
    ),
    "true examples": (
        lambda: pahq.read_prompts(WORDS, "a.csv", examples=True),
        "examples: a whole number of at least 1",
    ),
    "a file's bos": (lambda: pahq.read_prompts(WORDS, "a.csv", bos=1), "bos: a token's text was expected, not int"),
    "no model of a file": (
        lambda: pahq.read_prompts("nano", "a.csv"),
        "a model as pahq.load_model gives it was expected",
    ),
    "a model's number": (lambda: pahq.load_model(5), "a model's name or folder was expected, not int"),
    "a revision's number": (lambda: pahq.load_model("a/b", revision=5), "revision: a commit of 40 hex digits was"),
    "a shape in text": (
        lambda: pahq.ModelShape("2", 2, 2, True),
        "layers, heads and key-value heads are whole numbers",
    ),  # type: ignore[arg-type]
    "a graph of a model": (lambda: pahq.build_graph(MODEL), "a ModelShape was expected, not Model"),  # type: ignore[arg-type]
    "a device": (lambda: pahq.load_model("nano", device=None), "device None is not available on this machine"),
    "a cell": (lambda: pahq.run_cell({"threshold": 0.1}), "cell: a CellConfig, as pahq.parse_config gives it, was"),
    "a run": (lambda: pahq.run_cell(cell(), {"root": "x"}), "run: a RunConfig was expected, not dict"),
    "a circuit that is none": (lambda: pahq.Circuit.read("none.json"), "none.json is not a readable circuit"),
    "a circuit's number": (lambda: pahq.Circuit.read(5), "5 is not a readable circuit"),  # type: ignore[arg-type]
    "a configuration": (lambda: pahq.parse_config("threshold=0.1"), "a configuration is a mapping from keys to values"),
    "a truth in a configuration": (lambda: cell(threshold=True), "a number was expected as threshold, not true"),
    "a truth below": (lambda: cell(task={"examples": True}), "a number was expected as examples, not true"),
    "a precision's name": (lambda: cell(precision="int7"), f"unknown precision 'int7'; {PRECISIONS}"),
}


def cell(**changes: Any) -> pahq.CellConfig:
    task = {"name": "nano-ioi", "kind": "ioi", "examples": 2, "metric": "kl"} | changes.pop("task", {})
    values = {"model": {"name": "nano", "source": "nano"}, "method": {"name": "acdc"}, "precision": "auto"}
    return pahq.parse_config({"task": task, "threshold": 0.1} | values | changes)[0]


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_one_sentence(name: str) -> None:
    call, sentence = BAD[name]
    with pytest.raises(pahq.PahqError, match=re.escape(sentence)) as caught:
        call()
    assert "\n" not in str(caught.value)


IDS = [
    ROWS,
    [tuple(row) for row in ROWS],
    torch.tensor(ROWS),
    torch.tensor(ROWS, dtype=torch.int32),
    torch.tensor(ROWS, dtype=torch.uint8),
    [torch.tensor(row) for row in ROWS],
    [torch.tensor(row, dtype=torch.int32) for row in ROWS],
    [[torch.tensor(token) for token in row] for row in ROWS],
    np.array(ROWS),
    np.array(ROWS, dtype=np.int32),
    [np.array(row) for row in ROWS],
    [[np.int64(token) for token in row] for row in ROWS],
    (row for row in ROWS),
    [range(1, 4), range(4, 7)],
]


@pytest.mark.parametrize("rows", IDS, ids=range(len(IDS)))
def test_ids_in_any_array_are_ids(rows: Any) -> None:
    rows = rows if hasattr(rows, "__len__") else list(rows)
    made = pahq.prompts(MODEL, rows, TWINS)
    assert made.clean.dtype == torch.int64
    assert made.clean.tolist() == ROWS
    both = pahq.prompts(WORDS, rows, rows)  # a model with words takes them as ids too
    assert both.clean.tolist() == both.corrupted.tolist() == ROWS


@pytest.mark.parametrize(
    "answers",
    [[7, 8], (7, 8), torch.tensor([7, 8]), torch.tensor([[7], [8]]), np.array([7, 8], np.int32), [np.int64(7), 8]]
    + [[torch.tensor(7), torch.tensor([8])], [[7], [8]]],
    ids=range(8),
)
def test_answers_in_any_array_are_ids(answers: Any) -> None:
    assert pahq.prompts(MODEL, ROWS, TWINS, answer=answers).targets["answer"].tolist() == [7, 8]


def test_words_are_words_in_any_list() -> None:
    plain = pahq.prompts(WORDS, SENTENCES, SENTENCES[::-1], answer=["to", "the"])
    for rows in ([text.split() for text in SENTENCES], np.array(SENTENCES), tuple(SENTENCES)):
        found = pahq.prompts(WORDS, rows, SENTENCES[::-1], answer=np.array(["to", "the"]))
        assert torch.equal(found.clean, plain.clean)
        assert torch.equal(found.targets["answer"], plain.targets["answer"])


@pytest.mark.parametrize("focus", ["none", "receiver"])
def test_a_precision_by_name_is_the_configured_one(focus: str) -> None:
    written = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
    by_name, by_value = (acdc(precision=value, focus=focus, threshold=0.05) for value in ("int4", written))
    assert by_name == by_value
    assert by_name.decisions[0].before > 1e-6  # rounded it is
    assert acdc(precision="float32") == acdc() == acdc(precision="auto")


def test_a_configuration_may_name_its_precision() -> None:
    written = preset("precision", "int4")
    named, whole = (cell(precision=value, method={"name": "rtn-q"}) for value in ("int4", written))
    assert named == whole
    assert named.id == whole.id
    assert cell() == cell(precision={"name": "auto"}) == cell(precision="float32")


@pytest.mark.parametrize("threshold", [1, np.float32(0.25), np.float64(0.25), torch.tensor(0.25), np.int64(1)])
def test_numbers_of_any_kind_are_thresholds(threshold: Any) -> None:
    assert acdc(threshold=threshold) == acdc(threshold=float(threshold))


def test_zero_ablation_needs_no_other_prompts() -> None:
    """Nor does mean ablation: only corrupted values of the same prompts tell nothing apart."""
    same = pahq.prompts(MODEL, ROWS, ROWS)
    for ablation in ("zero", "mean"):
        assert acdc(task=same, ablation=ablation).decisions


def test_codes_are_multiplied_from_python_too() -> None:
    coded = PrecisionConfig(name="int8", format="int8", mlp="bf16", compute="int8", kernel="codes")
    assert acdc(model=MODEL.to(dtype=torch.float32), precision=coded, focus="receiver").decisions


def test_what_only_looks_like_a_model_is_none() -> None:
    with pytest.raises(pahq.PahqError, match="not SimpleNamespace"):
        prompts(SimpleNamespace(config=MODEL.config))
