"""A GGUF file of a Llama-like model, or of Gemma 3, as our configuration, tensors and tokenizer.

GGUF is llama.cpp's format: metadata, then tensors, most of them in blocks of few bits. The package ``gguf`` reads
the container and decodes the blocks; what the numbers mean is settled here. Of Llama-like models llama.cpp stores the
rows of the q and k projections interleaved for its rotary embedding; they are put back into the half-split order of
``pahq.model.rotary.rotate`` (with the stored order, SmolLM2's perplexity on plain prose is five times as high).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor

from pahq.errors import PahqError, unknown
from pahq.model.sources.ggufgemma import LAYER as GEMMA_LAYER
from pahq.model.sources.ggufgemma import gemma_settings, gemma_tokenizer
from pahq.model.weights import ModelConfig
from pahq.sentences import one_sentence

COMMAND = "pip install --no-deps gguf==0.19.0"
KINDS = ("llama", "gemma3")
_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's types of tokens that are matched before any splitting
_LAYER = {
    "attn_norm.weight": "ln1.w",
    "ffn_norm.weight": "ln2.w",
    "attn_q.weight": "attn.W_Q",
    "attn_k.weight": "attn.W_K",
    "attn_v.weight": "attn.W_V",
    "attn_output.weight": "attn.W_O",
    "ffn_gate.weight": "mlp.W_gate",
    "ffn_up.weight": "mlp.W_in",
    "ffn_down.weight": "mlp.W_out",
}
_WHOLE = {"token_embd.weight": "embed.W_E", "output_norm.weight": "ln_final.w", "output.weight": "unembed.W_U"}


def read_gguf(path: Path, name: str) -> tuple[ModelConfig, dict[str, Tensor], str | None]:
    """The configuration, the tensors (TransformerLens names, float32) and the tokenizer.json of a GGUF file.

    The tokenizer is None where the file has none. Raises PahqError when the package ``gguf`` is missing, the file is
    no GGUF file, or the model is not one that the functional forward computes.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise PahqError(f"reading {path.name} needs the package gguf: {COMMAND}") from None
    try:
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise PahqError(f"{path} is truncated or no GGUF file ({error})") from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    config = gguf_config(metadata, name, tied="output.weight" not in stored)
    tensors = {}
    for source, target in _names(config, stored).items():
        part = stored[source]
        try:
            values = dequantize(part.data, part.tensor_type)
        except NotImplementedError:
            raise PahqError(f"tensor {source!r} has the unknown type {part.tensor_type.name}") from None
        tensors[target] = _arranged(config, target, torch.from_numpy(np.array(values, dtype=np.float32)))
    return config, tensors, gguf_tokenizer(metadata)


