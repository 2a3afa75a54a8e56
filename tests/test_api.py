"""The three-line way in: own prompts, a search, a circuit."""

from __future__ import annotations

import re

import pytest
import torch
from support import small_models

import pahq
from pahq.config.precision import PrecisionConfig

random_model, random_prompts = small_models.random_model, small_models.random_prompts


def test_engines_agree_and_the_circuit_holds_the_kept_edges():
    model = random_model("gpt2")
    prompts = random_prompts(model)
    fast = pahq.acdc(model, prompts, 0.1, progress=False)
    slow = pahq.acdc(model, prompts, 0.1, engine="reference", progress=False)
    assert fast.edges == slow.edges
    assert len(fast.edges) == sum(not decision.removed for decision in fast.decisions) > 0


def test_mixed_precision_through_the_same_door():
    model = random_model("gpt2")
    int4 = PrecisionConfig(name="int4", format="int4", scales="group32", mlp="bf16")
    found = pahq.acdc(model, random_prompts(model), 0.1, precision=int4, focus="receiver", progress=False)
    assert found.decisions[0].before > 1e-6  # the quantised network is not the clean one


@pytest.mark.parametrize("focus", ["none", "receiver"])
def test_a_sweep_is_its_searches_and_shares_their_prefixes(focus):
    model = random_model("gpt2")
    prompts, int8 = random_prompts(model), PrecisionConfig(name="int8", format="int8", mlp="bf16")
    thresholds = [0.3, 0.03, 0.1, 0.11]
    swept = pahq.sweep(model, prompts, thresholds, precision=int8, focus=focus, progress=False)
    assert list(swept) == sorted(thresholds)
    for threshold, found in swept.items():
        alone = pahq.acdc(model, prompts, threshold, precision=int8, focus=focus, progress=False)
        assert found.edges == alone.edges
        assert [d.edge for d in found.decisions] == [d.edge for d in alone.decisions]
        assert max(abs(a.effect - b.effect) for a, b in zip(found.decisions, alone.decisions, strict=True)) < 1e-12
        if threshold == min(thresholds):  # the first search: it has no prefix of another one
            assert found.decisions == alone.decisions


def test_words_ids_and_tensors_are_the_same_prompts():
    model = pahq.load_model("tracr-reverse")
    rows = [[0, 1, 2, 3], [0, 2, 1, 3]]
    as_ids = pahq.prompts(model, rows, rows[::-1], answer=[1, 2])
    as_tensor = pahq.prompts(model, torch.tensor(rows), torch.tensor(rows[::-1]), answer=torch.tensor([1, 2]))
    assert torch.equal(as_ids.clean, as_tensor.clean)
    assert torch.equal(as_ids.targets["answer"], as_tensor.targets["answer"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"clean": [[0, 1, 2, 3], [0, 1, 2]]}, "clean prompt 1 has 3 tokens where prompt 0 has 4"),
        ({"answer": [1]}, "1 values of answer for 2 prompts"),
        ({"corrupted": [[0, 1, 2]]}, "clean prompts have shape"),
        ({"clean": ["no words here", "at all"]}, "no word-level vocabulary"),
    ],
)
def test_faulty_prompts_are_refused_in_one_sentence(change, sentence):
    model = pahq.load_model("tracr-reverse")
    good = {"clean": [[0, 1, 2, 3]] * 2, "corrupted": [[0, 2, 1, 3]] * 2}
    with pytest.raises(pahq.PahqError, match=re.escape(sentence)) as caught:
        pahq.prompts(model, **(good | change))
    assert "\n" not in str(caught.value)
