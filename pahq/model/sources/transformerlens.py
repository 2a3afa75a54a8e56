"""Models in TransformerLens' own terms: its configuration and state dictionary, read without TransformerLens.

Some models exist only as a config.json with TransformerLens' names and a pickle. This package reads no pickle. What the
user's own Python has read from one becomes a Model here, and ``save_model`` makes a folder of it (docs/models.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from pahq.errors import PahqError, unknown
from pahq.model.sources.assembly import model_from_tensors
from pahq.model.weights import Model, ModelConfig
from pahq.sentences import one_sentence

_BUFFERS = re.compile(r"blocks\.\d+\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)")  # constants beside the weights
# What the forward pass takes for granted, by TransformerLens' names.
_FIXED = {
    "final_rms": False,
    "rotary_adjacent_pairs": False,
    "rotary_interleaved_cos_sin": False,
    "scale_attn_by_inverse_layer_idx": False,
    "use_attn_scale": True,
    "use_local_attn": False,
    "use_NTK_by_parts_rope": False,
}


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """A TransformerLens configuration, or the config.json of a repository in its terms, as a ModelConfig."""
    norms = {"LN": "layer", "LNPre": "layer", "RMS": "rms", "RMSPre": "rms", None: "none"}
    norm = values.get("normalization_type", values.get("normalization"))
    for name, wanted in _FIXED.items():
        if values.get(name) not in (None, wanted):
            raise PahqError(
                f"a TransformerLens model with {name} = {values[name]!r} is not supported; {wanted!r} was expected"
            )
    if norm not in norms:
        raise unknown("normalization_type", norm, [str(name) for name in norms])
    positions = {"standard": "learned", "rotary": "rotary", "shortformer": "shortformer"}
    kind = values.get("positional_embedding_type", "shortformer" if values.get("shortformer_pos") else "standard")
    if kind not in positions:
        raise unknown("positional_embedding_type", kind, positions)
    turned = values.get("rotary_dim")
    only = bool(values.get("attn_only", False))
    activation = values.get("act_fn") or "gelu_new"
    known = ModelConfig.model_fields["activation"].annotation.__args__  # type: ignore[union-attr]
    if not only and activation not in known:
        raise unknown("act_fn", activation, known)
    return ModelConfig(
        name=str(values.get("model_name", "recorded")),
        layers=values["n_layers"],
        heads=values["n_heads"],
        kv_heads=values.get("n_key_value_heads") or values["n_heads"],
        d_model=values["d_model"],
        d_head=values["d_head"],
        d_mlp=0 if only else values.get("d_mlp") or 4 * values["d_model"],
        d_vocab=values["d_vocab"],
        d_vocab_out=values["d_vocab"] if (values.get("d_vocab_out") or -1) < 0 else values["d_vocab_out"],
        context=values["n_ctx"],
        norm=norms[norm],
        eps=values.get("eps", 1e-5),
        activation="gelu_new" if only else activation,
        gated=bool(values.get("gated_mlp", False)),
        positions=positions[kind],
        rotary_base=float(values.get("rotary_base", 10000)),
        rotary_dim=turned if kind == "rotary" and turned != values["d_head"] else None,
        causal=values.get("attention_dir", "causal") == "causal",
        qk_norm=bool(values.get("use_qk_norm", False)),
        block="parallel" if values.get("parallel_attn_mlp") else "serial",
    )


def fill_norms(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``LNPre`` and ``RMSPre`` store no norm weights, since these were folded into what follows: ones and zeros."""
    norm = str(config.get("normalization_type", config.get("normalization")))
    if not norm.endswith("Pre"):
        return dict(weights)
    ones = torch.ones(config["d_model"])
    names = ["ln_final"] + [f"blocks.{i}.ln{n}" for i in range(config["n_layers"]) for n in (1, 2)]
    if config.get("attn_only"):
        names = [name for name in names if not name.endswith("ln2")]
    filled = {f"{name}.w": ones for name in names}
    if norm == "LNPre":
        filled |= {f"{name}.b": torch.zeros_like(ones) for name in names}
    return filled | dict(weights)


def from_transformer_lens(values: Mapping[str, Any], state: Mapping[str, Tensor], name: str) -> Model:
    """The model of a TransformerLens configuration and state dictionary, whose tensors are per head as here.

    ``values``: the entries of HookedTransformerConfig, or a repository's config.json. 16-bit tensors become float32.
    Raises PahqError in one sentence for an entry or tensor that is missing, unknown or does not fit.
    """
    try:
        config = model_config(values).model_copy(update={"name": name})
    except KeyError as error:
        raise PahqError(f"the configuration of model {name!r} lacks {error}") from None
    except ValidationError as error:
        raise PahqError(f"the configuration of model {name!r} is impossible: {one_sentence(error)}") from None
    weights = {}
    for key, tensor in state.items():
        if _BUFFERS.fullmatch(key):
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise PahqError(f"entry {key!r} of model {name!r} is no floating-point tensor")
        weights[key] = tensor.detach().float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.detach()
    return model_from_tensors(config, fill_norms(values, weights))
