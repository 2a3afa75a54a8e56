"""Where models come from: round trips, what is not imported, and one sentence for all that goes wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.places import ROOT

from pahq.config import modelnames
from pahq.errors import PahqError
from pahq.model import embedded_models, load_model, save_model
from pahq.model.forward import logits
from pahq.model.sources import find as sources
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig

CONFIG = ModelConfig(
    name="tiny",
    layers=1,
    heads=2,
    kv_heads=2,
    d_model=6,
    d_head=3,
    d_mlp=5,
    d_vocab=4,
    d_vocab_out=4,
    context=5,
    norm="layer",
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENS = torch.tensor([[0, 3, 1]])


def tiny(config: ModelConfig = CONFIG, vocabulary: tuple[str, ...] | None = ("a", "b", "ü", "the end")) -> Model:
    generator = torch.Generator().manual_seed(0)
    shapes = tensor_shapes(config)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return model_from_tensors(config, tensors, vocabulary=vocabulary)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny(), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Embedded models of the test's own: ``tiny`` alone."""
    root = tmp_path / "models"
    save_model(tiny(), root / "tiny")
    sums = {f"tiny/{path.name}": sha256(path) for path in (root / "tiny").iterdir()}
    (root / "checksums.json").write_text(json.dumps(sums))
    for module in (modelnames, sources):
        monkeypatch.setattr(module, "models_folder", lambda: root)
    return root


def test_a_saved_model_comes_back(folder: Path) -> None:
    model, back = tiny(), load_model(folder)
    assert back.config == model.config
    assert back.vocabulary == ("a", "b", "ü", "the end")
    assert all(torch.equal(tensor, back.tensors()[name]) for name, tensor in model.tensors().items())
    assert torch.equal(logits(back, TOKENS), logits(model, TOKENS))
    assert back.digest == sha256(folder / "model.safetensors") == save_model(model, folder)


def test_saving_is_whole_files_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"config.json", "model.safetensors", "vocab.json"}

    def cut(_: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "save_file", cut)
    with pytest.raises(KeyboardInterrupt):
        save_model(tiny(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saving_a_model_without_vocabulary_removes_the_old_one(folder: Path) -> None:
    save_model(tiny(vocabulary=None), folder)
    assert load_model(folder).vocabulary is None


@pytest.mark.parametrize("change", [{"tied_embedding": True}, {"d_mlp": 0}, {"d_vocab_out": 2}])
def test_tied_attention_only_and_regression_models_come_back(tmp_path: Path, change: dict[str, Any]) -> None:
    model = tiny(CONFIG.model_copy(update=change))
    save_model(model, tmp_path)
    assert torch.equal(logits(load_model(tmp_path), TOKENS), logits(model, TOKENS))


def test_16_bit_weights_load_in_float32_and_64_bit_ones_stay(tmp_path: Path) -> None:
    save_model(tiny().to(dtype=torch.bfloat16), tmp_path / "half")
    save_model(tiny().to(dtype=torch.float64), tmp_path / "double")
    assert load_model(tmp_path / "half").W_E.dtype == torch.float32
    assert load_model(tmp_path / "double").W_E.dtype == torch.float64


def test_an_embedded_name_comes_before_a_folder(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model("tiny").digest == sha256(package / "tiny" / "model.safetensors")
    assert sources.resolve("tiny").kind == "embedded"
    with pytest.raises(PahqError, match=r"config.json does not exist"):
        load_model(Path("tiny"))  # a Path is always a folder


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_load_and_match_their_checksums(name: str) -> None:
    model = load_model(name)
    assert (
        model.digest
        == json.loads((sources.models_folder() / "checksums.json").read_text())[f"{name}/model.safetensors"]
    )
    assert torch.isfinite(logits(model, torch.zeros(1, 2, dtype=torch.long))).all()


def test_our_models_load_without_transformers_and_a_cached_commit_without_network(folder: Path, tmp_path: Path) -> None:
    """Embedded names, folders of ours, and a hub commit that the cache holds, in a fresh offline process."""
    cached = tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    save_model(tiny(), cached)
    code = f"""
import sys
from pahq.model import embedded_models, load_model
found = [load_model({str(folder)!r}), load_model("org/tiny", revision={COMMIT!r})]
for name in embedded_models():
    load_model(name)
assert found[0].digest == found[1].digest
heavy = [name for name in ("transformer_lens", "transformers", "hydra", "wandb") if name in sys.modules]
assert not heavy, heavy
"""
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "OMP_NUM_THREADS": "1",
        "PATH": "",
    }
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)


def _truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-8])


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def _configure(**change: Any) -> Callable[[Path], object]:
    return _write("config.json", json.dumps(CONFIG.model_dump() | change))


def _store(dtype: torch.dtype) -> Callable[[Path], object]:
    return lambda folder: save_model(tiny().to(dtype=dtype), folder)


