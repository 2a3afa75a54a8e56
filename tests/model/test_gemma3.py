"""Gemma 3 270M from the packages that carry it, against transformers with the tensors of the same file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.spm import pieces
from tokenizers import Tokenizer

from pahq.config.modelnames import PACKAGED
from pahq.model import load_model
from pahq.model.forward import logits
from pahq.model.sources.packaged import package_file
from pahq.model.weights import Model

GEMMA = PACKAGED["gemma3"]
pytestmark = pytest.mark.skipif(
    not find_spec("gguf") or not all(find_spec(module) for module, _ in GEMMA.places),
    reason="Gemma 3 is not installed (make gemma3)",
)
DIGEST = "a2bc96d52593baeb9208da454b1715cee96a64ab05352a5a8378c75c160d5b99"
PARAGRAPH = (
    "A garden needs three things: light, water and patience. Plant the seeds in early spring, when the soil is warm "
    "enough to work, and cover them with a thin layer of earth. Water them every morning, but not too much, because "
    "the roots need air as well. After two or three weeks the first leaves will appear."
)
THEIRS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("gemma3")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gemma3") / GEMMA.file
    with path.open("wb") as whole:
        for place in GEMMA.places:
            part = package_file(*place)
            assert part is not None
            whole.write(part.read_bytes())
    return path


def transformers_model(file: Path) -> torch.nn.Module:
    """transformers' Gemma 3 with the file's tensors; its own reading of the file takes many minutes."""
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    sizes = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "vocab_size": 262_144}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256}
    found = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **heads, sliding_window=512, max_position_embeddings=32_768))
    state = {}
    for tensor in GGUFReader(file).tensors:
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        block, *rest = tensor.name.split(".")
        values = values - 1 if "norm" in tensor.name else values
        if block == "blk":
            state[f"model.layers.{rest[0]}.{THEIRS[rest[1]]}.weight"] = values
        else:
            state[f"model.{'norm' if 'norm' in block else 'embed_tokens'}.weight"] = values
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    found.load_state_dict(state)
    return found.eval()


def test_the_digest_is_the_one_that_results_name(model: Model) -> None:
    assert model.digest == DIGEST


def test_logits_are_those_of_transformers_and_prose_is_likely(model: Model, file: Path) -> None:
    assert model.tokenizer is not None
    tokens = torch.tensor([Tokenizer.from_str(model.tokenizer).encode(PARAGRAPH).ids])
    assert tokens[0, 0] == 2  # <bos>
    with torch.no_grad():
        ours, theirs = logits(model, tokens), transformers_model(file)(tokens).logits
    assert (ours - theirs).abs().max() < 1e-3
    assert F.cross_entropy(ours[0, :-1], tokens[0, 1:]).exp() < 20


def test_words_are_split_as_sentencepiece_splits_them(model: Model, file: Path) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type"))
    known = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == 1}
    assert model.tokenizer is not None
    tokenizer = Tokenizer.from_str(model.tokenizer)
    odd = ("1741", "naïve", "Hottentottenzelt", "unbelievabilities", "aaaaaaa", "日本語", "x=3.14")
    for word in {*PARAGRAPH.split(), *odd}:
        assert tokenizer.encode(f" {word}", add_special_tokens=False).tokens == pieces(f"▁{word}", known)
