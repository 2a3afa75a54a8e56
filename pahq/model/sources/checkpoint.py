"""Which tensors a Hugging Face checkpoint of a configuration has, and the check that it has them.

Names are without what stands before them in most checkpoints (``transformer.``, ``model.``, ``gpt_neox.``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pahq.errors import PahqError
from pahq.model.sources.families import family
from pahq.model.sources.tensorfile import Entry
from pahq.model.weights import ModelConfig

_IGNORED = re.compile(
    r"h\.\d+\.attn\.(bias|masked_bias)|layers\.\d+\.attention\.(bias|masked_bias)"
    r"|(layers\.\d+\.(self_attn|attention)\.)?rotary_emb\.inv_freq"
)


_GEMMA = {
    "ln1": "input_layernorm",
    "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm",
    "ln2_post": "post_feedforward_layernorm",
}
NORMS = {  # a layer's norms by our name, of models like Llama
    "llama": {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": {name: _GEMMA[name] for name in ("ln1_post", "ln2_post")},
}


def _base(values: Mapping[str, Any]) -> str:
    """What stands before the names of a family's tensors, in most checkpoints."""
    return {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}.get(family(values), "model.")


def short_name(values: Mapping[str, Any], name: str) -> str:
    """A tensor's name without what stands before it in most checkpoints; GPT-NeoX's unembedding has two."""
    short = name.removeprefix(_base(values))
    return "embed_out.weight" if family(values) == "gpt_neox" and short == "lm_head.weight" else short


def weight_entries(values: Mapping[str, Any], entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """A checkpoint's tensors without the buffers (masks, frequencies) that older versions of transformers saved.

    Every forward pass makes these itself, so neither their values nor their types matter.
    """
    return {name: entry for name, entry in entries.items() if not _IGNORED.fullmatch(short_name(values, name))}


def check_checkpoint(values: Mapping[str, Any], config: ModelConfig, entries: Mapping[str, Entry]) -> None:
    """Check a checkpoint's weights (``weight_entries``) against its config: all there, of their shape, none besides.

    transformers itself would fill a missing tensor with random numbers. Raises PahqError naming the tensor.
    """
    kind = family(values)
    shapes = {"gpt2": _gpt2_shapes, "gpt_neox": _neox_shapes, "phi": _phi_shapes}.get(kind, _llama_shapes)
    expected = shapes(values, config)
    found = {short_name(values, name): entry.shape for name, entry in entries.items()}
    head = "embed_out.weight" if kind == "gpt_neox" else "lm_head.weight"
    if not config.tied_embedding or head in found:
        expected[head] = (config.d_vocab, config.d_model)
    for name, shape in expected.items():
        if name not in found:
            raise PahqError(f"model {config.name!r} lacks the tensor {name!r} of shape {list(shape)}")
        if found[name] != shape:
            raise PahqError(f"tensor {name!r} has shape {list(found[name])}; {list(shape)} was expected")
    surplus = sorted(name for name in found if name not in expected)
    if surplus:
        raise PahqError(f"model {config.name!r} has no tensor {surplus[0]!r} ({len(surplus)} unexpected in all)")


def _gpt2_shapes(values: Mapping[str, Any], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, m = config.d_model, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.d_vocab, d),
        "wpe.weight": (config.context, d),
    }
    for i in range(config.layers):
        for name, shape in (
            ("attn.c_attn", (d, 3 * d)),
            ("attn.c_proj", (d, d)),
            ("mlp.c_fc", (d, m)),
            ("mlp.c_proj", (m, d)),
        ):
            shapes[f"h.{i}.{name}.weight"], shapes[f"h.{i}.{name}.bias"] = shape, (shape[1],)
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{name}.weight"] = shapes[f"h.{i}.{name}.bias"] = (d,)
    return shapes | {"ln_f.weight": (d,), "ln_f.bias": (d,)}


def _llama_shapes(values: Mapping[str, Any], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, m, e, kind = config.d_model, config.d_mlp, config.d_head, family(values)
    biased = kind not in ("mistral", "qwen2") and bool(values.get("attention_bias"))
    wide = {"q": config.heads * e, "k": config.kv_heads * e, "v": config.kv_heads * e}
    norms = NORMS.get(kind, NORMS["llama"])
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.d_vocab, d), "norm.weight": (d,)}
    for i in range(config.layers):
        attention = f"layers.{i}.self_attn."
        for letter, width in wide.items():
            shapes[f"{attention}{letter}_proj.weight"] = (width, d)
            if biased or kind == "qwen2":
                shapes[f"{attention}{letter}_proj.bias"] = (width,)
        shapes[f"{attention}o_proj.weight"] = (d, config.heads * e)
        if biased:
            shapes[f"{attention}o_proj.bias"] = (d,)
        if config.qk_norm:
            for letter in "qk":
                shapes[f"{attention}{letter}_norm.weight"] = (wide[letter] if config.qk_joint else e,)
        for name, shape in (("gate", (m, d)), ("up", (m, d)), ("down", (d, m))):
            shapes[f"layers.{i}.mlp.{name}_proj.weight"] = shape
        for name in norms.values():
            shapes[f"layers.{i}.{name}.weight"] = (d,)
    return shapes


def _neox_shapes(values: Mapping[str, Any], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, m = config.d_model, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {"embed_in.weight": (config.d_vocab, d)}
    for i in range(config.layers):
        at = f"layers.{i}."
        for name, shape in (("query_key_value", (3 * d, d)), ("dense", (d, d))):
            shapes[f"{at}attention.{name}.weight"] = shape
            if values.get("attention_bias", True):
                shapes[f"{at}attention.{name}.bias"] = shape[:1]
        shapes |= _linear(at + "mlp.dense_h_to_4h", m, d) | _linear(at + "mlp.dense_4h_to_h", d, m)
        shapes |= _layer_norm(at + "input_layernorm", d) | _layer_norm(at + "post_attention_layernorm", d)
    return shapes | _layer_norm("final_layer_norm", d)


def _phi_shapes(values: Mapping[str, Any], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, m, wide, shared = config.d_model, config.d_mlp, config.heads * config.d_head, config.kv_heads * config.d_head
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.d_vocab, d), "lm_head.bias": (config.d_vocab,)}
    for i in range(config.layers):
        at = f"layers.{i}."
        for letter, width in (("q", wide), ("k", shared), ("v", shared)):
            shapes |= _linear(f"{at}self_attn.{letter}_proj", width, d)
        shapes |= _linear(at + "self_attn.dense", d, wide)
        shapes |= _linear(at + "mlp.fc1", m, d) | _linear(at + "mlp.fc2", d, m)
        shapes |= _layer_norm(at + "input_layernorm", d)
    return shapes | _layer_norm("final_layernorm", d)


def _linear(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {name + ".weight": (out, inner), name + ".bias": (out,)}


def _layer_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {name + ".weight": (width,), name + ".bias": (width,)}
