"""The table of tasks: names, metrics, seeds, and search apart from fresh prompts."""

from __future__ import annotations

import hashlib

import pytest
import torch

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError
from pahq.model import load_model
from pahq.tasks import TASKS, build_task

OWN = {"ioi": "logit_diff", "greaterthan": "prob_diff", "docstring": "margin", "induction": "nll"}


def config(kind: str, *, examples: int = 20, metric: str = "kl") -> TaskConfig:
    return TaskConfig(name=kind, kind=kind, examples=examples, metric=metric)


def rows(*prompts) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in prompts for row in batch.tolist()]


def test_unknown_kind_names_the_known_ones(model):
    with pytest.raises(PahqError, match=r"unknown task kind 'iou'; known: docstring, .*tracr-reverse"):
        build_task(config("iou"), model, 0)


@pytest.mark.parametrize(
    ("kind", "metric"), [("ioi", "prob_diff"), ("greaterthan", "logit_diff"), ("induction", "margin")]
)
def test_a_metric_that_the_task_lacks_is_refused(model, kind, metric):
    with pytest.raises(PahqError, match=f"metric '{metric}' needs"):
        build_task(config(kind, metric=metric), model, 0)


@pytest.mark.parametrize("kind", OWN)
def test_the_own_metric_binds_and_the_first_fresh_prompt_follows_the_last_searched_one(model, kind):
    task = build_task(config(kind, metric=OWN[kind]), model, 3)
    assert task.metric == OWN[kind]
    for prompts in (task.search, task.fresh):
        assert prompts.clean.shape[0] == 20
        assert (prompts.clean != prompts.corrupted).any(1).all()
    clean = rows(task.search.clean, task.fresh.clean)
    assert len(set(clean)) == 40


@pytest.mark.parametrize("kind", OWN)
def test_prompts_are_a_function_of_the_seed(model, kind):
    first, again, other = (build_task(config(kind), model, seed) for seed in (5, 5, 6))
    for name in ("clean", "corrupted", "items"):
        assert torch.equal(getattr(first.fresh, name), getattr(again.fresh, name))
    assert not torch.equal(first.search.clean, other.search.clean)


def test_a_model_that_lacks_a_word_is_refused_before_any_work(make_model):
    from pahq.tasks.words import VOCABULARY

    lacking = make_model(tuple("?" if word == "Then" else word for word in VOCABULARY))
    with pytest.raises(PahqError, match="'Then'"):
        build_task(config("ioi"), lacking, 0)
    build_task(config("docstring"), lacking, 0)


def test_every_configured_kind_has_a_builder():
    assert set(OWN) | {"greaterthan-digits", "own", "tracr-reverse", "tracr-proportion"} == set(TASKS)


def test_nano_s_prompts_are_the_ones_it_was_trained_and_measured_on():
    """Every token, item and target of the four tasks at four seeds, as of the first release of nano."""
    nano, found = load_model("nano"), hashlib.sha256()
    for kind in OWN:
        for seed in range(4):
            task = build_task(config(kind, examples=16), nano, seed)
            for prompts in (task.search, task.fresh):
                targets = [prompts.targets[name] for name in sorted(prompts.targets)]
                for tensor in (prompts.clean, prompts.corrupted, prompts.items, *targets):
                    found.update(tensor.numpy().tobytes())
    assert found.hexdigest() == "27bf60157fd31b00807d48c93d2fd05f83fe0b01e123262293f2e45af25fb848"
