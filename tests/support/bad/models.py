"""Folders that hold no model, or one that computes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pahq.model import save_model
from support.bad.row import Make, Row, file
from support.small_models import random_model


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Make:
    def make(given: Path) -> None:
        save_model(random_model("gpt2", dtype=torch.float32), given / "model")
        path = given / "model" / "model.safetensors"
        values = load_file(path)
        change(values)
        save_file({name: value.contiguous() for name, value in values.items()}, path)

    return make


def filled(name: str, value: float) -> Make:
    return tensors(lambda values: values[name].view(-1)[3:4].fill_(value))


def config(**changes: Any) -> Make:
    def make(given: Path) -> None:
        save_model(random_model("gpt2", dtype=torch.float32), given / "model")
        path = given / "model" / "config.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value != "gone"}))

    return make


def beside(name: str, content: str | bytes | None) -> Make:
    def make(given: Path) -> None:
        save_model(random_model("gpt2", dtype=torch.float32), given / "model")
        path = given / "model" / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def cut(given: Path) -> None:
    save_model(random_model("gpt2", dtype=torch.float32), given / "model")
    path = given / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


W = "blocks.1.attn.W_V"
MODELS: list[tuple[str, Make, str]] = [
    ("NaN in a weight", filled(W, float("nan")), "tensor 'blocks.1.attn.W_V' holds NaN or infinite values"),
    ("an infinite weight", filled("embed.W_E", float("inf")), "tensor 'embed.W_E' holds NaN or infinite values"),
    ("an infinite bias", filled("unembed.b_U", float("-inf")), "tensor 'unembed.b_U' holds NaN or infinite values"),
    (
        "a missing tensor",
        tensors(lambda values: values.pop(W)),
        "model 'gpt2' lacks the tensor 'blocks.1.attn.W_V' of shape",
    ),
    (
        "another tensor",
        tensors(lambda values: values.update(other=torch.zeros(1))),
        "model 'gpt2' has no tensor 'other' (1 unexpected in all)",
    ),
    (
        "another shape",
        tensors(lambda values: values.update({W: torch.zeros(3, 12, 5)})),
        "tensor 'blocks.1.attn.W_V' has shape [3, 12, 5]; [3, 12, 4]",
    ),
    (
        "whole numbers",
        tensors(lambda values: values.update({W: torch.zeros(3, 12, 4, dtype=torch.int8)})),
        "tensor 'blocks.1.attn.W_V' holds I8 values; known: F64, F32",
    ),
    (
        "truth values",
        tensors(lambda values: values.update({W: torch.zeros(3, 12, 4, dtype=torch.bool)})),
        "tensor 'blocks.1.attn.W_V' holds BOOL values; known: F64",
    ),
    (
        "no tensors",
        tensors(lambda values: values.clear()),
        "model 'gpt2' lacks the tensor 'embed.W_E' of shape [11, 12]",
    ),
    ("a cut file", cut, "given/model/model.safetensors is truncated or no safetensors"),
    ("an empty file", beside("model.safetensors", b""), "given/model/model.safetensors is truncated or no safetensors"),
    ("no weights", beside("model.safetensors", None), "given/model/model.safetensors does not exist"),
    (
        "a header that lies",
        beside("model.safetensors", b"\xff" * 64),
        "given/model/model.safetensors is truncated or no safetensors",
    ),
    (
        "a pickle",
        beside("model.safetensors", b"\x80\x02}q\x00."),
        "given/model/model.safetensors is truncated or no safetensors",
    ),
    ("no configuration", beside("config.json", None), "given/model/config.json does not exist"),
    ("an empty configuration", beside("config.json", ""), "given/model/config.json is not readable JSON: Expecting"),
    ("a list", beside("config.json", "[]"), "given/model/config.json is no JSON object"),
    (
        "a deep configuration",
        beside("config.json", "[" * 100_000),
        "given/model/config.json is not readable JSON: it is nested",
    ),
    ("bytes", beside("config.json", b"\xff\xfe"), "given/model/config.json is not readable JSON: 'utf-8' codec"),
    ("an unknown key", config(colour="red"), "unknown key in given/model/config.json: 'colour'; known"),
    ("a missing key", config(layers="gone"), "layers: Field required"),
    ("no layers", config(layers=0), "layers: Input should be greater than 0 (got 0)"),
    ("layers below nought", config(layers=-1), "layers: Input should be greater than 0 (got -1)"),
    ("layers in words", config(layers="two"), "layers: Input should be a valid integer, unable to parse"),
    ("many layers", config(layers=10**9), "layers: Input should be less than or equal to 10000 (got"),
    ("many heads", config(heads=10**9, kv_heads=10**9), "heads: Input should be less than or equal to 10000 (got"),
    ("heads that share unevenly", config(kv_heads=2), "3 heads cannot share 2 key-value heads evenly"),
    ("an unknown norm", config(norm="batch"), "norm: Input should be 'layer', 'rms' or 'none' (got 'batch')"),
    ("an unknown activation", config(activation="tan"), "activation: Input should be 'relu', 'gelu', 'gelu_new' or"),
    (
        "a vocabulary of another size",
        beside("vocab.json", '["a", "b"]'),
        "given/model/vocab.json has 2 different tokens; the model has",
    ),
    (
        "a vocabulary of twins",
        beside("vocab.json", json.dumps(["a"] * 11)),
        "given/model/vocab.json has 1 different tokens; the model has",
    ),
    (
        "a vocabulary of numbers",
        beside("vocab.json", json.dumps(list(range(11)))),
        "given/model/vocab.json is not a list of tokens",
    ),
    ("a vocabulary that is none", beside("vocab.json", "{"), "given/model/vocab.json is not readable JSON: Expecting"),
    ("a tokenizer that is none", beside("tokenizer.json", "{"), "given/model/tokenizer.json is no tokenizer that the"),
    (
        "an unknown architecture",
        beside("config.json", '{"model_type": "rnn", "architectures": ["Rnn"]}'),
        "architecture 'Rnn' is not supported; known: GPT2LMHeadModel",
    ),
    (
        "TransformerLens' own terms",
        beside("config.json", '{"n_layers": 2}'),
        "given/model is a model in TransformerLens' terms",
    ),
    ("an empty folder", lambda given: (given / "model").mkdir(), "given/model/config.json does not exist"),
    ("a file", file("x", "model"), "unknown model 'given/model': no name of ours (known: nano"),
    (
        "a link to nowhere",
        lambda given: (given / "model").symlink_to("nowhere"),
        "unknown model 'given/model': no name of ours (known: nano",
    ),
    (
        "a link to itself",
        lambda given: (given / "model").symlink_to("model"),
        "unknown model 'given/model': no name of ours (known: nano",
    ),
]


def rows() -> Iterator[Row]:
    for name, make, says in MODELS:
        yield Row("models given/model", says, make, f"a model: {name}")
