"""What a Hugging Face config.json means for the forward pass.

Read from the JSON itself: it is checked before transformers is imported, and the TransformerBridge's own
configuration is wrong on some of it (its rotary base reads 10000 whatever the model's is). A feature that the
functional forward does not have is refused by name; running on without it would give a different model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pahq.errors import PahqError, unknown
from pahq.model.sources.positions import (
    KINDS,
    local_base,
    local_layers,
    rope,
    rotary_base,
    rotary_dim,
    rotary_scaling,
    scales_locally,
    scaling_kind,
    slides_unasked,
    turns_partly,
    window,
)
from pahq.model.weights import Activation, ModelConfig
from pahq.sentences import one_sentence

FAMILIES = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GPTNeoXForCausalLM": "gpt_neox",
    "PhiForCausalLM": "phi",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Olmo2ForCausalLM": "olmo2",
}
NORMED_BEHIND = ("gemma2", "gemma3_text", "olmo2")  # families with norms behind attention and MLP
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
    "swish": "silu",
}


def family(values: Mapping[str, Any]) -> str:
    """The family (``model_type``) of a config; PahqError names an unsupported one and the known ones."""
    architectures = values.get("architectures") or []
    kind = values.get("model_type")
    known = f"known: {', '.join(f'{name} ({kind})' for name, kind in FAMILIES.items())}"
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if name is None and kind in FAMILIES.values():
        return str(kind)
    if name not in FAMILIES:
        feature = missing_feature(values)
        why = f" (it needs {feature})" if feature else ""
        raise PahqError(f"architecture {name or kind!r} is not supported{why}; {known}")
    if kind != FAMILIES[name]:
        raise PahqError(f"architecture {name!r} does not go with model_type {kind!r}; {known}")
    return FAMILIES[name]


def missing_feature(values: Mapping[str, Any]) -> str | None:
    """The first thing a config asks for that the functional forward lacks, in words; None if nothing."""
    scaling, kind = scaling_kind(values), values.get("model_type")
    gemma = kind in ("gemma2", "gemma3_text")
    found = {
        f"rope scaling of the kind {scaling!r} (known: {', '.join(KINDS)})": scaling not in (None, *KINDS),
        "rotary positions that differ between layers": any(isinstance(value, dict) for value in rope(values).values()),
        "partial rotary positions": turns_partly(values),
        "soft caps on attention or logits": any(
            values.get(key) and not gemma
            for key in ("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap")
        ),
        "images": bool(values.get("vision_config")),
        "attention in both directions": gemma and bool(values.get("use_bidirectional_attention")),
        "rope scaling in local layers": kind == "gemma3_text" and scales_locally(values),
        "a mixture of experts": any(
            values.get(key) for key in ("num_local_experts", "num_experts", "n_routed_experts")
        ),
        "ALiBi positions": bool(values.get("alibi")),
        "attention and MLP in parallel": bool(
            (values.get("use_parallel_residual") and kind != "gpt_neox") or values.get("parallel_attn")
        ),
        "layer norms of queries and keys": bool(values.get("qk_layernorm")),
        "quantised weights": bool(values.get("quantization_config")),
        "attention scores scaled by layer": bool(values.get("scale_attn_by_inverse_layer_idx")),
        "unscaled attention scores": values.get("scale_attn_weights") is False,
        "cross attention": bool(values.get("add_cross_attention") or values.get("is_encoder_decoder")),
        "a bias in the gated MLP": bool(values.get("mlp_bias")),
        "sliding attention in some layers": slides_unasked(values),
    }
    return next((feature for feature, needed in found.items() if needed), None)


def model_config(values: Mapping[str, Any], name: str) -> ModelConfig:
    """The ModelConfig of a Hugging Face config.json.

    ``tied_embedding`` is what the config claims; the loader settles it on the weights. Raises PahqError for
    an unsupported architecture or feature, and for a missing or impossible entry.
    """
    kind = family(values)
    feature = missing_feature(values)
    if feature:
        raise PahqError(f"model {name!r} needs {feature}, which this forward pass does not do")
    try:
        if kind in ("gpt_neox", "phi"):
            return _neox_like(kind, values, name)
        if kind in ("gemma2", "gemma3_text"):
            return _gemma(kind, values, name)
        return _gpt2(values, name) if kind == "gpt2" else _llama_like(kind, values, name)
    except ValidationError as error:
        raise PahqError(f"the config.json of model {name!r} is impossible: {one_sentence(error)}") from None


def _gpt2(values: Mapping[str, Any], name: str) -> ModelConfig:
    d_model, heads = _count(values, "n_embd"), _count(values, "n_head")
    vocabulary = _count(values, "vocab_size")
    return ModelConfig(
        name=name,
        family=_family_name(values),
        layers=_count(values, "n_layer"),
        heads=heads,
        kv_heads=heads,
        d_model=d_model,
        d_head=_share(d_model, heads),
        d_mlp=_count(values, "n_inner", 4 * d_model),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        context=_count(values, "n_positions"),
        norm="layer",
        eps=values.get("layer_norm_epsilon", 1e-5),
        activation=_activation(values.get("activation_function", "gelu_new")),
        tied_embedding=values.get("tie_word_embeddings", True),
    )


def _llama_like(kind: str, values: Mapping[str, Any], name: str) -> ModelConfig:
    d_model, heads = _count(values, "hidden_size"), _count(values, "num_attention_heads")
    context = _count(values, "max_position_embeddings")
    # Only Llama's own default for these two is a function of the other sizes; elsewhere it is an arbitrary
    # number.
    kv_default = heads if kind in ("llama", "olmo2") or "num_key_value_heads" in values else None
    head_default = None if kind == "qwen3" and "head_dim" not in values else _share(d_model, heads, values)
    vocabulary = _count(values, "vocab_size")
    return ModelConfig(
        name=name,
        family=_family_name(values),
        layers=_count(values, "num_hidden_layers"),
        heads=heads,
        kv_heads=_count(values, "num_key_value_heads", kv_default),
        d_model=d_model,
        d_head=_count(values, "head_dim", head_default),
        d_mlp=_count(values, "intermediate_size"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        context=context,
        norm="rms",
        eps=values.get("rms_norm_eps", 1e-5 if kind == "olmo2" else 1e-6),
        activation=_activation(values.get("hidden_act", "silu")),
        gated=True,
        positions="rotary",
        rotary_base=rotary_base(values),
        rotary_scaling=rotary_scaling(values, context),
        window=window(values, context),
        tied_embedding=values.get("tie_word_embeddings", False),
        qk_norm=kind in ("qwen3", "olmo2"),
        qk_joint=kind == "olmo2",
        pre_norms=kind != "olmo2",
        post_norms=kind == "olmo2",
        sum_bias=kind == "olmo2" and bool(values.get("attention_bias")),
    )


def _gemma(kind: str, values: Mapping[str, Any], name: str) -> ModelConfig:
    """Gemma 2 and the text models of Gemma 3. transformers leaves Gemma 3's ``attn_logit_softcapping`` unread."""
    two = kind == "gemma2"
    d_model, vocabulary = _count(values, "hidden_size"), _count(values, "vocab_size", None if two else 262_208)
    context = _count(values, "max_position_embeddings", 8192 if two else 131_072)
    return ModelConfig(
        name=name,
        family=_family_name(values),
        layers=_count(values, "num_hidden_layers"),
        heads=_count(values, "num_attention_heads"),
        kv_heads=_count(values, "num_key_value_heads"),
        d_model=d_model,
        d_head=_count(values, "head_dim", 256),
        d_mlp=_count(values, "intermediate_size"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        context=context,
        norm="rms",
        eps=values.get("rms_norm_eps", 1e-6),
        activation=_activation(values.get("hidden_activation") or "gelu_pytorch_tanh"),
        gated=True,
        positions="rotary",
        rotary_base=rotary_base(values),
        rotary_scaling=rotary_scaling(values, context),
        local_layers=() if two else local_layers(values),
        local_base=10000.0 if two else local_base(values),
        window=window(values, context),
        tied_embedding=values.get("tie_word_embeddings", True),
        qk_norm=not two,
        embed_scale=d_model**0.5,
        attention_scale=_scale(values.get("query_pre_attn_scalar", 256)),
        score_cap=values.get("attn_logit_softcapping", 50.0) if two else None,
        logit_cap=values.get("final_logit_softcapping", 30.0 if two else None),
        post_norms=True,
        sum_bias=bool(values.get("attention_bias")),
    )


def _neox_like(kind: str, values: Mapping[str, Any], name: str) -> ModelConfig:
    """GPT-NeoX (Pythia) and Phi: biases everywhere, positions in a part of every head, mostly parallel blocks."""
    d_model, heads = _count(values, "hidden_size"), _count(values, "num_attention_heads")
    context, vocabulary = _count(values, "max_position_embeddings"), _count(values, "vocab_size")
    phi = kind == "phi"
    d_head = _count(values, "head_dim", _share(d_model, heads, values)) if phi else _share(d_model, heads)
    return ModelConfig(
        name=name,
        family=_family_name(values),
        layers=_count(values, "num_hidden_layers"),
        heads=heads,
        kv_heads=_count(values, "num_key_value_heads", heads) if phi else heads,
        d_model=d_model,
        d_head=d_head,
        d_mlp=_count(values, "intermediate_size"),
        d_vocab=vocabulary,
        d_vocab_out=vocabulary,
        context=context,
        norm="layer",
        eps=values.get("layer_norm_eps", 1e-5),
        activation=_activation(values.get("hidden_act", "gelu_new" if phi else "gelu")),
        positions="rotary",
        rotary_base=rotary_base(values),
        rotary_dim=rotary_dim(values, d_head),
        rotary_scaling=rotary_scaling(values, context),
        tied_embedding=values.get("tie_word_embeddings", False),
        block="parallel" if phi or values.get("use_parallel_residual", True) else "serial",
    )


def _scale(scalar: Any) -> float:
    """What attention scores are multiplied with."""
    if isinstance(scalar, bool) or not isinstance(scalar, int | float) or not scalar > 0:
        raise PahqError(f"config.json needs a number above 0 as 'query_pre_attn_scalar', got {scalar!r}")
    return 1 / math.sqrt(scalar)


def _family_name(values: Mapping[str, Any]) -> str:
    kind = family(values)
    return f"{kind} ({next(name for name, known in FAMILIES.items() if known == kind)})"


def _count(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = values.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PahqError(f"config.json needs a positive whole number as {key!r}, got {value!r}")
    return value


def _share(d_model: int, heads: int, values: Mapping[str, Any] | None = None) -> int:
    if d_model % heads and not (values or {}).get("head_dim"):
        raise PahqError(f"a residual stream of {d_model} cannot be shared evenly by {heads} heads")
    return d_model // heads


def _activation(name: object) -> Activation:
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[str(name)]