def _foreign_without_weights(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors").unlink()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json does not exist"),
    "config is no JSON": (_write("config.json", "{"), "config.json is not readable JSON"),
    "config is a list": (_write("config.json", "[1]"), "config.json is no JSON object"),
    "config lacks a key": (
        _write("config.json", '{"layers": 1}'),
        "describes no model: heads: Field required",
    ),
    "config has a key too many": (
        _configure(depth=2),
        r"unknown key in .*config.json: 'depth'; known: activation",
    ),
    "config is impossible": (_configure(kv_heads=3), "describes no model: 2 heads cannot share 3"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors does not exist",
    ),
    "weights truncated": (_truncate, "model.safetensors is truncated or no safetensors file"),
    "weights empty": (
        _write("model.safetensors", ""),
        "model.safetensors is truncated or no safetensors file",
    ),
    "weights are text": (
        _write("model.safetensors", "no weights at all"),
        "is truncated or no safetensors file",
    ),
    "weights of integers": (_store(torch.int32), "holds I32 values; known: F64, F32, F16, BF16"),
    "wrong shape": (_configure(d_mlp=7), r"'blocks.0.mlp.W_in' has shape \[6, 5\]; \[6, 7\] was expected"),
    "a layer too many": (_configure(layers=2), "lacks the tensor 'blocks.1.ln1.w'"),
    "a tensor too many": (_configure(tied_embedding=True), "has no tensor 'unembed.W_U'"),
    "vocabulary is no JSON": (_write("vocab.json", "a b c"), "vocab.json is not readable JSON"),
    "vocabulary is no list": (_write("vocab.json", '{"a": 0}'), "vocab.json is not a list of tokens"),
    "vocabulary too short": (_write("vocab.json", '["a", "b"]'), "2 different tokens; the model has 4"),
    "vocabulary repeats": (
        _write("vocab.json", '["a", "b", "b", "c"]'),
        "3 different tokens; the model has 4",
    ),
    "foreign without weights": (
        _foreign_without_weights,
        "holds no model.safetensors; other weight formats",
    ),
    "foreign of an unknown architecture": (
        _write("config.json", '{"architectures": ["BertModel"]}'),
        "'BertModel' is not supported; known: GPT2LMHeadModel",
    ),
    "foreign without sizes": (
        _write("config.json", '{"model_type": "gpt2"}'),
        "needs a positive whole number as 'n_embd', got None",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_one_sentence(folder: Path, fault: str) -> None:
    damage, message = BROKEN[fault]
    damage(folder)
    with pytest.raises(PahqError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["wrong shape", "a layer too many", "weights of integers", "vocabulary too short"])
def test_what_the_header_tells_is_refused_before_weights_are_read(
    folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: Path) -> None:
        raise AssertionError("weights were read")

    BROKEN[fault][0](folder)
    monkeypatch.setattr(sources, "read_tensors", read)
    with pytest.raises(PahqError):
        load_model(folder)


def test_an_embedded_file_of_another_checksum_is_refused(package: Path) -> None:
    for name in ("config.json", "vocab.json", "model.safetensors"):
        path = package / "tiny" / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(PahqError, match=f"tiny/{name} does not have the sha256"):
            load_model("tiny")
        path.write_bytes(content)
    (package / "checksums.json").write_text("{}")
    with pytest.raises(PahqError, match="no sha256 for the embedded file tiny/"):
        load_model("tiny")
    (package / "checksums.json").unlink()
    with pytest.raises(PahqError, match=r"checksums.json does not exist"):
        load_model("tiny")


NAMES: dict[str, tuple[str, str | None, str]] = {
    "unknown name": ("nanoo", None, r"model 'nanoo': no name of ours \(known: tiny, smollm2, gemma3\) nor a folder"),
    "hub name without revision": ("org/name", None, r"needs a pinned revision \(a commit of 40 hex digits\)"),
    "a branch is no commit": ("gpt2", "main", "revision 'main' of hub model 'gpt2' is not a commit"),
    "a short commit": ("gpt2", COMMIT[:12], "is not a commit of 40 hex digits"),
    "missing folder": (
        "./no/such/folder",
        None,
        r"no model folder './no/such/folder'; known models: tiny",
    ),
    "missing folder, absolute": ("/no/such/folder", COMMIT, "no model folder '/no/such/folder'"),
    "embedded with revision": ("tiny", COMMIT, "a revision belongs to a hub name; 'tiny' is embedded"),
    "packaged with revision": ("smollm2", COMMIT, "a revision belongs to a hub name; 'smollm2' is in a package"),
    "empty": ("", COMMIT, "no model folder ''"),
}


@pytest.mark.parametrize("fault", NAMES)
def test_a_name_that_leads_nowhere_is_one_sentence(package: Path, fault: str) -> None:
    source, revision, message = NAMES[fault]
    with pytest.raises(PahqError, match=message) as caught:
        load_model(source, revision=revision)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:99", "meta", "cpu:1"])
def test_an_unknown_device_is_refused_before_anything_else(device: str) -> None:
    with pytest.raises(PahqError, match=f"device '{device}' is not available on this machine; available: cpu"):
        load_model("/no/such/folder", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_refused() -> None:
    with pytest.raises(PahqError, match="device 'cuda' is not available"):
        load_model("/no/such/folder", device="cuda")
