"""A model left in its file: what is read from it is what loading it whole gives, bit by bit."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import small_models

from pahq.errors import PahqError
from pahq.model import load_model, open_model, save_model
from pahq.model.forward import logits
from pahq.model.run import run_senders
from pahq.model.sources.modelfile import ModelFile, spill
from pahq.model.sources.tensorfile import TensorReader, write_tensors

random_model = small_models.random_model
FAMILIES = pytest.mark.parametrize("family", sorted(small_models.FAMILIES))
TOKENS = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])


@FAMILIES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_streamed_layers_compute_what_the_loaded_model_computes(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_model(random_model(family).to(dtype=dtype), tmp_path)
    whole, file = load_model(tmp_path), open_model(tmp_path)
    assert (file.config, file.digest, file.dtype) == (whole.config, whole.digest, whole.W_E.dtype)
    assert torch.equal(logits(file.network(), TOKENS), logits(whole, TOKENS))
    again = file.network()
    for _ in range(2):  # a network may be walked through more than once
        mine, theirs = (run_senders(network, [whole.W_E[TOKENS]]).final for network in (again, whole))
        assert torch.equal(mine, theirs)
    loaded = file.load().tensors()
    assert all(torch.equal(value, loaded[name]) for name, value in whole.tensors().items())


@FAMILIES
def test_heads_are_read_alone(family: str, tmp_path: Path) -> None:
    model = random_model(family, dtype=torch.float32)
    save_model(model, tmp_path)
    for dtype in (torch.float32, torch.float64):
        file = open_model(tmp_path, dtype=dtype)
        for field in ("W_Q", "W_K", "W_V", "W_O"):
            whole = getattr(model.layers[1], field)
            for first in range(whole.shape[0]):
                for count in range(1, whole.shape[0] - first + 1):
                    out = torch.full((count, *whole.shape[1:]), float("nan"), dtype=dtype)
                    file.read_heads(1, field, out, first)
                    assert torch.equal(out, whole[first : first + count].to(dtype))


@FAMILIES
def test_only_the_rows_of_tokens_at_hand_are_read_of_an_embedding_that_is_nothing_else(
    family: str, tmp_path: Path
) -> None:
    model = random_model(family)
    save_model(model, tmp_path)
    ends = open_model(tmp_path).ends
    assert isinstance(ends.W_E, torch.Tensor) == model.config.tied_embedding
    assert (ends.W_E.dtype, ends.W_E.device) == (model.W_E.dtype, model.W_E.device)
    for tokens in (TOKENS, TOKENS[0], TOKENS[:, :0]):
        assert torch.equal(ends.W_E[tokens], model.W_E[tokens])


def test_a_row_that_is_not_finite_is_refused_when_it_is_read(tmp_path: Path) -> None:
    model = random_model("gpt2")
    assert not model.config.tied_embedding
    embedding = model.W_E.clone()
    embedding[4, 1] = float("inf")
    path = tmp_path / "model.safetensors"
    write_tensors(path, model.tensors() | {"embed.W_E": embedding})
    file = ModelFile(model.config, path)
    assert torch.equal(file.ends.W_E[TOKENS[:, 2:3] * 0], embedding[TOKENS[:, 2:3] * 0])
    with pytest.raises(PahqError, match=r"tensor 'embed\.W_E' holds NaN or infinite values"):
        file.ends.W_E[TOKENS]


@FAMILIES
def test_a_spilled_model_has_no_name_and_all_its_weights(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    file = spill(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    back = file.load()
    assert back.config == model.config
    assert all(torch.equal(value, back.tensors()[name]) for name, value in model.tensors().items())


def test_what_is_written_tensor_by_tensor_is_a_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5, 2).transpose(0, 1),
        "b": torch.randn(7).half(),
        "c": torch.randn(2, 2).double(),
        "d": torch.randn(4, 1).bfloat16(),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = load_file(tmp_path / "x.safetensors")
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)


def test_a_file_cut_while_open_is_told_in_one_sentence(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": torch.randn(64, 64)})
    reader = TensorReader(tmp_path / "x")
    os.truncate(tmp_path / "x", 4096)
    with pytest.raises(PahqError, match="is shorter than its header says"):
        reader.read("a", torch.empty(64, 64))


def test_memory_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": torch.randn(4, 2)})
    reader = TensorReader(tmp_path / "x")
    for out, first in ((torch.empty(2, 3), 0), (torch.empty(2, 2), 3), (torch.empty(2, 2).T, 0)):
        with pytest.raises(PahqError, match="do not fit memory"):
            reader.read("a", out, first=first)


def test_not_finite_and_ill_fitting_files_are_refused(tmp_path: Path) -> None:
    model = random_model("gpt2", dtype=torch.float32)
    save_model(model, tmp_path)
    tensors = model.tensors()
    write_tensors(tmp_path / "model.safetensors", tensors | {"blocks.1.mlp.W_in": torch.full((12, 10), float("nan"))})
    with pytest.raises(PahqError, match=r"'blocks.1.mlp.W_in' holds NaN"):
        open_model(tmp_path).layer(1)
    write_tensors(tmp_path / "model.safetensors", {n: t for n, t in tensors.items() if n != "blocks.0.attn.W_Q"})
    with pytest.raises(PahqError, match=r"lacks the tensor 'blocks.0.attn.W_Q'"):
        open_model(tmp_path)
    with pytest.raises(PahqError, match="does not exist"):
        TensorReader(tmp_path / "nowhere")


def test_the_ends_outlive_the_model_and_nothing_outlives_the_ends(tmp_path: Path) -> None:
    """By counting references alone: what only the cyclic collector frees would lie beside the next model."""
    save_model(random_model("gpt2"), tmp_path)
    gc.disable()
    try:
        file = open_model(tmp_path)
        model, reader, ends = weakref.ref(file), weakref.ref(file._reader), file.ends
        del file
        assert model() is None
        assert ends.W_E[TOKENS].shape == (*TOKENS.shape, ends.config.d_model)
        del ends
        assert reader() is None
    finally:
        gc.enable()


def test_a_closed_file_is_not_read(tmp_path: Path) -> None:
    save_model(random_model("gpt2"), tmp_path)
    file = open_model(tmp_path)
    file.close()
    file.close()
    with pytest.raises((AttributeError, OSError)):
        file.layer(0)
