"""ZIP files of one shape, whose bytes follow from their contents alone: the same files make the same archive anywhere.

Files are stored as they are, not compressed, in the order given, without times, rights or comments. Reading takes
nothing else: what is read is packed once more and must be the very same bytes. So nothing in such an archive can unpack
to more than itself, no byte of it can lie unread, and any ZIP tool opens it all the same. No torch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container, Mapping
from pathlib import Path

from pahq.errors import PahqError

LIMIT = 1 << 30  # bytes of an archive, far above what is ever packed and far below what the format cannot hold
_DATE = (1 << 5) + 1  # 1 January 1980, where the format's time begins
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_FIRST = b"PK\3\4"


class NoArchive(PahqError):
    """A file is no archive of ours; ``what`` says why."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}")
        self.what = what


def pack(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files, by name."""
    parts, directory, at = list[bytes](), list[bytes](), 0
    for name, content in files.items():
        told, crc, size = name.encode(), zlib.crc32(content), len(content)
        common = (20, 0, 0, 0, _DATE, crc, size, size, len(told), 0)  # version 2.0, stored
        parts += [_LOCAL.pack(_FIRST, *common), told, content]
        directory += [_CENTRAL.pack(b"PK\1\2", 20, *common, 0, 0, 0, 0, at), told]
        at += _LOCAL.size + len(told) + size
    if at > LIMIT:
        raise PahqError(f"{at / 2**30:.1f} GiB are more than one file takes ({LIMIT >> 30} GiB)")
    length = sum(map(len, directory))
    end = _END.pack(b"PK\5\6", 0, 0, len(files), len(files), length, at, 0)
    return b"".join([*parts, *directory, end])


def unpack(path: Path, known: Container[str]) -> dict[str, bytes]:
    """The files of an archive in its order; PahqError where there is none, NoArchive for what ``pack`` did not make.

    ``known``: the names that it may hold.
    """
    raw = _read(path)
    if not raw.startswith(_FIRST):
        raise NoArchive(path, "is no ZIP file" if raw else "is empty")
    found, at, whole = dict[str, bytes](), 0, True
    while whole and raw.startswith(_FIRST, at):
        if len(raw) < at + _LOCAL.size:
            break
        _, _, flags, method, _, _, _, packed, size, length, _ = _LOCAL.unpack_from(raw, at)
        start = at + _LOCAL.size + length
        name = raw[at + _LOCAL.size : start].decode("utf-8", "backslashreplace")
        if name not in known:
            raise NoArchive(path, f"holds {name[:80]!r}, which has no place in it")
        if method or flags or packed != size:
            raise NoArchive(path, f"holds {name!r} compressed or encrypted, where it would be stored as it is")
        found[name], at = raw[start : start + size], start + size
        whole = at <= len(raw)
    if pack(found) != raw:
        raise NoArchive(path, "was cut or changed: its bytes are not those that were packed")
    return found


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise PahqError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}")
        if path.stat().st_size > LIMIT + (1 << 20):
            raise NoArchive(path, f"is larger than {LIMIT >> 30} GiB")
        return path.read_bytes()
    except OSError as error:
        raise PahqError(f"{path} cannot be read: {error.strerror}") from None
