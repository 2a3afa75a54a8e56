"""Reading safetensors files: what one holds (from its header alone), its tensors, its digest.

The header tells names, types and shapes without touching the weights, so a wrong file is refused before any
is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pahq.errors import PahqError
from pahq.files.text import read_json

FLOATS = ("F64", "F32", "F16", "BF16")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NO_PICKLE = "other weight formats (pickle among them) are not read; docs/models.md says how to convert one"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its safetensors type (``F32``) and shape."""

    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> tuple[Path, ...]:
    """A folder's weights: ``model.safetensors``, or the shards that its index names.

    Raises PahqError when there are none or a shard is missing.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise PahqError(f"{folder} holds no {WEIGHTS}; {NO_PICKLE}")
    values = read_json(index)
    shards = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise PahqError(f"{index} has no weight_map that names the shards")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise PahqError(f"{index} names the shard {name!r}, which {folder} lacks")
    return tuple(folder / name for name in names)


def read_headers(paths: Sequence[Path]) -> dict[str, Entry]:
    """Names, types and shapes of all tensors in the files; no weight is read.

    Raises PahqError when a file is missing, truncated or no safetensors file.
    """
    entries: dict[str, Entry] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (the handle is no mapping)
                    part = file.get_slice(name)
                    entries[name] = Entry(str(part.get_dtype()), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise _broken(path, error) from None
    return entries


def check_floats(entries: dict[str, Entry]) -> None:
    """Raise PahqError, naming the tensor, unless all tensors are ordinary floating point."""
    for name, entry in entries.items():
        if entry.dtype not in FLOATS:
            raise PahqError(f"tensor {name!r} holds {entry.dtype} values; known: {', '.join(FLOATS)}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A file's tensors; 16-bit ones in float32, since that is what everything here computes in."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _broken(path, error) from None
    return {
        name: tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        for name, tensor in tensors.items()
    }


class TensorReader:
    """Reads parts of a safetensors file's tensors into given memory; no page of the file is mapped.

    Mapped pages count as this process's memory once they are touched; what ``preadv`` copies from does not.
    """

    def __init__(self, path: Path) -> None:
        """Raises PahqError for a file that is missing, truncated or no safetensors file of ordinary numbers."""
        self.entries = read_headers([path])
        check_floats(self.entries)
        try:
            self._file = os.open(path, os.O_RDONLY)
            self._closer = weakref.finalize(self, os.close, self._file)  # with the last who may read
            length = int.from_bytes(os.pread(self._file, 8, 0), "little")
            header = json.loads(os.pread(self._file, length, 8))
        except (OSError, ValueError) as error:
            self.close()
            raise _broken(path, error) from None
        self._path = path
        self._starts = {name: 8 + length + header[name]["data_offsets"][0] for name in self.entries}

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored."""
        return DTYPES[self.entries[name].dtype]

    def read(self, name: str, out: Tensor, *, first: int = 0) -> None:
        """Fill ``out``, contiguous CPU memory in any dtype, with rows ``first`` .. of a tensor's leading axis.

        Raises PahqError when ``out`` does not fit or the file has become shorter.
        """
        stored, shape = self.dtype(name), self.entries[name].shape
        if out.shape[1:] != shape[1:] or first + out.shape[0] > shape[0] or not out.is_contiguous():
            raise PahqError(f"rows {first} on of {name!r} {list(shape)} do not fit memory of shape {list(out.shape)}")
        target = out if out.dtype == stored else torch.empty(out.shape, dtype=stored)
        memory = target.view(-1).view(torch.uint8).numpy().data
        at = self._starts[name] + first * (target.nbytes // max(1, target.shape[0]))
        while memory:
            count = os.preadv(self._file, [memory], at)
            if count == 0:
                raise PahqError(f"{self._path} is shorter than its header says (while reading {name!r})")
            memory, at = memory[count:], at + count
        if target is not out:
            out.copy_(target)

    def close(self) -> None:
        """Reading afterwards fails."""
        with suppress(AttributeError):
            self._closer()
            del self._file


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file tensor by tensor: no second copy of all of them, as ``save_file`` needs."""
    header, end = {}, 0
    names = {dtype: name for name, dtype in DTYPES.items()}
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.writelines(_pieces(tensor))


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    for row in tensor.detach() if tensor.dim() > 1 else [tensor.detach()]:
        yield row.cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def file_digest(paths: Sequence[Path]) -> str:
    """sha256 in hex of the files' bytes, one after the other in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise _broken(path, error) from None
    return digest.hexdigest()


def _broken(path: Path, error: Exception) -> PahqError:
    if not path.is_file():
        return PahqError(f"{path} does not exist")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return PahqError(f"{path} is truncated or no safetensors file ({reason})")
