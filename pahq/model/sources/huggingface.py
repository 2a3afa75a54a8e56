"""A Hugging Face folder as a Model: GPT-NeoX, Phi, Gemma and OLMo 2 from the tensors themselves, the others through
TransformerLens' TransformerBridge.

The Bridge knows each family's weight layout (GPT-2's transposed joint projection among them). It is booted
without weight processing, so norms stay unfolded and nothing is centred: the logits are Hugging Face's own.
TransformerLens lives in this module alone and is imported only once the folder has passed every check that
its headers allow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.errors import PahqError
from pahq.files.text import read_json
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.sources.checkpoint import check_checkpoint, short_name, weight_entries
from pahq.model.sources.families import model_config
from pahq.model.sources.gemma import KINDS as GEMMA
from pahq.model.sources.gemma import gemma_tensors
from pahq.model.sources.neox import KINDS as NEOX
from pahq.model.sources.neox import neox_tensors
from pahq.model.sources.tensorfile import check_floats, file_digest, read_headers, read_tensors, weight_files
from pahq.model.sources.tokenizer import read_tokenizer
from pahq.model.weights import Model, ModelConfig

_log = logging.getLogger(__name__)


def load_huggingface(folder: Path, name: str) -> Model:
    """The model in a local Hugging Face folder (config.json, safetensors): no network, none of its code.

    In float32, or in float64 where the checkpoint is. Raises PahqError in one sentence for an unsupported
    architecture or feature, and for a missing, broken or ill-fitting file.
    """
    values = read_json(folder / "config.json")
    if not isinstance(values, dict):
        raise PahqError(f"{folder / 'config.json'} is no JSON object")
    config = model_config(values, name)
    files = weight_files(folder)
    entries = weight_entries(values, read_headers(files))
    check_floats(entries)
    check_checkpoint(values, config, entries)
    double = any(entry.dtype == "F64" for entry in entries.values())
    tokenizer = read_tokenizer(folder, gpt2=values.get("model_type") == "gpt2")
    dtype = torch.float64 if double else torch.float32
    kind = values["model_type"]
    if kind in NEOX or kind in GEMMA:
        stored = {name: tensor for file in files for name, tensor in read_tensors(file).items() if name in entries}
        wanted = {short_name(values, name): tensor.to(dtype) for name, tensor in stored.items()}
        del stored
        tensors = (neox_tensors if kind in NEOX else gemma_tensors)(kind, config, wanted)
    else:
        _log.info("loading %s through TransformerBridge", folder)
        tensors = _tensors(_boot(folder, dtype), config)
    tied = torch.equal(tensors["unembed.W_U"], tensors["embed.W_E"].T)
    config = config.model_copy(update={"tied_embedding": tied})
    if tied:
        del tensors["unembed.W_U"]
    return model_from_tensors(config, tensors, tokenizer=tokenizer, digest=file_digest(files))


def transformers_logits(
    folder: Path, tokens: Int[Tensor, "batch pos"], dtype: torch.dtype
) -> Float[Tensor, "batch pos vocab"]:
    """What transformers itself computes from the folder; PahqError in one sentence if it cannot."""
    from transformers import AutoModelForCausalLM

    try:
        with _quiet(), torch.no_grad():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, attn_implementation="eager", use_safetensors=True
            )
            logits: Tensor = model(tokens).logits  # loaded to be evaluated, not trained
    except Exception as error:  # the boundary to a large library
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise PahqError(f"transformers cannot load {folder} ({reason})") from error
    return logits


def _boot(folder: Path, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    # An absolute path: a bare name might be one of TransformerLens' aliases and lead to the hub.
    path = str(folder.resolve())
    try:
        with _quiet():
            return TransformerBridge.boot_transformers(
                path, device="cpu", dtype=dtype, tokenizer=_placeholder_tokenizer()
            )
    except Exception as error:  # the boundary to two large libraries: whatever they raise, the user reads one sentence
        reason = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise PahqError(f"TransformerBridge cannot load {folder} ({reason})") from error


def _placeholder_tokenizer() -> Any:
    """The Bridge insists on a tokenizer; nothing here tokenizes through it, and many folders have none."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    # Without a beginning-of-text token, else the Bridge reloads the tokenizer from the path it claims to come
    # from.
    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar of transformers for the length of a load."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _tensors(bridge: Any, config: ModelConfig) -> dict[str, Tensor]:
    """The Bridge's raw weights by TransformerLens name, contiguous and detached.

    ``tl_parameters`` repeats key-value heads over their groups and leaves q/k norms out: undone here. It
    fills absent biases with zeros, which is what they mean; weights cannot be absent, the checkpoint was
    checked.
    """
    found = dict(bridge.tl_parameters())
    group = config.heads // config.kv_heads
    for i, block in enumerate(bridge.blocks):
        for letter in "KV":
            for kind in "Wb":
                found[f"blocks.{i}.attn.{kind}_{letter}"] = found[f"blocks.{i}.attn.{kind}_{letter}"][::group]
        if config.qk_norm:
            for norm in ("q_norm", "k_norm"):
                found[f"blocks.{i}.attn.{norm}.w"] = getattr(block.attn, norm).weight
    names = [*tensor_shapes(config), "unembed.W_U"]
    return {name: found[name].detach().contiguous() for name in dict.fromkeys(names)}
