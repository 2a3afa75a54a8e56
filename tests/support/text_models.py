"""Models that know nothing: tasks ask them for their words or their tokenizer, and their context, alone."""

from __future__ import annotations

import torch

from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig
from pahq.tasks.words import VOCABULARY


def word_model(vocabulary: tuple[str, ...] | None = VOCABULARY, *, context: int = 48) -> Model:
    return ignorant("words", len(vocabulary or VOCABULARY), context, vocabulary=vocabulary)


def text_model(tokenizer: str, size: int, *, context: int = 1024) -> Model:
    return ignorant("text", size, context, tokenizer=tokenizer)


def ignorant(name: str, size: int, context: int, **text: object) -> Model:
    config = ModelConfig(
        name=name,
        layers=1,
        heads=1,
        kv_heads=1,
        d_model=2,
        d_head=2,
        d_mlp=0,
        d_vocab=size,
        d_vocab_out=size,
        context=context,
        norm="none",
    )
    tensors = {name: torch.zeros(shape) for name, shape in tensor_shapes(config).items()}
    return model_from_tensors(config, tensors, **text)  # type: ignore[arg-type]
