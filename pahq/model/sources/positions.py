"""What a Hugging Face config.json says of positions: rotary ones, their scaling, and windows of attention.

Every default and every precedence here is that of transformers (its ``modeling_rope_utils`` and configurations).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from pahq.errors import PahqError
from pahq.model.rotary import RotaryScaling

KINDS: tuple[str, ...] = get_args(RotaryScaling.model_fields["kind"].annotation)
_SHARES = {"gpt_neox": ("rotary_pct", 0.25), "phi": ("partial_rotary_factor", 0.5)}  # families that turn a part
_WINDOW = 4096  # the length of a window that the config leaves out
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary settings: ``rope_scaling`` (before transformers 5), then ``rope_parameters``. Gemma 3: global layers."""
    if values.get("model_type") == "gemma3_text":
        return _layer_ropes(values)[0]
    found = values.get("rope_scaling") or values.get("rope_parameters")
    return found if isinstance(found, dict) else {}


def _layer_ropes(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rotary settings of Gemma 3's global layers and of its local ones; older configs have them side by side."""
    found = values.get("rope_parameters") or {}
    apart = [found.get(kind) if isinstance(found, dict) else None for kind in (_GLOBAL, _LOCAL)]
    wide, near = (dict(each) if isinstance(each, dict) else {} for each in apart)
    older = values.get("rope_scaling")
    wide |= older if isinstance(older, dict) else {}
    wide.setdefault("rope_theta", values.get("rope_theta", 1_000_000.0))
    near.setdefault("rope_theta", values.get("rope_local_base_freq", 10_000.0))
    return wide, near


def local_base(values: Mapping[str, Any]) -> Any:
    """The rotary base of Gemma 3's local layers."""
    return _layer_ropes(values)[1]["rope_theta"]


def scales_locally(values: Mapping[str, Any]) -> bool:
    """Whether rope scaling is asked for in Gemma 3's local layers, where no released model has any."""
    near = _layer_ropes(values)[1]
    return near.get("rope_type", near.get("type", "default")) not in (None, "default")


def layer_types(values: Mapping[str, Any]) -> list[str]:
    """Gemma: which layers attend within a window, and which do not. PahqError for what is no such list."""
    layers, found = values.get("num_hidden_layers"), values.get("layer_types")
    if found is None:
        every = 2 if values.get("model_type") == "gemma2" else values.get("sliding_window_pattern", 6)
        if type(every) is not int or every < 1 or not isinstance(layers, int):
            raise PahqError(f"config.json needs a positive whole number as 'sliding_window_pattern', got {every!r}")
        return [_LOCAL if (i + 1) % every else _GLOBAL for i in range(layers)]
    known = isinstance(found, list) and set(found) <= {_LOCAL, _GLOBAL}
    if not known or (isinstance(layers, int) and len(found) < layers):
        raise PahqError(
            f"config.json needs {_LOCAL!r} or {_GLOBAL!r} for each of {layers} layers as 'layer_types', got {found!r}"
        )
    return list(found)[:layers]


def local_layers(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Gemma 3's local layers, by number."""
    return tuple(i for i, kind in enumerate(layer_types(values)) if kind == _LOCAL)


def rotary_base(values: Mapping[str, Any]) -> Any:
    name = "rotary_emb_base" if values.get("model_type") == "gpt_neox" else "rope_theta"
    return rope(values).get("rope_theta", values.get(name, 10000.0))


def rotary_dim(values: Mapping[str, Any], d_head: int) -> int | None:
    """How many numbers of a head turn; None: all of them. PahqError where that is no even number of them."""
    if values.get("model_type") not in _SHARES:
        return None
    name, default = _SHARES[values["model_type"]]
    share = rope(values).get("partial_rotary_factor", values.get(name, default))
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise PahqError(f"config.json needs a number above 0 and at most 1 as {name!r}, got {share!r}")
    dim = int(d_head * share)
    if dim % 2 or not dim:
        raise PahqError(f"{name} {share} makes {dim} of a head's {d_head} numbers rotary; an even number was expected")
    return None if dim == d_head else dim


def turns_partly(values: Mapping[str, Any]) -> bool:
    """Whether a model asks for partial rotary positions in a family that has none."""
    if values.get("model_type") in _SHARES:
        return False
    keys, places = ("partial_rotary_factor", "rotary_pct"), (values, rope(values))
    return any(place.get(key) not in (None, 1, 1.0) for place in places for key in keys)


def scaling_kind(values: Mapping[str, Any]) -> str | None:
    """The name of the rope scaling, known or not; None for none."""
    found = rope(values)
    kind = found.get("rope_type", found.get("type", "default"))
    return None if kind in (None, "default") else str(kind)


def rotary_scaling(values: Mapping[str, Any], context: int) -> RotaryScaling | None:
    """The rope scaling of a config whose kind is known; pydantic's ValidationError for entries that make no sense."""
    kind, found = scaling_kind(values), rope(values)
    if kind is None:
        return None
    entries: dict[str, Any] = {"kind": kind, "factor": found.get("factor")}
    if kind in ("llama3", "yarn"):
        entries["original"] = values.get(
            "original_max_position_embeddings", found.get("original_max_position_embeddings", context)
        )
    if kind == "llama3":
        entries |= {key: found.get(key) for key in ("low_freq_factor", "high_freq_factor")}
    if kind != "yarn":
        return RotaryScaling(**entries)
    if entries["factor"] is None and isinstance(entries["original"], int) and entries["original"] > 0:
        entries["factor"] = context / entries["original"]
    entries |= {key: found[key] for key in ("beta_fast", "beta_slow") if found.get(key)}
    scaling = RotaryScaling(**entries, truncate=found.get("truncate", True))
    grown = found.get("attention_factor")
    if grown is None:
        grown = _grown(scaling.factor, found.get("mscale"), found.get("mscale_all_dim"))
    return RotaryScaling(**scaling.model_dump() | {"attention_factor": grown})


def _grown(factor: float, scale: float | None, scale_all: float | None) -> float:
    """By how much yarn lets rotated numbers grow where the config does not say (transformers' ``get_mscale``)."""
    logarithm = 0.1 * math.log(factor) if factor > 1 else 0.0
    if scale and scale_all:
        return (scale * logarithm + 1) / (scale_all * logarithm + 1)
    return logarithm + 1


def window(values: Mapping[str, Any], context: int) -> int | None:
    """The sliding window of attention in some layer or all, where it is shorter than the context."""
    kind = values.get("model_type")
    if kind == "mistral":
        length = values.get("sliding_window", _WINDOW)
    elif kind in ("qwen2", "qwen3") and values.get("use_sliding_window"):
        layers, first = values.get("layer_types"), values.get("max_window_layers", 28)
        slides = _LOCAL in layers if layers else first < values["num_hidden_layers"]
        length = values.get("sliding_window", _WINDOW) if slides else None
    elif kind in ("gemma2", "gemma3_text"):
        length = values.get("sliding_window", _WINDOW) if _LOCAL in layer_types(values) else None
    else:
        return None
    if length is not None and (type(length) is not int or length < 1):
        raise PahqError(f"config.json needs a positive whole number or null as 'sliding_window', got {length!r}")
    return length if length is not None and length < context else None


def slides_unasked(values: Mapping[str, Any]) -> bool:
    """Whether layers slide in a family, or a setting of it, that has no window."""
    kind = values.get("model_type")
    known = kind in ("mistral", "gemma2", "gemma3_text") or (
        kind in ("qwen2", "qwen3") and values.get("use_sliding_window")
    )
    return not known and _LOCAL in (values.get("layer_types") or ())