def gguf_config(metadata: Mapping[str, Any], name: str, *, tied: bool) -> ModelConfig:
    """The ModelConfig of a GGUF file's metadata; PahqError for another architecture, rope scaling or experts."""
    kind = metadata.get("general.architecture")
    if kind not in KINDS:
        raise unknown("GGUF architecture", kind, KINDS)
    for key, feature in (("rope.scaling.type", "rope scaling"), ("expert_count", "a mixture of experts")):
        if metadata.get(f"{kind}.{key}") not in (None, "none", 0):
            raise PahqError(f"model {name!r} needs {feature}, which this forward pass does not do")
    heads, d_model = _count(metadata, "attention.head_count"), _count(metadata, "embedding_length")
    d_head, layers = metadata.get(f"{kind}.attention.key_length", d_model // heads), _count(metadata, "block_count")
    if metadata.get(f"{kind}.rope.dimension_count", d_head) != d_head:
        raise PahqError(f"model {name!r} needs partial rotary positions, which this forward pass does not do")
    vocabulary = metadata.get(f"{kind}.vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ()))
    own: dict[str, Any] = {"activation": "silu"} if kind == "llama" else gemma_settings(metadata, layers, d_model)
    try:
        return ModelConfig(
            name=name,
            layers=layers,
            heads=heads,
            kv_heads=metadata.get(f"{kind}.attention.head_count_kv", heads),
            d_model=d_model,
            d_head=d_head,
            d_mlp=_count(metadata, "feed_forward_length"),
            d_vocab=vocabulary,
            d_vocab_out=vocabulary,
            context=_count(metadata, "context_length"),
            norm="rms",
            eps=_decimal(metadata.get(f"{kind}.attention.layer_norm_rms_epsilon", 1e-5)),
            gated=True,
            positions="rotary",
            rotary_base=_decimal(metadata.get(f"{kind}.rope.freq_base", 10000.0)),
            tied_embedding=tied,
            **own,
        )
    except ValidationError as error:
        raise PahqError(f"the metadata of the GGUF model {name!r} is impossible: {one_sentence(error)}") from None


def gguf_tokenizer(metadata: Mapping[str, Any]) -> str | None:
    """tokenizer.json of a byte-level BPE: the file's tokens and merges, every digit a token of its own; or Gemma's.

    That digits stand alone, and then GPT-2's splitting, is what the pre-tokenizer named ``smollm`` means. Raises
    PahqError for a tokenizer of another kind.
    """
    if "tokenizer.ggml.model" not in metadata:
        return None
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = f"{metadata['tokenizer.ggml.model']} {metadata.get('tokenizer.ggml.pre', '')}"
    if kind == "llama default":
        return gemma_tokenizer(metadata)
    if kind != "gpt2 smollm":
        raise unknown("GGUF tokenizer", kind, ("gpt2 smollm", "llama default"))
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(token, special=kind == _CONTROL, normalized=False) for token, kind in added])
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n"


def _names(config: ModelConfig, stored: Mapping[str, Any]) -> dict[str, str]:
    """Our name of every stored tensor; a tensor without one belongs to a model that is not computed here."""
    names, of_layer = dict(_WHOLE), _LAYER | (GEMMA_LAYER if config.post_norms else {})
    for i in range(config.layers):
        names |= {f"blk.{i}.{source}": f"blocks.{i}.{target}" for source, target in of_layer.items()}
    surplus = sorted(set(stored) - set(names))
    if surplus:
        raise PahqError(f"model {config.name!r} has no tensor {surplus[0]!r} ({len(surplus)} unexpected in all)")
    return {source: target for source, target in names.items() if source in stored}


def _arranged(config: ModelConfig, target: str, values: Float[Tensor, "out in"]) -> Tensor:
    """A stored matrix [out, in] in our order of axes, with a head axis where there is one."""
    place = target.split(".")[-1]
    if place in ("w", "W_E"):
        return values
    if place == "W_O":
        return values.T.reshape(config.heads, config.d_head, config.d_model).contiguous()
    if place in ("W_Q", "W_K") and not config.post_norms:
        values = half_split(values, config.heads if place == "W_Q" else config.kv_heads)
    if place in ("W_Q", "W_K", "W_V"):
        return values.reshape(-1, config.d_head, config.d_model).transpose(1, 2).contiguous()
    return values.T.contiguous()


def half_split(weight: Float[Tensor, "row d_model"], heads: int) -> Float[Tensor, "row d_model"]:
    """Undo llama.cpp's order of a head's rows: (0, e/2, 1, e/2 + 1, ...) becomes (0, 1, ..., e - 1)."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _count(metadata: Mapping[str, Any], key: str) -> int:
    kind = metadata["general.architecture"]
    value = metadata.get(f"{kind}.{key}")
    if not isinstance(value, int) or value < 1:
        raise PahqError(f"the GGUF metadata need a positive whole number as '{kind}.{key}', got {value!r}")
    return value


def _decimal(value: float) -> float:
    """The shortest decimal that rounds to this float32: what was meant by 9.999999747378752e-06 is 1e-05."""
    return float(str(np.float32(value)))
