"""Archives: the same files make the same bytes, any ZIP tool opens them, and nothing but them is read."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import pytest

from pahq.errors import PahqError
from pahq.files.archive import LIMIT, NoArchive, pack, unpack

FILES = {"a.json": b"{}\n", "model/b": bytes(range(256)) * 4, "empty": b""}


def written(tmp_path: Path, raw: bytes) -> Path:
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    return path


def zipped(*entries: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", how) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return raw.getvalue()


def test_what_is_packed_is_unpacked_and_any_tool_opens_it(tmp_path: Path) -> None:
    path = written(tmp_path, pack(FILES))
    assert list(unpack(path, FILES).items()) == list(FILES.items())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    assert pack(FILES) == pack(dict(FILES))
    assert unpack(written(tmp_path, pack({"a.json": b""})), FILES) == {"a.json": b""}


def test_every_cut_and_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    raw, rng = pack({"a.json": b"{}\n", "empty": b"x"}), random.Random(0)
    for size in range(len(raw)):
        with pytest.raises(NoArchive):
            unpack(written(tmp_path, raw[:size]), FILES)
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << rng.randrange(8)
        with pytest.raises(NoArchive):
            unpack(written(tmp_path, bytes(changed)), FILES)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "is empty"),
        (b"{}", "is no ZIP file"),
        (b"PK\5\6" + bytes(18), "is no ZIP file"),  # an archive of nothing
        (b"PK\3\4", "was cut or changed"),
        (pack(FILES) + b"x", "was cut or changed"),
        (b"x" + pack(FILES), "is no ZIP file"),
        (pack({"../a.json": b""}), "holds '../a.json', which has no place in it"),
        (pack({"/etc/passwd": b""}), "holds '/etc/passwd', which has no place in it"),
        (pack({"a.json\0.txt": b""}), "which has no place in it"),
        (zipped(("a.json", b"{}")), "was cut or changed"),  # packed by another tool, which notes the time
        (zipped(("a.json", b"0" * 10**6), how=zipfile.ZIP_DEFLATED), "holds 'a.json' compressed or encrypted"),
        (zipped(("a.json", b"0" * 10**6), how=zipfile.ZIP_LZMA), "holds 'a.json' compressed or encrypted"),
    ],
)
def test_other_files_are_told(tmp_path: Path, raw: bytes, sentence: str) -> None:
    path = written(tmp_path, raw)
    with pytest.raises(NoArchive) as caught:
        unpack(path, FILES)
    assert str(caught.value).startswith(f"{path} ")
    assert sentence in str(caught.value)


def test_two_files_of_one_name_are_told(tmp_path: Path) -> None:
    local = pack({"a.json": b"{}"})[: 30 + 6 + 2]
    with pytest.raises(NoArchive, match="was cut or changed"):
        unpack(written(tmp_path, local + pack({"a.json": b"[]"})), FILES)


def test_a_size_that_lies_costs_no_memory(tmp_path: Path) -> None:
    raw = bytearray(pack({"a.json": b"{}"}))
    raw[18:26] = struct.pack("<2L", 2**32 - 1, 2**32 - 1)
    with pytest.raises(NoArchive, match="was cut or changed"):
        unpack(written(tmp_path, bytes(raw)), FILES)


def test_what_is_no_file_and_what_is_too_large_are_told(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path, "is a folder"), (tmp_path / "none.zip", "does not exist")):
        with pytest.raises(PahqError, match=sentence):
            unpack(path, FILES)
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(LIMIT + (2 << 20))
    with pytest.raises(NoArchive, match="is larger than 1 GiB"):
        unpack(path, FILES)
