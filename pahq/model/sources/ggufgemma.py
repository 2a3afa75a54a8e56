"""What a GGUF file of Gemma 3 says: its configuration, the names of its tensors, and its tokenizer.

llama.cpp stores the weights of Gemma's norms with the one added that transformers adds, and the rows of q and k in
their own order. It writes down neither which layers are local (all but every sixth) nor their rotary base (10,000),
since both are the same in every Gemma 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pahq.errors import PahqError

LAYER = {  # beside the tensors that every model of that kind has
    "post_attention_norm.weight": "ln1_post.w",
    "post_ffw_norm.weight": "ln2_post.w",
    "attn_q_norm.weight": "attn.q_norm.w",
    "attn_k_norm.weight": "attn.k_norm.w",
}
_EVERY, _LOCAL_BASE = 6, 10000.0
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # llama.cpp's types of tokens
_SPACE = "\u2581"


def gemma_settings(metadata: Mapping[str, Any], layers: int, d_model: int) -> dict[str, Any]:
    """What Gemma 3 has beside what every model of that kind has: fields of ``ModelConfig``."""
    return {
        "activation": "gelu_new",
        "qk_norm": True,
        "post_norms": True,
        "embed_scale": d_model**0.5,
        "local_layers": tuple(i for i in range(layers) if (i + 1) % _EVERY),
        "local_base": _LOCAL_BASE,
        "window": metadata.get("gemma3.attention.sliding_window"),
        "logit_cap": metadata.get("gemma3.final_logit_softcapping"),
    }


def gemma_tokenizer(metadata: Mapping[str, Any]) -> str:
    """tokenizer.json of a SentencePiece model of byte pairs: of two neighbours those are merged first whose union has
    the highest score. A space is part of the word behind it, and bytes stand for characters without a token."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    try:
        tokens, types, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
        unknown = tokens[metadata["tokenizer.ggml.unknown_token_id"]]
        bos = metadata["tokenizer.ggml.bos_token_id"]
    except (KeyError, IndexError) as error:
        raise PahqError(f"the tokenizer of a GGUF model of the kind 'llama' needs {error}") from None
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        raise PahqError("a GGUF tokenizer that puts a space before every text is not one that is read here")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    ranked = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind == _NORMAL:
            halves = ((token[:i], token[i:]) for i in range(1, len(token)))
            ranked += [
                (-score, vocabulary[one], vocabulary[two], (one, two))
                for one, two in halves
                if one in vocabulary and two in vocabulary
            ]
    merges = [pair for *_, pair in sorted(ranked)]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(token, special=kind == _CONTROL, normalized=False) for token, kind in added])
    if metadata.get("tokenizer.ggml.add_bos_token"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n"
