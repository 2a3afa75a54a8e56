"""JSON files in which any change is noticed: the last entry of a sealed file is the sha256 of everything before it.

If one byte is changed anywhere, in a number, a space or the seal itself, the file is refused by name. No torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pahq.errors import PahqError
from pahq.files.text import dump_json, loads, write_atomic

_SEALED = re.compile(rb'(.*),\n "sha256": "([0-9a-f]{64})"\n\}\n', re.DOTALL)


class Damaged(PahqError):
    """A file is not what was written. ``path`` says which, ``what`` is wrong with it, and ``way_on`` what to do."""

    def __init__(self, path: Path, what: str, way_on: str) -> None:
        super().__init__(f"{path} is damaged: {what}; {way_on}")
        self.path, self.what, self.way_on = path, what, way_on


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all, with its seal. It must not be empty nor have a key ``sha256``."""
    assert values
    assert "sha256" not in values
    text = dump_json(values)[: -len("\n}\n")]
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomic(path, f'{text},\n "sha256": "{digest}"\n}}\n')


def read_sealed(
    path: Path, *, way_on: str = "move it away, and the command that made it makes it anew"
) -> dict[str, Any]:
    """The values of a sealed file, without the seal.

    Raises PahqError if it does not exist, and Damaged, which says the ``way_on``, if it is not what was written.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise PahqError(f"{path} does not exist") from None
    except OSError as error:
        raise PahqError(f"{path} cannot be read: {error.strerror}") from None
    found = _SEALED.fullmatch(raw)
    if found is None:
        raise Damaged(path, "it has no whole seal at its end", way_on)
    if hashlib.sha256(found[1]).hexdigest() != found[2].decode():
        raise Damaged(path, "its contents are not those that it was sealed with", way_on)
    try:
        values: dict[str, Any] = loads(raw)
    except ValueError as error:
        raise Damaged(path, f"it is sealed and no JSON ({error})", way_on) from None
    del values["sha256"]
    return values


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 by name of those files that the folder has."""
    paths = {name: folder / name for name in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if path.is_file()}


def check_digests(folder: Path, written: Mapping[str, str], *, way_on: str) -> None:
    """Raise Damaged if a file is not the one whose digest was ``written``, or is gone."""
    there = digests(folder, written)
    for name, digest in written.items():
        if name not in there:
            raise Damaged(folder / name, "it is gone", way_on)
        if there[name] != digest:
            raise Damaged(folder / name, "its sha256 is not the one that the result names", way_on)
