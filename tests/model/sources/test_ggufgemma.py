"""A GGUF file of Gemma 3: exact tensors, its settings, and a tokenizer that merges as SentencePiece does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.spm import pieces
from tokenizers import Tokenizer

from pahq.errors import PahqError
from pahq.model.sources.gguf import gguf_tokenizer, read_gguf

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
LAYERS, HEADS, KV_HEADS, WIDTH, HEAD, MLP, VOCABULARY = 7, 2, 1, 12, 8, 10, 9
NAMES = {
    "attn_norm": ("ln1.w", (WIDTH,)),
    "post_attention_norm": ("ln1_post.w", (WIDTH,)),
    "ffn_norm": ("ln2.w", (WIDTH,)),
    "post_ffw_norm": ("ln2_post.w", (WIDTH,)),
    "attn_q_norm": ("attn.q_norm.w", (HEAD,)),
    "attn_k_norm": ("attn.k_norm.w", (HEAD,)),
    "attn_q": ("attn.W_Q", (HEADS * HEAD, WIDTH)),
    "attn_k": ("attn.W_K", (KV_HEADS * HEAD, WIDTH)),
    "attn_v": ("attn.W_V", (KV_HEADS * HEAD, WIDTH)),
    "attn_output": ("attn.W_O", (WIDTH, HEADS * HEAD)),
    "ffn_gate": ("mlp.W_gate", (MLP, WIDTH)),
    "ffn_up": ("mlp.W_in", (MLP, WIDTH)),
    "ffn_down": ("mlp.W_out", (WIDTH, MLP)),
}


def write(path: Path) -> dict[str, np.ndarray]:
    """Write a file of random tensors; what is stored, by its own name."""
    generator, stored = np.random.default_rng(0), {}
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(32)
    writer.add_vocab_size(VOCABULARY)
    shapes = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, (_, shape) in NAMES.items()}
    for name, shape in {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,), **shapes}.items():
        stored[name] = generator.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, stored[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def test_a_file_converts_to_its_tensors_and_settings(tmp_path: Path) -> None:
    stored = write(tmp_path / "small.gguf")
    config, tensors, tokenizer = read_gguf(tmp_path / "small.gguf", "small")
    assert tokenizer is None
    assert (config.layers, config.heads, config.kv_heads, config.d_head, config.window) == (7, 2, 1, 8, 32)
    assert (config.local_layers, config.local_base, config.rotary_base) == ((0, 1, 2, 3, 4, 6), 1e4, 1e6)
    assert (config.embed_scale, config.qk_norm, config.post_norms, config.tied_embedding) == (12**0.5, True, True, True)
    assert (config.activation, config.gated, config.logit_cap, config.eps) == ("gelu_new", True, None, 1e-6)
    for name, values in stored.items():
        layer, source = name.split(".")[1:3] if name.startswith("blk") else ("", "")
        if not source:
            assert np.array_equal(tensors["embed.W_E" if "embd" in name else "ln_final.w"].numpy(), values)
            continue
        ours = tensors[f"blocks.{layer}.{NAMES[source][0]}"].numpy()
        if source in ("attn_q", "attn_k", "attn_v"):  # rows as they lie, a head after the other
            values = values.reshape(-1, HEAD, WIDTH).transpose(0, 2, 1)
        elif source == "attn_output":
            values = values.T.reshape(HEADS, HEAD, WIDTH)
        elif values.ndim > 1:
            values = values.T
        assert np.array_equal(ours, values), name


SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["\n\n", "▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "aa", "aaa", "ca", "▁abca"]


def metadata(**changes: Any) -> dict[str, Any]:
    """A tokenizer whose merges depend on the scores: later words are merged later."""
    types = [3] * 4 + [6] * 256 + [4] + [1] * (len(WORDS) - 1)
    scores = [-1000.0] * 260 + [-float(i) for i in range(len(WORDS))]
    found = {"tokens": [*SPECIAL, *BYTES, *WORDS], "token_type": types, "scores": scores, "add_space_prefix": False}
    found |= {"model": "llama", "pre": "default", "unknown_token_id": 3, "bos_token_id": 2, "add_bos_token": True}
    return {f"tokenizer.ggml.{key}": value for key, value in (found | changes).items() if value is not None}


def tokenizer_of(**changes: Any) -> Tokenizer:
    text = gguf_tokenizer(metadata(**changes))
    assert text is not None
    return Tokenizer.from_str(text)


def test_neighbours_with_the_best_score_are_merged_first() -> None:
    tokenizer = tokenizer_of()
    scores = {word: -float(i) for i, word in enumerate(WORDS)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        word = "".join("abc"[i] for i in torch.randint(3, (8,), generator=generator))
        assert tokenizer.encode(f" {word}", add_special_tokens=False).tokens == pieces(f"▁{word}", scores)


def test_special_tokens_unknown_characters_and_spaces() -> None:
    tokenizer = tokenizer_of()
    assert tokenizer.encode("ab").tokens == ["<bos>", "ab"]
    found = tokenizer.encode("<eos>é\n\n ab", add_special_tokens=False).tokens
    assert found == ["<eos>", "<0xC3>", "<0xA9>", "\n\n", "▁ab"]
    assert tokenizer.decode(tokenizer.encode("ab é a").ids) == "ab é a"
    assert tokenizer_of(add_bos_token=None).encode("ab").tokens == ["ab"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scores": None}, "the tokenizer of a GGUF model of the kind 'llama' needs 'tokenizer.ggml.scores'"),
        ({"add_space_prefix": True}, "puts a space before every text"),
        ({"pre": "other"}, "unknown GGUF tokenizer 'llama other'; known: gpt2 smollm, llama default"),
    ],
)
def test_another_tokenizer_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PahqError, match=sentence):
        tokenizer_of(**changes)
