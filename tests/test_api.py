"""The three-line way in: own prompts, a search, a circuit."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

import pahq
from pahq.config import PrecisionConfig

SMALL = runpy.run_path(str(Path(__file__).parent / "oracles" / "small_models.py"))
random_model, random_prompts = SMALL["random_model"], SMALL["random_prompts"]


def test_engines_agree_and_the_circuit_holds_the_kept_edges():
    model = random_model("gpt2")
    prompts = random_prompts(model)
    fast = pahq.acdc(model, prompts, 0.1, progress=False)
    slow = pahq.acdc(model, prompts, 0.1, engine="reference", progress=False)
    assert fast.edges == slow.edges
    assert len(fast.edges) == sum(not decision.removed for decision in fast.decisions) > 0


def test_mixed_precision_through_the_same_door():
    model = random_model("gpt2")
    int4 = PrecisionConfig(name="int4", heads="int4", scales="group32", mlp="bf16")
    found = pahq.acdc(model, random_prompts(model), 0.1, precision=int4, focus="receiver", progress=False)
    assert found.decisions[0].before > 1e-6  # the quantised network is not the clean one


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


def test_the_readme_example_runs():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "pahq.acdc(" in block]
    assert len(blocks) == 1
    scope: dict = {}
    exec(compile(blocks[0], "README.md", "exec"), scope)
    assert len(scope["found"].edges) > 0
