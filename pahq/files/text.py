"""Text, JSON and other files that are written whole or not at all. No torch."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pahq.errors import PahqError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under a temporary name in the same folder, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def dump_json(values: Any) -> str:
    """Standard JSON over several lines. ValueError for NaN and infinity, which JSON cannot hold."""
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, values: Any) -> None:
    write_atomic(path, dump_json(values))


def loads(text: str | bytes) -> Any:
    """What JSON says; ValueError for whatever is none, lists within lists without end among it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file; PahqError in one sentence if it is missing or broken."""
    try:
        return loads(path.read_text())
    except FileNotFoundError:
        raise PahqError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise PahqError(f"{path} is not readable JSON: {error}") from None
