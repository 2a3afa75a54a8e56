"""GGUF files: exact tensors from blocks packed by hand, the tokenizer, and one sentence for all that goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import small_gguf
from tokenizers import Tokenizer

from pahq.errors import PahqError
from pahq.model.sources.gguf import gguf_config, gguf_tokenizer, half_split, read_gguf

pytest.importorskip("gguf", reason="the package gguf is not installed")


def test_a_small_file_converts_to_exactly_its_tensors(tmp_path: Path) -> None:
    expected = small_gguf.write_gguf(tmp_path / "small.gguf")
    config, tensors, tokenizer = read_gguf(tmp_path / "small.gguf", "small")
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name]), name
    assert (config.layers, config.heads, config.kv_heads, config.d_head) == (2, 4, 2, 8)
    assert (config.eps, config.rotary_base, config.tied_embedding) == (1e-5, 50000.0, True)
    assert (config.norm, config.gated, config.positions, config.d_mlp) == ("rms", True, "rotary", 64)
    assert tokenizer is not None


def test_half_split_undoes_the_interleaving() -> None:
    """Rows numbered in the right order, stored as llama.cpp does: first of the one half, first of the other, ..."""
    stored = torch.tensor([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])[:, None]
    assert half_split(stored, heads=2).flatten().tolist() == list(range(12))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    small_gguf.write_gguf(path)
    text = read_gguf(path, "small")[2]
    assert text is not None
    return Tokenizer.from_str(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("in ain", ["in", "Ġain"]),
        ("a 1101", ["a", "Ġ", "1", "1", "0", "1"]),  # a digit stands alone, though 1 1 is a merge and Ġa another
        ("<|endoftext|>in", ["<|endoftext|>", "in"]),
        ("é\n", ["Ã", "©", "Ċ"]),
    ],
)
def test_the_tokenizer_splits_bytes_digits_and_special_tokens(
    tokenizer: Tokenizer, text: str, tokens: list[str]
) -> None:
    encoded = tokenizer.encode(text)
    assert encoded.tokens == tokens
    assert encoded.ids == [small_gguf.TOKENS.index(token) for token in tokens]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 8,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 4,
    "llama.attention.head_count": 2,
    "llama.vocab_size": 3,
}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general.architecture": "mamba"}, "unknown GGUF architecture 'mamba'; known: gemma3, llama"),
    "scaling": ({"llama.rope.scaling.type": "yarn"}, "needs rope scaling"),
    "experts": ({"llama.expert_count": 8}, "needs a mixture of experts"),
    "partial": ({"llama.rope.dimension_count": 2}, "needs partial rotary positions"),
    "missing": ({"llama.block_count": None}, "whole number as 'llama.block_count', got None"),
    "impossible": ({"llama.attention.head_count_kv": 3}, "impossible: .*2 heads cannot share 3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_metadata_of_another_model_are_refused_in_one_sentence(fault: str) -> None:
    change, message = FAULTS[fault]
    gguf_config(METADATA, "tiny", tied=True)
    with pytest.raises(PahqError, match=message) as caught:
        gguf_config(METADATA | change, "tiny", tied=True)
    assert "\n" not in str(caught.value)


def test_other_tokenizers_other_tensors_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="unknown GGUF tokenizer 'llama other'"):
        gguf_tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "other"})
    small_gguf.write_gguf(tmp_path / "more.gguf", extra="rope_freqs.weight")
    with pytest.raises(PahqError, match=r"has no tensor 'rope_freqs.weight' \(1 unexpected in all\)"):
        read_gguf(tmp_path / "more.gguf", "more")
    whole = (tmp_path / "more.gguf").read_bytes()
    for name, content in (("text", b"no model"), ("empty", b""), ("cut", whole[:5000]), ("late", whole[:-5000])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PahqError, match=f"{name} is truncated or no GGUF file"):
            read_gguf(tmp_path / name, "broken")


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(PahqError, match="needs the package gguf: pip install --no-deps gguf"):
        read_gguf(tmp_path / "any.gguf", "any")
