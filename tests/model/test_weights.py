"""Configurations and sets of tensors: what is no model is refused, and the message names the tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support import small_models

from pahq.errors import PahqError
from pahq.model.sources import assembly
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import ModelConfig

BASE: dict[str, Any] = {
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "d_model": 12,
    "d_head": 4,
    "d_mlp": 6,
    "d_vocab": 9,
    "d_vocab_out": 9,
    "context": 8,
    "norm": "rms",
    "gated": True,
    "activation": "silu",
    "positions": "rotary",
    "qk_norm": True,
}


def tensors(config: ModelConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in tensor_shapes(config).items()}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"norm": "layer", "positions": "learned", "gated": False, "qk_norm": False, "kv_heads": 4},
        {"d_mlp": 0},
        {"tied_embedding": True},
        {"norm": "none", "d_vocab_out": 3},
    ],
)
def test_tensors_make_the_model_they_came_from(change: dict[str, Any]) -> None:
    config = ModelConfig(**BASE | change)
    given = tensors(config)
    model = model_from_tensors(config, given)
    back = model.tensors()
    assert back.keys() == given.keys()
    assert all(torch.equal(back[name], given[name]) for name in given)
    assert len(model.layers) == 2
    if config.tied_embedding:
        assert torch.equal(model.W_U, model.W_E.T)


def test_shapes_follow_transformer_lens() -> None:
    shapes = tensor_shapes(ModelConfig(**BASE))
    assert shapes["blocks.1.attn.W_Q"] == (4, 12, 4)
    assert shapes["blocks.1.attn.W_K"] == (2, 12, 4)  # once per key-value head
    assert shapes["blocks.1.attn.b_V"] == (2, 4)
    assert shapes["blocks.0.attn.W_O"] == (4, 4, 12)
    assert shapes["blocks.0.attn.k_norm.w"] == (4,)
    assert shapes["blocks.0.mlp.W_gate"] == shapes["blocks.0.mlp.W_in"] == (12, 6)
    assert shapes["unembed.W_U"] == (12, 9)
    assert not {"pos_embed.W_pos", "ln_final.b"} & set(shapes)


@pytest.mark.parametrize("name", ["attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "mlp.b_in", "mlp.b_out"])
def test_absent_biases_are_zero(name: str) -> None:
    config = ModelConfig(**BASE)
    given = tensors(config)
    shape = given.pop(f"blocks.1.{name}").shape
    assert torch.equal(model_from_tensors(config, given).tensors()[f"blocks.1.{name}"], torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.1.attn.W_K", None, r"lacks the tensor 'blocks.1.attn.W_K' of shape \[2, 12, 4\]"),
        ("blocks.0.ln1.w", None, "lacks the tensor 'blocks.0.ln1.w'"),
        ("unembed.W_U", None, "lacks the tensor 'unembed.W_U'"),
        (
            "blocks.0.attn.W_K",
            torch.zeros(4, 12, 4),
            r"'blocks.0.attn.W_K' has shape \[4, 12, 4\]; \[2, 12, 4\]",
        ),
        ("blocks.0.attn.b_Q", torch.zeros(16), r"'blocks.0.attn.b_Q' has shape \[16\]"),
        ("blocks.2.attn.W_Q", torch.zeros(1), r"no tensor 'blocks.2.attn.W_Q' \(1 unexpected in all\)"),
        ("embed.W_E", torch.full((9, 12), float("nan")), "'embed.W_E' holds NaN or infinite"),
        ("blocks.0.mlp.b_in", torch.full((6,), float("inf")), "'blocks.0.mlp.b_in' holds NaN or infinite"),
    ],
)
def test_a_wrong_tensor_is_named(name: str, value: torch.Tensor | None, message: str) -> None:
    config = ModelConfig(**BASE)
    given: dict[str, Any] = tensors(config) | {name: value}
    with pytest.raises(PahqError, match=message):
        model_from_tensors(config, {key: tensor for key, tensor in given.items() if tensor is not None})


def test_no_tensors_at_all_are_no_model() -> None:
    with pytest.raises(PahqError, match=r"lacks the tensor 'embed.W_E'"):
        model_from_tensors(ModelConfig(**BASE), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 3}, "4 heads cannot share 3"),
        ({"d_head": 5}, "even d_head"),
        ({"tied_embedding": True, "d_vocab_out": 4}, "one vocabulary"),
        ({"d_mlp": -1}, "d_mlp"),
        ({"eps": 0.0}, "eps"),
        ({"rotary_base": -1.0}, "rotary_base"),
        ({"rotary_dim": 3}, "rotary_dim must be even and at most d_head"),
        ({"rotary_dim": 40}, "rotary_dim must be even and at most d_head"),
        ({"positions": "learned", "rotary_dim": 2}, "belong to rotary positions, not to learned"),
        ({"rotary_scaling": {"kind": "ntk", "factor": 2.0}}, "'linear', 'dynamic', 'llama3' or 'yarn'"),
        ({"rotary_scaling": {"kind": "yarn", "factor": 2.0}}, "rope scaling yarn needs the original context"),
        ({"window": 0}, "window"),
        ({"norm": "batch"}, "norm"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**BASE | change)


def test_a_rotary_model_has_no_position_sender() -> None:
    with pytest.raises(PahqError, match="no position embedding"):
        ModelConfig(**BASE).shape(split_embed=True)


def test_a_tied_unembedding_stays_tied() -> None:
    config = ModelConfig(**BASE | {"tied_embedding": True})
    model = model_from_tensors(config, tensors(config)).to(dtype=torch.float64)
    assert model.W_U.data_ptr() == model.W_E.data_ptr()
    assert {tensor.dtype for tensor in model.tensors().values()} == {torch.float64}


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(
    place: int, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "PART", 3)
    values = torch.arange(10.0).view(2, 5)
    assert assembly.all_finite(values)
    assert assembly.all_finite(values.T)
    assert assembly.all_finite(values[:0])
    values.view(-1)[place] = bad
    assert not assembly.all_finite(values)
    assert not assembly.all_finite(values.T)


def test_a_model_shows_itself_in_one_line() -> None:
    model = small_models.random_model("gpt2", dtype=torch.float32)
    assert repr(model).startswith(f"Model 'gpt2': {model.config.layers} layers of {model.config.heads} heads, d_model ")
    assert repr(model).endswith("tokens, float32 on cpu")
    assert "\n" not in repr(model)
