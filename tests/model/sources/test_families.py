"""Random small checkpoints of families and of ways to lay out positions: their logits are transformers' own.

Each is also held against an independent float64 forward, since transformers turns and normalises in float32.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import llama_forward

from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.model import load_model
from pahq.model.forward import logits
from pahq.model.sources.families import model_config
from pahq.model.sources.huggingface import transformers_logits

TOKENS = torch.randint(41, (2, 12), generator=torch.Generator().manual_seed(0))
Drawn = tuple[str, dict[str, Any]]


def sizes(rng: random.Random) -> dict[str, Any]:
    heads, groups = rng.choice([(2, 2), (4, 2), (4, 1)])
    return {
        "vocab_size": 41,
        "hidden_size": 24,
        "intermediate_size": rng.choice([10, 24]),
        "num_hidden_layers": rng.choice([1, 2]),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 64,
        "tie_word_embeddings": rng.random() < 0.5,
    }


def scaled(seed: int) -> Drawn:
    """Llama, Qwen2 or Mistral with rope scaling of some kind, whose effect is large within a dozen positions."""
    rng = random.Random(seed)
    kind = ("linear", "dynamic", "llama3", "yarn", "yarn")[seed % 5]
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": rng.choice([20.0, 1e4]), "factor": rng.choice([2.0, 8.0])}
    if kind == "llama3":
        rope |= {"original_max_position_embeddings": rng.choice([16, 64])}
        rope |= {"low_freq_factor": rng.choice([0.1, 1.0]), "high_freq_factor": rng.choice([4.0, 20.0])}
    if kind == "yarn":
        rope |= {"original_max_position_embeddings": rng.choice([16, 40])}
        betas = {"beta_fast": 4.0, "beta_slow": 0.5}
        rope |= ({}, {"attention_factor": 1.3}, {"mscale": 0.7, "mscale_all_dim": 1.3})[seed % 3]
        rope |= ({}, betas, betas | {"truncate": False})[seed // 5]
    family = rng.choice(["Llama", "Llama", "Qwen2", "Mistral"])
    biased = {"attention_bias": rng.random() < 0.5} if family == "Llama" else {}
    return family, sizes(rng) | biased | {"rope_parameters": rope}


def windowed(seed: int) -> Drawn:
    """Mistral, Qwen2 or Qwen3 with a window that the prompts just fill."""
    rng = random.Random(seed)
    family = ("Mistral", "Qwen2", "Qwen3")[seed % 3]
    asked = {} if family == "Mistral" else {"use_sliding_window": True, "max_window_layers": rng.choice([0, 1])}
    return family, sizes(rng) | {"num_hidden_layers": 2, "sliding_window": TOKENS.shape[1]} | asked


DRAWN: dict[str, tuple[Callable[[int], Drawn], Callable[..., torch.Tensor]]] = {
    "scaled": (scaled, llama_forward.logits),
    "windowed": (windowed, llama_forward.logits),
}
CASES = [("scaled", seed) for seed in range(15)] + [("windowed", seed) for seed in range(3)]


def saved(folder: Path, name: str, seed: int, **saving: Any) -> Path:
    """A random checkpoint as transformers writes it; norms and biases are random too."""
    import transformers

    family, settings = DRAWN[name][0](seed)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder, **saving)
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
    assert (found - transformers_logits(folder, TOKENS, torch.float32)).abs().max() < 1e-5
    expected = DRAWN[name][1](load_file(folder / "model.safetensors"), read(folder), TOKENS)
    assert (logits(model.to(dtype=torch.float64), TOKENS) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("seed", [0, 2, 3, 4])  # dynamic scaling changes nothing within the context
def test_scaling_is_seen_in_logits(seed: int, tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, "scaled", seed))
    config = model.config
    assert config.rotary_scaling is not None
    unscaled = type(model)(**vars(model) | {"config": config.model_copy(update={"rotary_scaling": None})})
    assert (logits(model, TOKENS) - logits(unscaled, TOKENS)).abs().max() > 1e-2


def test_prompts_beyond_the_window_are_refused(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, "windowed", 0))
    assert (model.config.window, model.config.reach, model.config.context) == (12, 12, 64)
    with pytest.raises(PahqError, match=r"prompts have 13 tokens; model .* sliding window of 12, .* at most 12 tokens"):
        logits(model, torch.zeros((1, 13), dtype=torch.long))


def test_the_command_says_scaling_and_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(saved(tmp_path / "scaled", "scaled", 4)), "--check"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"positions +rotary, base \S+, yarn scaling by \S+ from \d+ tokens, at most 64 tokens\n", told)
    assert "check        4 prompts of 24 tokens" in told
    assert main(["models", str(saved(tmp_path / "windowed", "windowed", 0)), "--check"]) == 0
    told = capsys.readouterr().out
    assert "window       attention slides over 12 tokens: longer prompts are refused\n" in told
    assert "check        4 prompts of 12 tokens" in told


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    **{"vocab_size": 41, "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2},
    "max_position_embeddings": 64,
}


def test_older_spellings_of_rope_scaling_are_read() -> None:
    """``rope_scaling`` with ``type``, rope_theta beside it, and the original context at the top, which outweighs."""
    older = {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": None, "attention_factor": 1.0}}
    older |= {"original_max_position_embeddings": 16}
    config = model_config(LLAMA | older, "older")
    assert config.rotary_base == 5e5
    assert config.rotary_scaling is not None
    assert (config.rotary_scaling.kind, config.rotary_scaling.original) == ("yarn", 16)
    assert (config.rotary_scaling.factor, config.rotary_scaling.attention_factor) == (4.0, 1.0)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"rope_type": "longrope", "short_factor": [1.0]},
            r"rope scaling of the kind 'longrope' \(known: linear, dynamic",
        ),
        ({"rope_type": "linear"}, "model 'x' is impossible: factor"),
        ({"rope_type": "linear", "factor": 0}, "model 'x' is impossible: factor"),
        (
            {"rope_type": "llama3", "factor": 8.0},
            "llama3 needs low_freq_factor below high_freq_factor, not None and None",
        ),
        ({"rope_type": "yarn", "factor": 8.0, "rope_theta": 1}, "yarn needs a rotary base above 1"),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 0}, "impossible: original"),
    ],
)
def test_scaling_that_makes_no_sense_is_one_sentence(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(PahqError, match=message) as caught:
        model_config(LLAMA | {"rope_parameters": rope}, "x")
    assert "\n" not in str(caught.value)
