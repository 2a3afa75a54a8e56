"""TransformerLens' terms read without it: the page's own snippet on pickles of the two forms, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.places import ROOT
from support.plain_forward import logits as ORACLE
from torch import Tensor

from pahq.errors import PahqError
from pahq.model import load_model
from pahq.model.forward import logits
from pahq.model.sources.transformerlens import from_transformer_lens

SNIPPET = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
TOKENS = torch.tensor([[3, 7, 4, 0, 10, 1], [8, 8, 5, 2, 9, 1]])
LAYERS, HEADS, D, E, VOCAB, CONTEXT = 2, 4, 12, 3, 11, 8
SIZES = {"n_layers": LAYERS, "n_heads": HEADS, "d_model": D, "d_head": E, "d_vocab": VOCAB, "n_ctx": CONTEXT}
# As the two repositories state themselves: attn-only-4l has d_mlp all the same, redwood_attn_2l its kind of positions.
PAPER_MODELS: dict[str, dict[str, Any]] = {
    "attn-only-4l": SIZES | {"attn_only": True, "d_mlp": 48, "act_fn": "solu_ln", "normalization": "LN"},
    "redwood_attn_2l": SIZES | {"attn_only": True, "d_mlp": -1, "normalization": "LN", "shortformer_pos": True},
}


def random_state(*, norms: bool = True, mlp: int = 0) -> dict[str, Tensor]:
    """A state dictionary as a HookedTransformer had it, buffers included; every number random."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return 0.6 * torch.randn(shape, generator=generator)

    state = {"embed.W_E": draw(VOCAB, D), "pos_embed.W_pos": draw(CONTEXT, D)}
    for i in range(LAYERS):
        attention = f"blocks.{i}.attn."
        for letter in "QKV":
            state |= {f"{attention}W_{letter}": draw(HEADS, D, E), f"{attention}b_{letter}": draw(HEADS, E)}
        state |= {f"{attention}W_O": draw(HEADS, E, D), f"{attention}b_O": draw(D)}
        state[f"{attention}mask"] = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()
        state[f"{attention}IGNORE"] = torch.tensor(-1e5)
        if mlp:
            state |= {f"blocks.{i}.mlp.W_in": draw(D, mlp), f"blocks.{i}.mlp.b_in": draw(mlp)}
            state |= {f"blocks.{i}.mlp.W_out": draw(mlp, D), f"blocks.{i}.mlp.b_out": draw(D)}
    if norms:
        names = ["ln_final"] + [f"blocks.{i}.ln{n}" for i in range(LAYERS) for n in ((1, 2) if mlp else (1,))]
        state |= {f"{name}.w": 1 + draw(D) for name in names} | {f"{name}.b": draw(D) for name in names}
    return state | {"unembed.W_U": draw(D, VOCAB), "unembed.b_U": draw(VOCAB)}


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_the_pages_snippet_converts_a_paper_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, state = PAPER_MODELS[name], random_state()
    (tmp_path / "config.json").write_text(json.dumps(settings))
    torch.save(state, tmp_path / "model_final.pth")
    with pytest.raises(PahqError, match=r"in TransformerLens' terms; docs/models.md says how to convert it"):
        load_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert SNIPPET is not None
    names: dict[str, Any] = {}
    exec(SNIPPET[1], names)
    model = names["model"]
    shortformer = name == "redwood_attn_2l"
    expected = ORACLE(state, TOKENS, causal=True, activation="", eps=1e-5, shortformer=shortformer)
    other = ORACLE(state, TOKENS, causal=True, activation="", eps=1e-5, shortformer=not shortformer)
    assert (logits(model, TOKENS) - expected).abs().max() < 1e-4
    assert (logits(model, TOKENS) - other).abs().max() > 0.1
    assert (model.config.d_mlp, model.config.positions) == (0, "shortformer" if shortformer else "learned")


def test_a_model_with_mlps_and_folded_norms() -> None:
    settings = SIZES | {"d_mlp": 10, "act_fn": "gelu_new", "normalization_type": "LNPre"}
    state = random_state(norms=False, mlp=10)
    model = from_transformer_lens(settings, state, "folded")
    plain = {name: value for name, value in model.tensors().items() if "ln" in name}
    assert all((value == float(name.endswith("w"))).all() for name, value in plain.items())
    assert len(plain) == 2 * (1 + 2 * LAYERS)
    expected = ORACLE(state | plain, TOKENS, causal=True, activation="gelu_new", eps=1e-5)
    assert (logits(model, TOKENS) - expected).abs().max() < 1e-4
    assert model.config.name == "folded"


def test_16_bit_tensors_become_float32() -> None:
    state = {name: value.half() if value.is_floating_point() else value for name, value in random_state().items()}
    assert from_transformer_lens(PAPER_MODELS["attn-only-4l"], state, "half").W_E.dtype == torch.float32


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"n_heads": None}, {}, "configuration of model 'x' is impossible: heads"),
    ({"n_ctx": ...}, {}, "configuration of model 'x' lacks 'n_ctx'"),
    ({"final_rms": True}, {}, "final_rms = True is not supported; False was expected"),
    ({"normalization": "BN"}, {}, "unknown normalization_type 'BN'; known: LN, LNPre"),
    ({"normalization": None}, {}, "model 'x' has no tensor 'blocks.0.ln1.b'"),  # norms that would be left out
    ({"normalization": "LNPre"}, {"blocks.0.ln1.w": torch.ones(3)}, r"'blocks.0.ln1.w' has shape \[3\]"),
    (
        {"positional_embedding_type": "alibi"},
        {},
        "unknown positional_embedding_type 'alibi'; known: rotary, short",
    ),
    (
        {"positional_embedding_type": "rotary", "rotary_dim": 4},
        {},
        "rotary_dim must be even and at most d_head 3, not 4",
    ),
    ({"positional_embedding_type": "rotary", "rotary_dim": 3}, {}, "rotary positions need an even d_head"),
    ({"use_NTK_by_parts_rope": True}, {}, "use_NTK_by_parts_rope = True is not supported; False was expected"),
    ({"attn_only": False, "act_fn": "solu_ln"}, {}, "unknown act_fn 'solu_ln'"),
    ({}, {"blocks.0.attn.W_Q": None}, "lacks the tensor 'blocks.0.attn.W_Q'"),
    ({}, {"blocks.1.attn.W_K": torch.zeros(HEADS, D, E, dtype=torch.int64)}, "is no floating-point tensor"),
    ({}, {"blocks.0.attn.probe": torch.zeros(2)}, "has no tensor 'blocks.0.attn.probe'"),
    ({"n_layers": 3}, {}, "lacks the tensor 'blocks.2.ln1.w'"),
]


@pytest.mark.parametrize(("settings", "tensors", "message"), REFUSED)
def test_what_is_no_such_model_is_one_sentence(settings: dict[str, Any], tensors: dict[str, Any], message: str) -> None:
    values = {k: v for k, v in (PAPER_MODELS["attn-only-4l"] | settings).items() if v is not ...}
    state = {k: v for k, v in (random_state() | tensors).items() if v is not None}
    with pytest.raises(PahqError, match=message) as caught:
        from_transformer_lens(values, state, "x")
    assert "\n" not in str(caught.value)
