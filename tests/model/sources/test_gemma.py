"""Gemma 2, Gemma 3 (text) and OLMo 2: transformers' own logits, and those of an independent forward in float64."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import gemma_forward

from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.model.forward import logits
from pahq.model.sources.families import model_config
from pahq.model.sources.find import load_model, save_model
from pahq.model.sources.huggingface import _boot, transformers_logits

TOKENS = torch.randint(41, (2, 12), generator=torch.Generator().manual_seed(0))
NAMES = {"Gemma2": "Gemma2", "Gemma3": "Gemma3Text", "Olmo2": "Olmo2"}  # configurations of transformers
CASES = [(name, seed) for name in NAMES for seed in range(6)]
FAMILY = pytest.mark.parametrize("name", list(NAMES))
LOCAL, WIDE = "sliding_attention", "full_attention"


def settings(name: str, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    heads, groups = [(2, 2), (4, 2), (4, 1)][seed % 3]
    drawn: dict[str, Any] = {
        "vocab_size": 41,
        "hidden_size": 24,
        "intermediate_size": rng.choice([10, 24]),
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 64,
        "tie_word_embeddings": seed % 2 == 0,
        "rms_norm_eps": rng.choice([1e-6, 1e-2]),
        "pad_token_id": 0,
        "attention_bias": seed in (1, 2, 5),
    }
    rope = {"rope_type": "default", "rope_theta": rng.choice([20.0, 1e4])}
    if name == "Olmo2":
        return drawn | {"rope_parameters": rope}
    drawn |= {"head_dim": rng.choice([4, 8]), "query_pre_attn_scalar": rng.choice([1, 6, 256])}
    drawn |= {"sliding_window": rng.choice([12, 4096])}
    drawn |= {"final_logit_softcapping": rng.choice([None, 1.5, 30.0])}
    if name == "Gemma2":
        return drawn | {"attn_logit_softcapping": rng.choice([None, 0.5, 50.0]), "rope_parameters": rope}
    if seed % 2:
        rope |= {"rope_type": "linear", "factor": 8.0}
    near = {"rope_type": "default", "rope_theta": 30.0}
    drawn |= {"layer_types": rng.choice([[LOCAL, WIDE], [WIDE, LOCAL], [WIDE, WIDE]])}
    return drawn | {"attn_logit_softcapping": 0.1, "rope_parameters": {WIDE: rope, LOCAL: near}}  # the cap is unread


def saved(folder: Path, name: str, seed: int, **changes: Any) -> Path:
    """A random checkpoint as transformers writes it; norms are random too."""
    import transformers

    config = getattr(transformers, f"{NAMES[name]}Config")(**settings(name, seed) | changes)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            centre = 1.0 if "norm" in key and name == "Olmo2" else 0.0
            drawn = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(centre + (drawn * 2**12).round() / 2**12)  # of which 1 + w is exact in float32
    model.save_pretrained(folder)
    return folder


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_logits_are_transformers_own(name: str, seed: int, tmp_path: Path) -> None:
    folder = saved(tmp_path, name, seed)
    model = load_model(folder)
    found = logits(model, TOKENS)
    assert found.std() > 0.3  # else the bound below would say nothing
    theirs = transformers_logits(folder, TOKENS, torch.float32)
    assert (found - theirs).abs().max() < 1e-5 * max(1, theirs.abs().max())
    expected = gemma_forward.logits(load_file(folder / "model.safetensors"), read(folder), TOKENS)
    assert (logits(model.to(dtype=torch.float64), TOKENS) - expected).abs().max() < 1e-10


@FAMILY
@pytest.mark.parametrize("seed", [2, 4])  # with biases, and without
def test_logits_are_the_bridges_own(name: str, seed: int, tmp_path: Path) -> None:
    """TransformerBridge serves these families too, though nothing is loaded through it.

    Of Gemma 3 it applies a cap of attention scores that transformers itself leaves unread, so there is none here.
    """
    folder = saved(tmp_path, name, seed, **({"attn_logit_softcapping": None} if name == "Gemma3" else {}))
    with torch.no_grad():
        theirs = _boot(folder, torch.float32)(TOKENS)
    assert (logits(load_model(folder), TOKENS) - theirs).abs().max() < 1e-5 * max(1, theirs.abs().max())


@FAMILY
def test_bf16_in_shards_and_our_own_folder_are_the_same_model(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "theirs", name, 1)
    stored = {key: value.bfloat16() for key, value in load_file(folder / "model.safetensors").items()}
    expected = gemma_forward.logits(stored, read(folder), TOKENS)
    (folder / "model.safetensors").unlink()
    shards = {f"model-{i}.safetensors": dict(list(stored.items())[i::2]) for i in range(2)}
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    index = {"weight_map": {key: file for file, tensors in shards.items() for key in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model = load_model(folder)
    assert model.W_E.dtype == torch.float32
    assert (logits(model.to(dtype=torch.float64), TOKENS) - expected).abs().max() < 1e-10
    save_model(model, tmp_path / "ours")
    assert torch.equal(logits(load_model(tmp_path / "ours"), TOKENS), logits(model, TOKENS))


@FAMILY
def test_tensors_that_are_missing_or_wrong_are_named(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, name, 0)
    whole = load_file(folder / "model.safetensors")
    for key in list(whole)[:: len(whole) // 5]:
        short = key.removeprefix("model.")
        save_file({other: value for other, value in whole.items() if other != key}, folder / "model.safetensors")
        with pytest.raises(PahqError, match=f"lacks the tensor '{short}' of shape"):
            load_model(folder)
        save_file(whole | {key: whole[key][:-1].clone()}, folder / "model.safetensors")
        with pytest.raises(PahqError, match=rf"tensor '{short}' has shape \[.*\]; \[.*\] was expected"):
            load_model(folder)


@FAMILY
def test_the_command_says_what_such_a_model_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {} if name == "Olmo2" else {"sliding_window": 12}
    if name == "Gemma3":
        changes |= {"layer_types": [LOCAL, WIDE]}
    folder = saved(tmp_path, name, 4, **changes)
    assert main(["models", str(folder), "--check"]) == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["check"].endswith(": agrees")
    norms = {
        "Gemma2": "RMSNorm in front of and behind attention and MLP",
        "Gemma3": "RMSNorm in front of and behind attention and MLP, norms of queries and keys",
        "Olmo2": "RMSNorm behind attention and MLP, one norm of all queries and one of all keys",
    }
    assert lines["stream"] == "24 wide, norm " + norms[name]
    assert ("window" in lines) == (name != "Olmo2")
    assert ("base 30 in layer 0" in lines["positions"]) == (name == "Gemma3")


def test_prompts_beyond_the_window_are_refused(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, "Gemma2", 0, sliding_window=12))
    with pytest.raises(PahqError, match=r"sliding window of 12, .* at most 12 tokens"):
        logits(model, torch.zeros((1, 13), dtype=torch.long))


GEMMA = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    **{"vocab_size": 41, "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 7, "num_attention_heads": 2},
    "num_key_value_heads": 1,
}


def test_older_spellings_and_defaults_are_read() -> None:
    three = model_config(GEMMA, "three")
    assert (three.d_head, three.rotary_base, three.local_base, three.window) == (256, 1e6, 1e4, 4096)
    assert three.local_layers == (0, 1, 2, 3, 4, 6)
    assert (three.score_cap, three.logit_cap, three.attention_scale) == (None, None, 1 / 16)
    assert (three.activation, three.tied_embedding, three.embed_scale) == ("gelu_new", True, 24**0.5)
    older = {"rope_theta": 5e5, "rope_local_base_freq": 50.0, "sliding_window_pattern": 2}
    older |= {"rope_scaling": {"type": "linear", "factor": 8.0}}
    read_older = model_config(GEMMA | older, "older")
    assert (read_older.rotary_base, read_older.local_base, read_older.local_layers) == (5e5, 50.0, (0, 2, 4, 6))
    assert read_older.rotary_scaling is not None
    assert read_older.rotary_scaling.factor == 8.0
    two = model_config(GEMMA | {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}, "two")
    assert (two.score_cap, two.logit_cap, two.window, two.local_layers) == (50.0, 30.0, 4096, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_bidirectional_attention": True}, "needs attention in both directions, which"),
        ({"layer_types": ["full_attention"] * 3}, "for each of 7 layers as 'layer_types', got"),
        ({"sliding_window_pattern": 0}, "a positive whole number as 'sliding_window_pattern', got 0"),
        (
            {"rope_parameters": {LOCAL: {"rope_type": "linear", "factor": 2.0}}},
            "needs rope scaling in local layers, which",
        ),
        ({"final_logit_softcapping": -1.0}, "model 'x' is impossible: logit_cap"),
    ],
)
def test_what_gemma_does_not_allow_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PahqError, match=re.escape(message)) as caught:
        model_config(GEMMA | change, "x")
    assert "\n" not in str(caught.value)
