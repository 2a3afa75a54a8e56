"""The compiled programs: recorded prompts, the original permutation of positions, programs that do what they say."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from support.places import GOLDEN

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.model.forward import logits
from pahq.model.sources.find import load_model
from pahq.tasks import build_task
from pahq.tasks.metrics import gather_items
from pahq.verify.recorded import read_recorded

RECORDED = {"tracr-reverse": 6, "tracr-proportion": 50}


def config(kind: str, examples: int, ablation: str = "corrupted") -> TaskConfig:
    return TaskConfig(name=kind, kind=kind, examples=examples, metric="mse", ablation=ablation, split_embed=True)


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("kind", RECORDED)
def test_search_prompts_and_weights_are_the_recorded_ones(kind, ablation):
    model = load_model(kind)
    found = build_task(config(kind, RECORDED[kind], ablation), model, 0).search
    run = next(run for run in read_recorded(GOLDEN / kind.replace("-", "_")) if run.ablation == ablation)
    for name in ("clean", "corrupted", "items"):
        assert torch.equal(getattr(found, name), getattr(run.prompts, name))
    assert {key: value.tolist() for key, value in found.targets.items()} == {
        key: value.tolist() for key, value in run.prompts.targets.items()
    }
    orders = [prompts.position_order for prompts in (found, run.prompts)]
    assert orders == [None, None] if ablation == "zero" else torch.equal(*orders)
    for name, tensor in run.model.tensors().items():
        assert torch.equal(tensor, model.tensors()[name]), name


@pytest.mark.parametrize("kind", RECORDED)
def test_fresh_prompts_are_the_recorded_test_rows(kind):
    tokens = load_file(GOLDEN / kind.replace("-", "_") / "tensors.safetensors")
    fresh = build_task(config(kind, 5), load_model(kind), 0).fresh
    assert torch.equal(fresh.clean, tokens["tokens.test"][:5])
    assert torch.equal(fresh.corrupted, tokens["tokens.test_patch"][:5])


@pytest.mark.parametrize("kind", RECORDED)
def test_more_prompts_than_recorded_are_refused(kind):
    with pytest.raises(PahqError, match=f"has {RECORDED[kind]} recorded examples; {RECORDED[kind] + 1} were asked for"):
        build_task(config(kind, RECORDED[kind] + 1), load_model(kind), 0)


def test_a_model_too_small_for_the_tokens_is_refused(make_model):
    with pytest.raises(PahqError, match="needs 4 tokens and 4 positions; model 'words' has 270 and 2"):
        build_task(config("tracr-reverse", 6), make_model(context=2), 0)


def test_reverse_reverses():
    """The sequence after the beginning token, read backwards, as one-hot outputs."""
    model = load_model("tracr-reverse")
    prompts = build_task(config("tracr-reverse", 6), model, 0).search
    out = gather_items(logits(model, prompts.clean), prompts.items).argmax(-1).reshape(6, 3)
    assert torch.equal(out, prompts.clean[:, 1:].flip(1))
