"""Tiny random models in the place of the papers' three: their layers and heads, their tokenizers' kind, no knowledge.

Graph and published circuits are the real models' own; what a search finds on such weights means nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pahq.model import save_model
from pahq.model.sources.tokenizer import byte_level_bpe
from support import gpt2_tokenizer, small_models

_HERE = Path(__file__).parent
BOS = "<|BOS|>"  # the docstring model's first token
_WIDTH = {"d_model": 8, "d_head": 2}
SHAPES = {  # by the name of the model's file in conf/model
    "gpt2": ("gpt2", {"layers": 12, "heads": 12, "kv_heads": 12, "d_mlp": 8, "context": 32}),
    "attn-only-4l": ("attention-only", {"layers": 4, "heads": 8, "kv_heads": 8, "context": 64}),
    "redwood": ("shortformer", {"layers": 2, "heads": 8, "kv_heads": 8, "context": 300}),
}
# Scale of the unembedding, and with it of all effects: GPT-2's graph is large, so that few of its edges may pass.
FAINT = {"gpt2": 0.05, "attn-only-4l": 1.0, "redwood": 0.1}


def write_stand_ins(folder: Path) -> dict[str, Path] | None:
    """A folder for each model, by name; None where GPT-2's tokenizer is not at hand."""
    place = gpt2_tokenizer.folder()
    if place is None:
        return None
    vocabulary = gpt2_tokenizer.vocabulary(place) | {BOS: 50257}
    tokenizer = byte_level_bpe(vocabulary, gpt2_tokenizer.merges(place))
    folders = {}
    for name, (family, shape) in SHAPES.items():
        size = {"d_vocab": len(vocabulary), "d_vocab_out": len(vocabulary)}
        model = small_models.random_model(family, dtype=torch.float32, **_WIDTH, **size, **shape)
        folders[name] = folder / name
        save_model(replace(model, tokenizer=tokenizer, W_U=model.W_U * FAINT[name]), folders[name])
    return folders
