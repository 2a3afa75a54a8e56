"""Weights are part of what a finished cell claims: on others its result is refused, never given in silence."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import small_gguf

from pahq.__main__ import main
from pahq.cell.files import read_result
from pahq.config import modelnames
from pahq.config.modelnames import Packaged
from pahq.model import load_model, save_model
from pahq.model.sources import find as sources
from pahq.model.sources import packaged
from pahq.model.sources.find import weights_digest
from pahq.model.sources.tokenizer import byte_level_bpe
from pahq.model.weights import Model

TASK = ["task=nano-induction", "task.examples=3", "method=acdc", "threshold=0.05"]


@cache
def nano() -> Model:
    return load_model("nano")


def write_model(folder: Path, seed: int) -> Path:
    """nano with an embedding of its own for each seed."""
    model = nano()
    save_model(replace(model, W_E=model.W_E * (1 + seed / 10)), folder)
    return folder


def run(*words: str) -> int:
    return main([*TASK, "run.progress=false", "wandb=disabled", *words])


def refused(capsys: pytest.CaptureFixture[str]) -> None:
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "was finished on other weights: " in shown.err
    assert "move the folder away, or take another run.root, for a search on the new ones" in shown.err


def test_other_weights_in_the_same_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "model", 0)
    typed = [f"model.source={folder}", f"run.root={tmp_path / 'root'}"]
    assert run(*typed) == 0
    [result] = (tmp_path / "root" / "cells").glob("*/*/result.json")
    before = result.read_bytes()
    assert run(*typed) == 0  # the same weights: what is there
    first = capsys.readouterr().out.splitlines()
    assert first[0] == first[1]
    old = (folder / "model.safetensors").read_bytes()
    write_model(folder, 1)
    for words in ([], ["run.repair=true"], ["-m"]):
        assert run(*typed, *words) == 2
        refused(capsys)
    assert main(["verify", str(result.parent)]) == 2
    refused(capsys)
    assert main(["repair", str(result.parent)]) == 1
    assert "was finished on other weights" in capsys.readouterr().err
    assert result.read_bytes() == before
    (folder / "model.safetensors").write_bytes(old)
    assert run(*typed) == 0
    assert result.read_bytes() == before


def test_a_damaged_cell_is_not_repaired_on_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "model", 0)
    typed = [f"model.source={folder}", f"run.root={tmp_path / 'root'}"]
    assert run(*typed) == 0
    [circuit] = (tmp_path / "root" / "cells").glob("*/*/circuit.json")
    circuit.write_text("{}")
    write_model(folder, 1)
    capsys.readouterr()
    assert run(*typed, "run.repair=true") == 2
    refused(capsys)
    assert circuit.read_text() == "{}"
    write_model(folder, 0)
    assert run(*typed, "run.repair=true") == 0


def test_an_unfinished_search_does_not_go_on_on_other_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", 0)
    typed = [f"model.source={folder}", f"run.root={tmp_path / 'root'}"]
    assert run(*typed) == 0
    [result] = (tmp_path / "root" / "cells").glob("*/*/result.json")
    result.unlink()
    write_model(folder, 1)
    assert run(*typed) == 2
    assert "holds the journal of another run (provenance.json differs)" in capsys.readouterr().err


def test_a_relative_folder_from_two_working_folders_is_two_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for seed, place in enumerate(("here", "there")):
        write_model(tmp_path / place / "ckpt", seed)
        monkeypatch.chdir(tmp_path / place)
        assert run("model.source=ckpt", f"run.root={tmp_path / 'root'}") == 0
        found.append(capsys.readouterr().out.split(": ")[0])
    assert len(set(found)) == 2
    results = [read_result(tmp_path / "root" / "cells" / cell_id) for cell_id in found]
    digests = [hashlib.sha256((tmp_path / p / "ckpt" / "model.safetensors").read_bytes()).hexdigest()
               for p in ("here", "there")]  # fmt: skip
    assert [result.model_digest for result in results] == digests
    monkeypatch.chdir(tmp_path / "here")  # and typed otherwise it is the same cell
    assert run("model.source=./ckpt/", f"run.root={tmp_path / 'root'}") == 0
    assert capsys.readouterr().out.startswith(f"{found[0]}: ")


ALPHABET = [chr(byte) for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]]
ALPHABET += [chr(256 + i) for i in range(256 - len(ALPHABET))]  # GPT-2's character for every byte
SPECIAL = ["<|endoftext|>"]
WORDS = [*SPECIAL, *ALPHABET, "\u0120a"]  # every byte, and the answer: " a"
TABLE = "clean,corrupted,answer\n" + "".join(f"{x}x y,{x}z y,a\n" for x in "opqrst")


def write_shards(folder: Path, seed: int) -> None:
    """A Hugging Face GPT-2 folder in two shards, with a tokenizer of bytes."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=len(WORDS), n_positions=16, n_embd=24, n_layer=1, n_head=2)
    whole = folder.with_name("whole")
    transformers.GPT2LMHeadModel(config).save_pretrained(whole)
    tensors = load_file(whole / "model.safetensors")
    folder.mkdir(exist_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    for i, key in enumerate(sorted(tensors)):
        shards[i % 2][key] = tensors[key]
    for i, part in enumerate(shards):
        save_file(part, folder / f"model-{i}.safetensors", metadata={"format": "pt"})
    names = {key: f"model-{i}.safetensors" for i, part in enumerate(shards) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    shutil.copy(whole / "config.json", folder / "config.json")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    (folder / "tokenizer.json").write_text(byte_level_bpe(vocabulary, [("\u0120", "a")]))


def own_task(folder: Path) -> list[str]:
    (folder / "own.csv").write_text(TABLE)
    typed = ["task=own", f"task.prompts={folder / 'own.csv'}", "task.examples=3", "threshold=0.001", "method=acdc"]
    return [*typed, f"run.root={folder / 'root'}", "run.progress=false", "wandb=disabled"]


def test_another_shard_of_a_hugging_face_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever shard it is; the digest is the one that its loaded model has, and results name."""
    folder = tmp_path / "model"
    write_shards(folder, 0)
    typed = [*own_task(tmp_path), f"model.source={folder}"]
    assert main(typed) == 0
    first = capsys.readouterr().out
    assert main(typed) == 0
    assert capsys.readouterr().out == first
    assert weights_digest(folder) == load_model(folder).digest
    kept = {name: (folder / name).read_bytes() for name in ("model-0.safetensors", "model-1.safetensors")}
    write_shards(folder, 1)
    capsys.readouterr()  # transformers tells how it writes
    others = {name: (folder / name).read_bytes() for name in kept}
    for changed in kept:
        for name in kept:
            (folder / name).write_bytes(others[name] if name == changed else kept[name])
        assert main(typed) == 2
        refused(capsys)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    assert main(typed) == 0
    assert capsys.readouterr().out == first


def test_other_weights_of_an_embedded_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the package whose models are others, checksums included."""
    place = tmp_path / "models"

    def release(seed: int) -> None:
        write_model(place / "nano", seed)
        table = {
            f"nano/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in (place / "nano").iterdir()
        }
        (place / "checksums.json").write_text(json.dumps(table))

    release(0)
    for module in (modelnames, sources):
        monkeypatch.setattr(module, "models_folder", lambda: place)
    typed = ["model=nano", f"run.root={tmp_path / 'root'}"]
    assert run(*typed) == 0
    capsys.readouterr()
    release(1)
    assert run(*typed) == 2
    refused(capsys)


def test_other_weights_of_a_packaged_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another conversion in the cache, say."""
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    carrier = tmp_path / "site" / "carrier"
    carrier.mkdir(parents=True)
    (carrier / "__init__.py").write_text("")
    small_gguf.write_gguf(carrier / "small.gguf")
    digest = hashlib.sha256((carrier / "small.gguf").read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(tmp_path / "site")
    for module in (modelnames, packaged, sources):
        small = Packaged("carrier==1", "small.gguf", digest, (("carrier", "small.gguf"),))
        monkeypatch.setattr(module, "PACKAGED", {"small": small})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    typed = [*own_task(tmp_path), "model.source=small"]
    assert main(typed) == 0
    first = capsys.readouterr().out
    assert main(typed) == 0
    assert capsys.readouterr().out == first
    [folder] = (path for path in (tmp_path / "cache" / "pahq" / "models").iterdir() if path.is_dir())
    tensors = load_file(folder / "model.safetensors")
    tensors["embed.W_E"] = tensors["embed.W_E"] * 2
    save_file(tensors, folder / "model.safetensors")
    assert main(typed) == 2
    refused(capsys)


def test_a_hub_name_is_pinned_by_its_commit() -> None:
    """Nothing is fetched to look at a finished cell."""
    assert weights_digest("openai-community/gpt2", "0" * 40) is None
