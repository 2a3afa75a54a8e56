"""The state of a training as a file: one safetensors file with JSON in its header, written whole or not at all.

What a file of that name rests on (model, settings, versions, machine) is in its name; what is not what was written, by
its sha256, is not taken.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pahq.files.text import write_atomic
from pahq.scores.learned import State

TENSORS = ("values", "mean", "square", "generator")


@dataclass(frozen=True)
class Kept:
    """A state, and the seconds that it took to come to it."""

    state: State
    seconds: float


def write_training(path: Path, kept: Kept) -> None:
    tensors = {name: getattr(kept.state, name).cpu().contiguous() for name in TENSORS}
    said = json.dumps({"step": kept.state.step, "seconds": kept.seconds})
    write_atomic(path, save(tensors, {"training": json.dumps([said, _digest(said, tensors)])}))


def read_training(path: Path) -> Kept | None:
    """What was written there; None where nothing was, or where it is not whole."""
    try:
        raw = path.read_bytes()
        tensors = load(raw)
        (length,) = struct.unpack("<Q", raw[:8])
        said, digest = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["training"])
        if _digest(said, tensors) != digest:
            return None
        values = json.loads(said)
        state = State(values["step"], *(tensors[name] for name in TENSORS))
        return Kept(state, values["seconds"])
    except (OSError, SafetensorError, struct.error, ValueError, KeyError, TypeError):
        return None


def _digest(said: str, tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(said.encode() + save(tensors)).hexdigest()
