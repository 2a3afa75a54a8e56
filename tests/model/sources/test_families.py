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
from safetensors.torch import load_file, save_file
from support import llama_forward, neox_forward
from support.places import ROOT

from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.model import load_model
from pahq.model.forward import logits
from pahq.model.sources.families import FAMILIES, model_config
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


def neox(seed: int) -> Drawn:
    """GPT-NeoX: parallel or serial blocks, a part of each head rotary or all of it, biases of attention or none."""
    rng = random.Random(seed)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rng.choice([100.0, 1e4])}
    rope |= {"partial_rotary_factor": rng.choice([0.25, 0.3, 0.75, 1.0])}
    if seed % 5 == 4:
        rope |= {"rope_type": "linear", "factor": 3.0}
    chosen = {"hidden_size": 32, "use_parallel_residual": seed % 2 == 0, "attention_bias": seed % 4 != 3}
    chosen |= {
        "hidden_act": rng.choice(["gelu", "gelu", "gelu_fast", "relu"]),
        "layer_norm_eps": rng.choice([1e-5, 1e-3]),
    }
    plain = {key: value for key, value in sizes(rng).items() if key != "num_key_value_heads"}
    return "GPTNeoX", plain | chosen | {"num_attention_heads": rng.choice([2, 4]), "rope_parameters": rope}


def phi(seed: int) -> Drawn:
    """Phi: parallel blocks with one norm, a bias of the logits, grouped keys or not."""
    rng = random.Random(seed)
    rope = {"rope_type": "default", "rope_theta": rng.choice([100.0, 1e4])}
    rope |= {"partial_rotary_factor": rng.choice([0.25, 0.5, 0.5, 1.0])}
    chosen = {"hidden_size": 32, "hidden_act": rng.choice(["gelu_new", "gelu_new", "gelu"])}
    return "Phi", sizes(rng) | chosen | {"rope_parameters": rope}


DRAWN: dict[str, tuple[Callable[[int], Drawn], Callable[..., torch.Tensor]]] = {
    "scaled": (scaled, llama_forward.logits),
    "windowed": (windowed, llama_forward.logits),
    "neox": (neox, neox_forward.logits),
    "phi": (phi, neox_forward.logits),
}
COUNTS = {"scaled": 15, "windowed": 3, "neox": 12, "phi": 10}
CASES = [(name, seed) for name, count in COUNTS.items() for seed in range(count)]


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


