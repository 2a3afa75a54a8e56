"""Tokenizers of model folders: both forms on disk, there and back, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import gpt2_tokenizer
from tokenizers import Tokenizer

from pahq.errors import PahqError
from pahq.model import load_model, save_model
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.sources.tokenizer import byte_level_bpe, read_tokenizer
from pahq.model.weights import Model, ModelConfig

VOCABULARY = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4, "<|endoftext|>": 5}
MERGES = [("a", "b"), ("Ġ", "ab")]


def model(**changes: Any) -> Model:
    config = ModelConfig(
        layers=1, heads=1, kv_heads=1, d_model=2, d_head=2, d_mlp=0, d_vocab=6, d_vocab_out=6, context=4, norm="none"
    )
    tensors = {name: torch.ones(shape) for name, shape in tensor_shapes(config).items()}
    return model_from_tensors(config, tensors, **changes)


def older(folder: Path) -> None:
    """GPT-2's pair of files."""
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES))


def ids(text: str | None, prompt: str) -> list[int]:
    assert text is not None
    return Tokenizer.from_str(text).encode(prompt, add_special_tokens=False).ids


def test_a_saved_tokenizer_comes_back_and_goes_with_the_model(tmp_path: Path) -> None:
    text = byte_level_bpe(VOCABULARY, MERGES)
    save_model(model(tokenizer=text), tmp_path)
    back = load_model(tmp_path)
    assert (back.tokenizer, back.vocabulary) == (text, None)
    assert back.to(dtype=torch.float64).tokenizer == text
    save_model(model(), tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
    assert load_model(tmp_path).tokenizer is None


def test_the_older_pair_is_read_as_byte_level_bpe(tmp_path: Path) -> None:
    save_model(model(), tmp_path)
    older(tmp_path)
    back = load_model(tmp_path)
    assert back.vocabulary is None
    assert ids(back.tokenizer, "ab ab") == [2, 4]
    assert ids(back.tokenizer, "ab<|endoftext|>") == [2, 5]


def test_a_tokenizer_json_comes_before_the_older_pair_and_other_families_have_no_such_pair(tmp_path: Path) -> None:
    older(tmp_path)
    assert read_tokenizer(tmp_path, gpt2=False) is None
    text = byte_level_bpe({"x": 0}, [])
    (tmp_path / "tokenizer.json").write_text(text)
    assert read_tokenizer(tmp_path) == read_tokenizer(tmp_path, gpt2=False) == text


def test_a_hugging_face_folder_brings_its_tokenizer(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=6, n_positions=4, n_embd=4, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).tokenizer is None
    older(tmp_path)
    assert ids(load_model(tmp_path).tokenizer, "ab ab") == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", "{}", "tokenizer.json is no tokenizer"),
        ("tokenizer.json", "half {", "tokenizer.json is no tokenizer"),
        ("vocab.json", '["a"]', "vocab.json is no mapping from tokens to numbers"),
        ("vocab.json", '{"a": "b"}', "vocab.json is no mapping from tokens to numbers"),
        ("merges.txt", "a b\nc\n", "merges.txt has a line that is not two tokens"),
        ("merges.txt", "a q\n", "vocab.json and merges.txt do not fit"),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    older(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(PahqError, match=sentence) as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_gpt2s_files_split_text_as_transformers_does(tmp_path: Path) -> None:
    place = gpt2_tokenizer.folder()
    if place is None:
        pytest.skip("GPT-2's tokenizer data are not at hand")
    from transformers import GPT2Tokenizer

    shutil.copy(place / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(place / "vocab.bpe", tmp_path / "merges.txt")
    theirs = GPT2Tokenizer(vocab=gpt2_tokenizer.vocabulary(place), merges=gpt2_tokenizer.merges(place))
    ours = read_tokenizer(tmp_path)
    for text in ("Then, Anna's 1741 ünïcode…", 'def f(self, x):\n    """ a.\n\n    :param', "<|endoftext|>The war"):
        assert ids(ours, text) == theirs(text, add_special_tokens=False)["input_ids"]
