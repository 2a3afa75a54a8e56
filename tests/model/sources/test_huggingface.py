"""Hugging Face folders: the Bridge's own logits, and those of independent float64 forwards."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.llama_forward import logits as ORACLE

from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.model import load_model
from pahq.model.forward import logits
from pahq.model.sources import huggingface
from pahq.model.sources.families import model_config

TOKENS = torch.tensor([[3, 17, 4, 40, 11, 0, 29], [8, 8, 33, 2, 19, 19, 1]])

_SMALL = {"vocab_size": 41, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
_GROUPED = _SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
_THETA = {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}
# One row per layout that differs: joint and transposed GPT-2 projections, tied and untied unembedding, biases
# on q/k/v alone or on o too, q/k norms, a head width that is not d_model / heads, one key-value head for all.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"vocab_size": 41, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3}),
    "gpt2-relu-untied": (
        "GPT2",
        {
            "vocab_size": 41,
            "n_positions": 16,
            "n_embd": 24,
            "n_layer": 1,
            "n_head": 2,
            "n_inner": 10,
            "activation_function": "relu",
            "layer_norm_epsilon": 1e-3,
            "tie_word_embeddings": False,
        },
    ),
    "llama": ("Llama", _GROUPED | _THETA | {"rms_norm_eps": 1e-4}),
    "llama-biased-tied": ("Llama", _GROUPED | {"attention_bias": True, "tie_word_embeddings": True}),
    "llama-head-dim": ("Llama", _GROUPED | {"head_dim": 10, "num_key_value_heads": 1}),
    "mistral": ("Mistral", _GROUPED | _THETA | {"sliding_window": None}),
    "qwen2": (
        "Qwen2",
        _GROUPED | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3", _GROUPED | _THETA | {"head_dim": 8, "num_key_value_heads": 4}),
    "qwen3-grouped-biased": ("Qwen3", _GROUPED | {"head_dim": 10, "attention_bias": True}),
}
ROTARY = [name for name in CASES if not name.startswith("gpt2")]


@dataclass(frozen=True)
class Checkpoint:
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    def bridge(self, dtype: torch.dtype) -> torch.Tensor:
        """The Bridge's logits, by the loader's own way of booting a folder without a tokenizer."""
        from pahq.model.sources.huggingface import _boot

        with torch.no_grad():
            return _boot(self.folder, dtype)(TOKENS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A random model of every case, saved as Hugging Face does; norms and biases are random too."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    root, found = tmp_path_factory.mktemp("huggingface"), {}
    generator = torch.Generator().manual_seed(0)
    for name, (family, settings) in CASES.items():
        config = getattr(transformers, f"{family}Config")(**settings)
        model = getattr(transformers, f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                centre = 1.0 if ("norm" in key and key.endswith("weight")) or ".ln_" in key else 0.0
                parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(root / name)
        found[name] = Checkpoint(root / name)
    return found


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_bridge_in_float32(checkpoints: dict[str, Checkpoint], name: str) -> None:
    checkpoint = checkpoints[name]
    model = load_model(checkpoint.folder)
    expected = checkpoint.bridge(torch.float32)
    assert model.W_E.dtype == torch.float32
    assert expected.std() > 0.3  # else the bound below would say nothing
    assert (logits(model, TOKENS) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "gpt2-relu-untied"])
def test_gpt2_equals_the_bridge_in_float64(checkpoints: dict[str, Checkpoint], name: str) -> None:
    model = load_model(checkpoints[name].folder).to(dtype=torch.float64)
    assert (logits(model, TOKENS) - checkpoints[name].bridge(torch.float64)).abs().max() < 1e-10


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_families_equal_an_independent_float64_forward(checkpoints: dict[str, Checkpoint], name: str) -> None:
    checkpoint = checkpoints[name]
    model = load_model(checkpoint.folder).to(dtype=torch.float64)
    expected = ORACLE(load_file(checkpoint.folder / "model.safetensors"), checkpoint.config, TOKENS)
    assert (logits(model, TOKENS) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("name", CASES)
def test_configuration_is_the_checkpoints(checkpoints: dict[str, Checkpoint], name: str) -> None:
    import hashlib

    folder, values = checkpoints[name].folder, checkpoints[name].config
    model = load_model(folder)
    config = model.config
    assert config.tied_embedding == values["tie_word_embeddings"]
    assert config.eps == values.get("rms_norm_eps", values.get("layer_norm_epsilon"))
    if config.positions == "rotary":
        assert config.rotary_base == values["rope_parameters"]["rope_theta"]
        assert model.layers[0].W_K.shape == (values["num_key_value_heads"], 24, config.d_head)
    assert model.config.name == name
    assert model.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_old_style_rope_theta_is_read() -> None:
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": None,
    }
    values |= {"num_attention_heads": 2, "vocab_size": 5, "hidden_size": 8, "intermediate_size": 4}
    values |= {"num_hidden_layers": 1, "max_position_embeddings": 9}
    config = model_config(values, "old")
    assert (config.rotary_base, config.kv_heads, config.d_head) == (500000.0, 2, 4)


def test_a_sharded_double_precision_checkpoint_without_prefix_loads(
    checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """As the hub's first gpt2 is stored (no ``transformer.``, mask buffers), split in two, in float64."""
    source = checkpoints["gpt2"].folder
    tensors = {k.removeprefix("transformer."): v.double() for k, v in load_file(source / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16).double()
    shards: dict[str, dict[str, torch.Tensor]] = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for i, (key, value) in enumerate(tensors.items()):
        shards[f"model-{1 + i % 2}.safetensors"][key] = value
    for file, part in shards.items():
        save_file(part, tmp_path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, part in shards.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    model = load_model(tmp_path)
    assert model.W_E.dtype == torch.float64
    whole = load_model(source).to(dtype=torch.float64).tensors()
    differing = [name for name, tensor in model.tensors().items() if not torch.equal(tensor, whole[name])]
    assert (set(whole), differing) == (set(model.tensors()), [])


def test_an_embedding_is_tied_where_the_weights_are_whatever_the_config_claims(
    checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """transformers keeps an unembedding that is stored apart, although the config says tied."""
    tensors = load_file(checkpoints["gpt2"].folder / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn(41, 24, generator=torch.Generator().manual_seed(5))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(checkpoints["gpt2"].config))
    model = load_model(tmp_path)
    assert not model.config.tied_embedding
    assert torch.equal(model.W_U, tensors["lm_head.weight"].T)
    assert (logits(model, TOKENS) - Checkpoint(tmp_path).bridge(torch.float32)).abs().max() < 1e-4


def test_a_folder_named_like_an_alias_without_architectures_loads_from_disk(
    checkpoints: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TransformerLens would look the bare name ``gpt2-small`` up on the hub."""
    folder = tmp_path / "gpt2-small"
    folder.mkdir()
    values = {key: value for key, value in checkpoints["gpt2"].config.items() if key != "architectures"}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").symlink_to(checkpoints["gpt2"].folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert load_model("gpt2-small").digest == load_model(checkpoints["gpt2"].folder).digest


def test_half_precision_checkpoints_load_in_float32(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    source = checkpoints["qwen3"].folder
    halves = {key: value.bfloat16() for key, value in load_file(source / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(checkpoints["qwen3"].config | {"dtype": "bfloat16"}))
    model = load_model(tmp_path)
    assert model.W_U.dtype == torch.float32
    assert torch.equal(model.W_U, halves["lm_head.weight"].float().T)


REFUSED = [
    (
        "llama",
        {"rope_scaling": {"type": "longrope", "factor": 2.0}, "rope_parameters": None},
        "rope scaling of the kind",
    ),
    ("llama", {"partial_rotary_factor": 0.5}, "partial rotary"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
        "partial rotary",
    ),
    ("llama", {"mlp_bias": True}, "bias in the gated MLP"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantised weights"),
    ("mistral", {"sliding_window": 0}, "a positive whole number or null as 'sliding_window', got 0"),
    ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding attention in some layers"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scaled by layer"),
    ("gpt2", {"scale_attn_weights": False}, "unscaled"),
    ("gpt2", {"add_cross_attention": True}, "cross attention"),
    ("gpt2", {"activation_function": "mish"}, "unknown activation 'mish'; known: gelu"),
    ("gpt2", {"n_embd": "wide"}, "'n_embd'"),
    ("gpt2", {"n_head": 5}, "24 cannot be shared evenly by 5 heads"),
    ("llama", {"num_key_value_heads": 3}, "4 heads cannot share 3"),
    (
        "gpt2",
        {"architectures": ["PersimmonForCausalLM"], "use_parallel_residual": True},
        r"'PersimmonForCausalLM' is not supported \(it needs attention and MLP in parallel\); known: GPT2",
    ),
    ("llama", {"attn_logit_softcapping": 30.0}, "soft caps"),
    (
        "gpt2",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "vision_config": {"hidden_size": 8},
        },
        r"'Gemma3ForConditionalGeneration' is not supported \(it needs images\); known: .* \(olmo2\)$",
    ),
    ("gpt2", {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "mixture of experts"),
    ("gpt2", {"architectures": ["FalconForCausalLM"], "alibi": True}, "ALiBi"),
    (
        "gpt2",
        {"architectures": [], "model_type": "mamba"},
        "'mamba' is not supported; known: GPT2LMHeadModel",
    ),
    ("gpt2", {"architectures": ["LlamaForCausalLM"]}, "does not go with model_type 'gpt2'"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_what_the_forward_does_not_do_is_refused_by_name(
    checkpoints: dict[str, Checkpoint], tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    values = checkpoints[name].config | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(checkpoints[name].folder / "model.safetensors")
    with pytest.raises(PahqError, match=message):
        load_model(tmp_path)


def test_a_window_counts_where_it_is_in_use_and_shorter_than_the_context(checkpoints: dict[str, Checkpoint]) -> None:
    def window(name: str, **change: Any) -> int | None:
        return model_config(checkpoints[name].config | change, "x").window

    assert window("mistral", sliding_window=8) == 8
    assert window("mistral", sliding_window=64) is None
    assert window("qwen2", sliding_window=8) is None
    used = {"use_sliding_window": True, "sliding_window": 8}
    assert window("qwen2", **used, layer_types=None, max_window_layers=1) == 8
    assert window("qwen2", **used, layer_types=None, max_window_layers=2) is None
    assert window("qwen3", **used, layer_types=["full_attention", "sliding_attention"]) == 8
    assert window("qwen3", **used, layer_types=["full_attention"] * 2) is None


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_with_a_missing_tensor_are_refused(
    checkpoints: dict[str, Checkpoint], tmp_path: Path, name: str
) -> None:
    """transformers itself would fill the gap with random numbers."""
    tensors = load_file(checkpoints[name].folder / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(checkpoints[name].config))
    for lost in list(tensors)[:: max(1, len(tensors) // 4)]:
        save_file({k: v for k, v in tensors.items() if k != lost}, tmp_path / "model.safetensors")
        with pytest.raises(PahqError, match=f"lacks the tensor '{lost.split('.', 1)[-1]}'|lacks the tensor '{lost}'"):
            load_model(tmp_path)


def test_checkpoints_of_another_shape_or_with_more_tensors_are_refused(
    checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    tensors = load_file(checkpoints["llama"].folder / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(checkpoints["llama"].config | {"num_key_value_heads": 4}))
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(PahqError, match=r"layers.0.self_attn.k_proj.weight' has shape \[12, 24\]; \[24, 24\]"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(checkpoints["llama"].config))
    save_file(tensors | {"model.layers.0.adapter": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(PahqError, match=r"has no tensor 'layers.0.adapter' \(1 unexpected"):
        load_model(tmp_path)
    save_file(tensors | {"model.norm.weight": torch.zeros(24, dtype=torch.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(PahqError, match=r"'model.norm.weight' holds I64"):
        load_model(tmp_path)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_buffers_of_older_transformers_may_hold_anything(
    checkpoints: dict[str, Checkpoint], tmp_path: Path, prefix: str
) -> None:
    """Causal masks, saved once as bytes, are no weights: of no type that matters, not even float64."""
    whole = load_file(checkpoints["gpt2"].folder / "model.safetensors")
    tensors = {prefix + name.removeprefix("transformer."): value for name, value in whole.items()}
    for i, kind in enumerate((torch.uint8, torch.bool)):
        tensors[f"{prefix}h.{i}.attn.bias"] = torch.ones(1, 1, 16, 16).tril().to(kind)
        tensors[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4, dtype=torch.float64)
    (tmp_path / "config.json").write_text(json.dumps(checkpoints["gpt2"].config))
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.W_E.dtype == torch.float32
    assert torch.equal(logits(model, TOKENS), logits(load_model(checkpoints["gpt2"].folder), TOKENS))
    save_file(tensors | {f"{prefix}h.0.ln_1.bias": torch.ones(24).to(torch.uint8)}, tmp_path / "model.safetensors")
    with pytest.raises(PahqError, match=r"h.0.ln_1.bias' holds U8 values"):
        load_model(tmp_path)


def test_rotary_buffers_may_be_saved_too(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    tensors = load_file(checkpoints["llama"].folder / "model.safetensors")
    for name in ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"):
        tensors[name] = torch.arange(3)
    (tmp_path / "config.json").write_text(json.dumps(checkpoints["llama"].config))
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(logits(load_model(tmp_path), TOKENS), logits(load_model(checkpoints["llama"].folder), TOKENS))


def test_a_failure_inside_the_bridge_is_one_sentence(checkpoints: dict[str, Checkpoint], monkeypatch: Any) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", staticmethod(fail))
    with pytest.raises(PahqError, match=r"cannot load .*gpt2 \(RuntimeError: first line\)$"):
        load_model(checkpoints["gpt2"].folder)


@pytest.mark.parametrize("name", CASES)
def test_the_command_compares_with_transformers_itself(
    checkpoints: dict[str, Checkpoint], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", str(checkpoints[name].folder), "--check"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["check"].endswith(": agrees")
    assert float(re.search(r"of a logit (\S+):", lines["check"])[1]) < 1e-5  # type: ignore[index]
    config = load_model(checkpoints[name].folder).config
    assert lines["family"].split()[1] == checkpoints[name].config["model_type"]
    assert f"{config.layers}, {config.block} blocks" in lines["layers"]
    assert ("key-value" in lines["layers"]) == (config.kv_heads != config.heads)


def test_the_command_sees_logits_that_are_others(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = huggingface.transformers_logits
    monkeypatch.setattr(huggingface, "transformers_logits", lambda *given: real(*given) + 0.01)
    assert main(["models", str(checkpoints["gpt2"].folder), "--check"]) == 1
    assert "DISAGREES by more than 0.0001" in capsys.readouterr().out
    assert main(["models", "nano", "--check"]) == 2
    assert "--check is for folders in Hugging Face's format; nano is none" in capsys.readouterr().err
