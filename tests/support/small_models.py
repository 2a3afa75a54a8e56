"""Random small models of every family, with prompts for them: what the tests of searches and engines run on.

Every weight, bias and norm is random, so no term can be forgotten without a test seeing it.
"""

from __future__ import annotations

import torch

from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig
from pahq.tasks.task import Prompts, last_items

_BASE = {"layers": 2, "d_model": 12, "d_head": 4, "d_vocab": 11, "d_vocab_out": 11, "context": 8}
_GPT2 = {"heads": 3, "kv_heads": 3, "d_mlp": 10, "norm": "layer"}
_ROTARY = {"norm": "rms", "positions": "rotary", "activation": "silu", "gated": True, "d_mlp": 10}
_PARTLY = {"positions": "rotary", "rotary_dim": 2}
_YARN = {"kind": "yarn", "factor": 4.0, "original": 40, "beta_fast": 4.0, "attention_factor": 1.2}
_GEMMA = _ROTARY | {"activation": "gelu_new", "embed_scale": 0.4, "attention_scale": 0.7, "local_base": 20.0}
_GEMMA |= {"post_norms": True, "eps": 1e-2}
_JOINT = {"qk_norm": True, "qk_joint": True, "sum_bias": True}
FAMILIES: dict[str, dict[str, object]] = {
    "gpt2": _GPT2,
    "attention-only": {"heads": 3, "kv_heads": 3, "d_mlp": 0, "norm": "layer"},
    "shortformer": {"heads": 3, "kv_heads": 3, "d_mlp": 0, "norm": "layer", "positions": "shortformer"},
    "tracr": {"heads": 1, "kv_heads": 1, "d_mlp": 7, "norm": "none", "activation": "relu", "causal": False},
    "llama": _ROTARY | {"heads": 4, "kv_heads": 2, "rotary_scaling": _YARN},
    "parallel": _GPT2 | {"heads": 4, "kv_heads": 2, "block": "parallel", "activation": "gelu"} | _PARTLY,
    "gemma2": _GEMMA | {"heads": 3, "kv_heads": 3, "score_cap": 1.5, "logit_cap": 2.0},
    "gemma3": _GEMMA
    | {"heads": 4, "kv_heads": 2, "qk_norm": True, "tied_embedding": True, "local_layers": (0,)}
    | {"sum_bias": True},
    "olmo2": _ROTARY | {"heads": 4, "kv_heads": 2, "post_norms": True, "pre_norms": False, "eps": 1e-2} | _JOINT,
    "qwen": _ROTARY | {"heads": 4, "kv_heads": 1, "qk_norm": True, "tied_embedding": True, "rotary_base": 50.0},
}


def random_model(family: str, seed: int = 0, *, dtype: torch.dtype = torch.float64, **changes: object) -> Model:
    """A random model of a family of ``FAMILIES``; ``changes`` override its configuration."""
    config = ModelConfig(**(_BASE | {"name": family} | FAMILIES[family] | changes))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1000 + seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) > 1 and not name.endswith(("b_Q", "b_K", "b_V", ".w")):
            values *= 1.5 * (shape[-2] if "embed" not in name else 1) ** -0.5
        elif name.endswith(".w"):
            values = 1 + 0.3 * values
        else:
            values *= 0.3
        # float32 numbers whatever the dtype, so that both dtypes are the same model and the formats see what they store
        tensors[name] = values.float().to(dtype)
    return model_from_tensors(config, tensors)


def random_prompts(
    model: Model, seed: int = 0, *, batch: int = 3, length: int = 5, every_item: bool = False, same: int = 0
) -> Prompts:
    """Clean and corrupted tokens that differ in most places, not in the first ``same``; metrics at the last position,
    or at all where something differs."""
    generator = torch.Generator().manual_seed(2000 + seed)
    clean, corrupted = torch.randint(model.config.d_vocab, (2, batch, length), generator=generator)
    corrupted[:, :same] = clean[:, :same]
    items = (
        torch.cartesian_prod(torch.arange(batch), torch.arange(same, length))
        if every_item
        else last_items(batch, length)
    )
    answer, wrong = torch.randint(model.config.d_vocab_out, (2, len(items)), generator=generator)
    sign = torch.randint(-1, 2, (len(items), model.config.d_vocab_out), generator=generator).float()
    choices = torch.randint(model.config.d_vocab_out, (len(items), 3), generator=generator)
    targets = {"answer": answer, "wrong": wrong, "sign": sign, "choices": choices, "columns": torch.tensor([0, 2])}
    return Prompts(clean, corrupted, items, targets)
