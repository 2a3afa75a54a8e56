"""The embedded model nano: right on fresh prompts, undone by corrupted ones, and trained the same way twice."""

from __future__ import annotations

import json
import pickle
from random import Random

import pytest
import torch
import train_nano as nano

from pahq.config.cell import TaskConfig
from pahq.model.forward import logits
from pahq.model.sources.find import load_model, models_folder
from pahq.model.sources.tensorfile import file_digest
from pahq.tasks import build_task
from pahq.tasks.metrics import gather_items, objective
from pahq.tasks.words import VOCABULARY

SEED = 77_001  # drawn neither in training nor for the accuracies that training reports


@pytest.fixture(autouse=True)
def _torch_settings():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_the_committed_weights_are_right_on_fresh_prompts():
    model = load_model("nano")
    assert model.vocabulary == VOCABULARY
    shares = nano.accuracy(model, examples=200, seed=SEED)
    assert set(shares) == {"ioi", "greaterthan", "docstring", "induction"}
    assert min(shares.values()) >= 0.95, shares


@pytest.mark.parametrize(
    ("kind", "metric", "apart"),
    [
        ("ioi", "logit_diff", 3.0),
        ("greaterthan", "prob_diff", 0.5),
        ("docstring", "margin", 3.0),
        ("induction", "nll", -3.0),
    ],
)
def test_corrupted_prompts_undo_the_behaviour(kind, metric, apart):
    model = load_model("nano")
    prompts = build_task(TaskConfig(name=kind, kind=kind, examples=100, metric=metric), model, SEED).fresh
    clean, corrupted = (
        gather_items(logits(model, tokens), prompts.items) for tokens in (prompts.clean, prompts.corrupted)
    )
    own = objective(metric, prompts.targets, clean)
    difference = float(own.value(clean) - own.value(corrupted))
    assert difference * (1 if apart > 0 else -1) >= abs(apart)


def test_accuracy_sees_a_model_that_knows_nothing():
    config = nano.nano_config()
    blank = nano.model_from_tensors(config, nano.initial_tensors(config, 0), vocabulary=VOCABULARY)
    assert max(nano.accuracy(blank, examples=50, seed=SEED).values()) < 0.2


def test_two_trainings_give_the_same_bits_and_another_seed_does_not():
    first, again = (nano.train(nano.Recipe(steps=3, batch=4)).tensors() for _ in range(2))
    other = nano.train(nano.Recipe(steps=3, batch=4, seed=1)).tensors()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attn.W_Q"], other["blocks.0.attn.W_Q"])


def test_the_command_writes_a_loadable_folder_without_pickle(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("a pickle was touched")

    for module, names in ((pickle, ("load", "loads", "dump", "dumps")), (torch, ("load", "save"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    (tmp_path / "checksums.json").write_text('{"other/config.json": "0"}')
    status = nano.main(["--out", str(tmp_path / "nano"), "--steps", "2"])
    assert status == 1  # two steps teach nothing, and the exit status says so
    names = ["config.json", "model.safetensors", "training.json", "vocab.json"]
    assert sorted(path.name for path in (tmp_path / "nano").iterdir()) == names
    model = load_model(tmp_path / "nano")
    assert model.config == nano.nano_config()
    sums = json.loads((tmp_path / "checksums.json").read_text())
    assert sums.pop("other/config.json") == "0"
    assert sums == {f"nano/{name}": file_digest([tmp_path / "nano" / name]) for name in names}


def test_checksums_name_every_embedded_file():
    folder = models_folder()
    table = json.loads((folder / "checksums.json").read_text())
    files = {f"{path.parent.name}/{path.name}": path for path in folder.glob("*/[!.]*")}
    assert set(table) == set(files)
    assert table == {name: file_digest([path]) for name, path in files.items()}


def test_docstring_answers_follow_the_signature_not_the_position():
    """Other arguments documented than in the task, more or fewer of them: a copy from a fixed place would fail."""
    model, ids = load_model("nano"), {word: i for i, word in enumerate(VOCABULARY)}
    rng, right = Random(SEED), []
    for _ in range(200):
        words, answers = nano.docstring_row(rng)
        best = logits(model, torch.tensor([[ids[word] for word in words]]))[0].argmax(-1)
        right += [int(best[at]) == ids[word] for at, word in answers]
    assert sum(right) / len(right) >= 0.9
