"""Parquet files in which any changed byte is noticed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pahq.errors import PahqError
from pahq.files.frames import in_parts, read_parquet, write_parquet, write_parquet_parts
from pahq.files.sealed import Damaged

FRAME = pd.DataFrame({"id": ["a", "b"], "kept": [1, 2], "kl": [0.5, float("nan")], "curve": [[1.0], [0.5, 0.25]]})


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "x.parquet", FRAME)
    return tmp_path / "x.parquet"


def test_what_was_written_comes_back_to_everybody(written: Path) -> None:
    for frame in (read_parquet(written.parent, "x"), pd.read_parquet(written)):
        pd.testing.assert_frame_equal(frame.assign(curve=frame["curve"].map(list)), FRAME)
    first = written.read_bytes()
    write_parquet(written, FRAME)
    assert written.read_bytes() == first
    assert {path.name for path in written.parent.iterdir()} == {"x.parquet"}


def test_every_byte_counts(written: Path) -> None:
    """A flipped bit is refused; but for one in the words that announce the seal, which changes nothing that is read."""
    whole, passed, told = written.read_bytes(), [], []
    for at in range(len(whole)):
        written.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            frame = read_parquet(written.parent, "x")
        except PahqError as error:
            told.append(str(error))
        else:
            pd.testing.assert_frame_equal(frame.assign(curve=frame["curve"].map(list)), FRAME)
            passed.append(at)
    assert all(str(written) in sentence for sentence in told)
    seal = whole.index(b"pahq-sha256:")
    assert all(seal <= at < seal + len("pahq-sha256:") + 64 for at in passed)


def test_every_cut_is_refused_by_name(written: Path) -> None:
    whole = written.read_bytes()
    for size in range(0, len(whole), 7):
        written.write_bytes(whole[:size])
        with pytest.raises(PahqError, match=r"x\.parquet"):
            read_parquet(written.parent, "x")


def test_damage_is_told_with_a_way_on(written: Path) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    with pytest.raises(Damaged, match=r"x\.parquet is damaged: .*; remove it, and the command that made it makes it"):
        read_parquet(written.parent, "x")


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "x.parquet", index=False)
    assert list(read_parquet(tmp_path, "x")["id"]) == ["a", "b"]


def test_a_table_in_parts_is_the_table(tmp_path: Path) -> None:
    """Of one part it is the same file, of several the same rows; the first one's types are those of all."""
    write_parquet(tmp_path / "whole.parquet", FRAME)
    write_parquet_parts(tmp_path / "one.parquet", iter([FRAME]))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    more = pd.DataFrame({"id": ["c"], "kept": [3], "kl": [float("nan")], "curve": [[]]})
    write_parquet_parts(tmp_path / "two.parquet", iter([FRAME, more]))
    read = read_parquet(tmp_path, "two")
    pd.testing.assert_frame_equal(
        read.assign(curve=read["curve"].map(list)), pd.concat([FRAME, more], ignore_index=True)
    )


def test_frames_are_joined_to_parts_of_some_rows() -> None:
    frames = [pd.DataFrame({"x": range(first, first + rows)}) for first, rows in ((0, 3), (3, 1), (4, 4), (8, 2))]
    parts = list(in_parts(iter(frames), rows=4))
    assert [part["x"].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [list(part.index) for part in parts] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    assert list(in_parts(iter([]))) == []


def test_rows_that_are_wanted_are_those_of_the_whole_table(tmp_path: Path) -> None:
    def part(first: int) -> pd.DataFrame:
        names = pd.Series(["a", None, "b"], dtype="str")
        return pd.DataFrame({"name": names, "kind": "x", "number": range(first, first + 3), "share": [0.5, None, 1.5]})

    write_parquet_parts(tmp_path / "rows.parquet", (part(first) for first in (0, 3, 6)))
    whole = read_parquet(tmp_path, "rows")
    assert len(whole) == 9
    for where, number in (({"name": "b"}, [2, 5, 8]), ({"name": "a", "kind": "x"}, [0, 3, 6]), ({"name": "c"}, [])):
        found = read_parquet(tmp_path, "rows", where)
        assert list(found["number"]) == number
        pd.testing.assert_frame_equal(found, whole[whole["number"].isin(number)].reset_index(drop=True))
    with pytest.raises(PahqError, match=r"rows\.parquet"):
        read_parquet(tmp_path, "rows", {"other": "b"})


def test_rows_that_are_not_wanted_are_in_memory_a_part_at_a_time(tmp_path: Path) -> None:
    def peak(parts: int) -> int:
        """The most bytes that pyarrow took at once."""
        frame = pd.DataFrame({"name": [f"row {i}" for i in range(2000)], "number": range(2000)})
        write_parquet_parts(tmp_path / "rows.parquet", (frame for _ in range(parts)))
        before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        try:
            read_parquet(tmp_path, "rows", {"name": "row 7"})
        finally:
            pa.set_memory_pool(before)
        return pool.max_memory()

    assert peak(40) < 2 * peak(4)
