"""A word-level model that knows nothing: tasks ask it for its vocabulary and its context alone."""

from __future__ import annotations

import pytest
import torch

from pahq.model.weights import Model, ModelConfig, model_from_tensors, tensor_shapes
from pahq.tasks.words import VOCABULARY


def word_model(vocabulary: tuple[str, ...] | None = VOCABULARY, *, context: int = 48) -> Model:
    size = len(vocabulary or VOCABULARY)
    config = ModelConfig(
        name="words",
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
    return model_from_tensors(config, tensors, vocabulary=vocabulary)


@pytest.fixture
def model() -> Model:
    return word_model()


@pytest.fixture
def make_model():
    return word_model


@pytest.fixture
def words():
    """Token rows back in words."""
    return lambda tokens: [tuple(VOCABULARY[i] for i in row) for row in tokens.tolist()]
