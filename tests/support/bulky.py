"""Random small problems of shapes of which one part takes most of the memory: what an estimate of bytes may forget."""

from __future__ import annotations

import torch

from pahq.engine.problem import Problem, build_problem
from support import small_models

PROMPTS = 16
_SMALL = {"heads": 4, "kv_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 32, "context": 64}
SHAPES: dict[str, dict[str, object]] = {
    "MLPs": {"d_mlp": 1024},
    "gated MLPs": {"family": "llama", "d_mlp": 1024},
    "patterns": {"heads": 8, "kv_heads": 8, "d_model": 16, "d_head": 2, "d_mlp": 16, "length": 60},
    "inputs of heads": {"heads": 32, "kv_heads": 32, "d_head": 2},
    "streams": {"d_model": 512, "heads": 1, "kv_heads": 1, "d_mlp": 16},
    "layers": {"layers": 12},
}


def bulky_problem(shape: str) -> Problem:
    changes = {"family": "gpt2", "length": 6} | _SMALL | SHAPES[shape]
    family, length = str(changes.pop("family")), int(str(changes.pop("length")))
    model = small_models.random_model(family, dtype=torch.float32, **changes)
    prompts = small_models.random_prompts(model, batch=PROMPTS, length=length)
    return build_problem(model, prompts, metric="logit_diff", direct_edges=False)