@pytest.mark.parametrize("name", ["neox", "phi"])
def test_bf16_in_shards_with_older_buffers_loads(name: str, tmp_path: Path) -> None:
    """As Pythia's first checkpoints are stored: masks as bytes and frequencies beside the weights."""
    folder = saved(tmp_path, name, 1)
    stored = {key: value.bfloat16() for key, value in load_file(folder / "model.safetensors").items()}
    expected = DRAWN[name][1](stored, read(folder), TOKENS)
    if "embed_out.weight" in stored:
        stored["lm_head.weight"] = stored.pop("embed_out.weight")
    part = "gpt_neox.layers.0.attention" if name == "neox" else "model.layers.0.self_attn"
    stored |= {part + ".rotary_emb.inv_freq": torch.arange(3)}
    if name == "neox":
        stored |= {part + ".bias": torch.ones(1, 1, 9, 9, dtype=torch.bool), part + ".masked_bias": torch.tensor(-1e9)}
    (folder / "model.safetensors").unlink()
    shards = {f"model-{i}.safetensors": dict(list(stored.items())[i::2]) for i in range(2)}
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    index = {"weight_map": {key: file for file, tensors in shards.items() for key in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model = load_model(folder)
    assert model.W_E.dtype == torch.float32
    assert (logits(model.to(dtype=torch.float64), TOKENS) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["neox", "phi"])
def test_tensors_that_are_missing_or_wrong_are_named(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, name, 0)
    whole = load_file(folder / "model.safetensors")
    for key in list(whole)[:: len(whole) // 6]:
        short = key.removeprefix("gpt_neox.").removeprefix("model.")
        save_file({other: value for other, value in whole.items() if other != key}, folder / "model.safetensors")
        with pytest.raises(PahqError, match=f"lacks the tensor '{short}' of shape"):
            load_model(folder)
        save_file(whole | {key: whole[key][:-1].clone()}, folder / "model.safetensors")
        with pytest.raises(PahqError, match=rf"tensor '{short}' has shape \[.*\]; \[.*\] was expected"):
            load_model(folder)
    save_file(whole | {"adapter": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(PahqError, match=r"has no tensor 'adapter' \(1 unexpected in all\)"):
        load_model(folder)


@pytest.mark.parametrize("name", ["neox", "phi"])
def test_an_unembedding_that_is_stored_apart_is_kept(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, name, next(seed for seed in range(9) if DRAWN[name][0](seed)[1]["tie_word_embeddings"]))
    whole, head = load_file(folder / "model.safetensors"), "embed_out.weight" if name == "neox" else "lm_head.weight"
    assert load_model(folder).config.tied_embedding
    whole[head] = torch.randn(41, 32, generator=torch.Generator().manual_seed(5))
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_model(folder)
    assert not model.config.tied_embedding
    assert (logits(model, TOKENS) - transformers_logits(folder, TOKENS, torch.float32)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["neox", "phi"])
def test_the_command_holds_a_folder_against_transformers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, name, 2)
    assert main(["models", str(folder), "--check"]) == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert lines["family"] == {"neox": "gpt_neox (GPTNeoXForCausalLM)", "phi": "phi (PhiForCausalLM)"}[name]
    assert "parallel blocks" in lines["layers"]
    assert lines["stream"] == "32 wide, norm LayerNorm"
    assert re.match(r"rotary \(\d+ of a head's \d+ numbers\), base \d+, at most 64 tokens", lines["positions"])
    assert lines["check"].endswith(": agrees")
    assert re.match(r"\d+, and \d+ Direct ones, between \d+ senders and \d+ receivers", lines["edges"])


NEOX = LLAMA | {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 32}
PHI = NEOX | {"architectures": ["PhiForCausalLM"], "model_type": "phi"}


def test_older_spellings_and_defaults_are_read() -> None:
    pythia = model_config(NEOX | {"rotary_pct": 0.5, "rotary_emb_base": 5000, "hidden_act": "gelu"}, "pythia")
    assert (pythia.rotary_dim, pythia.rotary_base, pythia.block) == (8, 5000.0, "parallel")
    plain, phi = model_config(NEOX, "plain"), model_config(PHI, "phi")
    assert (plain.rotary_dim, plain.activation, plain.tied_embedding) == (4, "gelu", False)
    assert (phi.rotary_dim, phi.activation, phi.kv_heads, phi.block) == (8, "gelu_new", 2, "parallel")
    assert model_config(PHI | {"partial_rotary_factor": 1.0, "rope_theta": 50.0}, "phi").rotary_dim is None
    assert model_config(NEOX | {"use_parallel_residual": False}, "serial").block == "serial"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            NEOX | {"rotary_pct": 0.7},
            "rotary_pct 0.7 makes 11 of a head's 16 numbers rotary; an even number was expected",
        ),
        (NEOX | {"rotary_pct": 0.05}, "rotary_pct 0.05 makes 0 of"),
        (NEOX | {"rotary_pct": "half"}, "needs a number above 0 and at most 1 as 'rotary_pct', got 'half'"),
        (PHI | {"partial_rotary_factor": 1.5}, "as 'partial_rotary_factor', got 1.5"),
        (PHI | {"qk_layernorm": True}, "needs layer norms of queries and keys, which this forward pass does not do"),
        (NEOX | {"num_attention_heads": 5}, "32 cannot be shared evenly by 5 heads"),
    ],
)
def test_what_these_families_do_not_allow_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PahqError, match=message):
        model_config(change, "x")


def test_the_page_has_every_family() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    rows = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and line.count("|") == 7]
    assert rows == list(FAMILIES.values())
