"""A model that stays in its file: configuration and shapes are known, weights are read where and when they are needed.

This is the full-precision master of a search in low precision. Only what is asked for comes into memory, or onto a GPU.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.buffers import Buffers
from pahq.model.layers import PLACES, PlainLayer
from pahq.model.sources.assembly import all_finite, check_shapes, model_from_tensors, tensor_shapes
from pahq.model.sources.tensorfile import WEIGHTS, TensorReader, write_tensors
from pahq.model.streamed import EndWeights, Streamed
from pahq.model.weights import Model, ModelConfig

# Numbers of a weight that are read at a time, or one head. To a GPU each part is a copy that is waited for.
PART, CARD_PART = 1 << 16, 1 << 22


class ModelFile:
    """An open safetensors file of TransformerLens names; tensors come in ``dtype``, on ``device``.

    ``ends`` (final norm, unembedding) are read once and kept; of an embedding that is not the unembedding too, rows are
    read when tokens ask for them. Biases that the file lacks are zero.
    """

    def __init__(
        self,
        config: ModelConfig,
        path: Path,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        vocabulary: tuple[str, ...] | None = None,
        tokenizer: str | None = None,
        digest: str = "",
    ) -> None:
        """``dtype`` None: float64 if any tensor is stored so, else float32. PahqError if the file is no such model."""
        self.config, self.vocabulary, self.tokenizer, self.digest = config, vocabulary, tokenizer, digest
        self._reader, self.device = TensorReader(path), torch.device(device)
        stored = {entry.dtype for entry in self._reader.entries.values()}
        self.dtype = dtype or (torch.float64 if "F64" in stored else torch.float32)
        self._shapes = tensor_shapes(config)
        check_shapes(config, {name: entry.shape for name, entry in self._reader.entries.items()})
        unembedding = self.tensor("embed.W_E").T if config.tied_embedding else self.tensor("unembed.W_U")
        self.ends = EndWeights(
            config=config,
            W_E=unembedding.T if config.tied_embedding else EmbeddingRows(self._reader, config.d_model, self),
            W_pos=self._optional("pos_embed.W_pos"),
            ln_final_w=self._optional("ln_final.w"),
            ln_final_b=self._optional("ln_final.b"),
            W_U=unembedding,
            b_U=self.tensor("unembed.b_U"),
        )

    def tensor(self, name: str) -> Tensor:
        """A whole tensor. Raises PahqError if it is not finite."""
        shape = self._shapes[name]
        if name not in self._reader.entries:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self._fill(name, torch.empty(shape, dtype=self.dtype, device=self.device))

    def _fill(self, name: str, value: Tensor, first: int = 0) -> Tensor:
        return _fill(self._reader, name, value, first)

    def read_heads(self, layer: int, field: str, out: Tensor, first: int) -> None:
        """Fill ``out`` [count, in, out] with the weights of heads ``first`` .. of ``field`` (``W_Q`` ..)."""
        _read(self._reader, self.name(layer, field), out, first)

    def host(self, layer: int, field: str) -> Tensor:
        """A whole weight in the host's memory, whatever ``device`` is."""
        value = torch.empty(self._shapes[self.name(layer, field)], dtype=self.dtype)
        return _fill(self._reader, self.name(layer, field), value, 0)

    @staticmethod
    def name(layer: int, field: str) -> str:
        """The file's name for a field of PlainLayer."""
        return f"blocks.{layer}.{PLACES[field]}"

    def layer(self, index: int, buffers: dict[str, Buffers] | None = None) -> PlainLayer:
        """One layer in full precision, its matrices in memory that ``buffers`` lend (by field), if given."""
        named: dict[str, Any] = {}
        for name in PLACES:
            lent = buffers[name].lend() if buffers and name in buffers else None
            named[name] = self.field(index, name) if lent is None else self._fill(self.name(index, name), lent)
        positions = self.ends.W_pos if self.config.positions == "shortformer" else None
        return PlainLayer(**named, W_pos=positions, local=index in self.config.local_layers)

    def has(self, layer: int, field: str) -> bool:
        """Whether models of this configuration have a tensor."""
        return self.name(layer, field) in self._shapes

    def parts(self, layer: int, field: str) -> Iterator[tuple[int, Tensor]]:
        """A weight in some heads at a time, or rows if it has no heads, each part with the number of all.

        What is yielded is overwritten by the next. Raises PahqError if it is not finite.
        """
        name = self.name(layer, field)
        length, *rest = self._shapes[name]
        step = max(1, (PART if self.device.type == "cpu" else CARD_PART) // math.prod(rest))
        staging = torch.empty((min(step, length), *rest), dtype=self.dtype, device=self.device)
        for first in range(0, length, step):
            yield length, self._fill(name, staging[: length - first], first)

    def field(self, layer: int, field: str) -> Tensor | None:
        """One tensor of a layer; None if models of this configuration have none."""
        return self._optional(self.name(layer, field))

    def network(self) -> Streamed:
        """The full-precision model, its layers read one after the other."""
        return Streamed.through(self.ends, _Layers(self))

    def load(self) -> Model:
        """The whole model in memory."""
        tensors = {name: self.tensor(name) for name in self._reader.entries}
        return model_from_tensors(
            self.config, tensors, vocabulary=self.vocabulary, tokenizer=self.tokenizer, digest=self.digest
        )

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        self._reader.close()

    def _optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if name in self._shapes else None


class EmbeddingRows:
    """A file's embedding, of which only the rows of the tokens at hand come into memory."""

    def __init__(self, reader: TensorReader, width: int, file: ModelFile) -> None:
        self._reader, self._width, self.dtype, self.device = reader, width, file.dtype, file.device

    def __getitem__(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """The tokens' rows; each is read once. Raises PahqError if they are not finite."""
        known, places = torch.unique(tokens.cpu(), return_inverse=True)
        rows = torch.empty((len(known), self._width), dtype=self.dtype)
        for place, token in enumerate(known.tolist()):
            _fill(self._reader, "embed.W_E", rows[place : place + 1], token)
        return rows[places].to(self.device)


def _fill(reader: TensorReader, name: str, value: Tensor, first: int) -> Tensor:
    """Rows of a tensor from ``first`` on, into ``value``. Raises PahqError if they are not finite."""
    if not all_finite(_read(reader, name, value, first)):
        raise PahqError(f"tensor {name!r} holds NaN or infinite values")
    return value


def _read(reader: TensorReader, name: str, value: Tensor, first: int) -> Tensor:
    """Rows of a tensor from ``first`` on, into ``value``, which on another device is filled by way of the host.

    Returns what was read, in the host's memory: nobody need look at it on the device.
    """
    host = value if value.device.type == "cpu" else torch.empty(value.shape, dtype=value.dtype)
    reader.read(name, host, first=first)
    if host is not value:
        value.copy_(host)
    return host


class _Layers:
    """Iterates over a file's layers, anew each time."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file

    def __iter__(self) -> Iterator[PlainLayer]:
        file = self._file
        weights = [name for name in PLACES if name.startswith("W_") and file.has(0, name)]
        shapes = tensor_shapes(file.config)
        buffers = {name: Buffers(shapes[file.name(0, name)], file.dtype, file.device) for name in weights}
        return (file.layer(i, buffers) for i in range(file.config.layers))


def spill(model: Model, folder: str | Path | None = None, *, device: str | torch.device | None = None) -> ModelFile:
    """Move a loaded model's weights into a file without a name: it goes when it is closed, or the process ends.

    ``device``: where the file's tensors come (default: where the model is). ``folder`` (default: the system's temporary
    folder) should not lie in memory. The model stays as long as the caller holds it.
    """
    handle, path = tempfile.mkstemp(dir=folder, suffix=f".{WEIGHTS}")
    os.close(handle)
    try:
        write_tensors(Path(path), model.tensors())
        return ModelFile(
            model.config,
            Path(path),
            dtype=model.W_E.dtype,
            device=model.W_E.device if device is None else device,
            vocabulary=model.vocabulary,
            tokenizer=model.tokenizer,
            digest=model.digest,
        )
    finally:
        os.unlink(path)
