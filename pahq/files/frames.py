"""The analysis folder ``<root>/analysis/<experiment>/``: files written whole or not at all, Parquet in and out.

A Parquet file carries, in its metadata, the sha256 of itself with zeros in that place: any changed byte is noticed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pahq.errors import PahqError
from pahq.files.sealed import Damaged
from pahq.files.text import write_atomic

_SEAL = re.compile(rb"pahq-sha256:([0-9a-f]{64})")
_BLANK = b"pahq-sha256:" + b"0" * 64
PART = 1 << 13  # rows of a long table that are in memory at once


def analysis_folder(root: str | Path, experiment: str) -> Path:
    """Where an experiment's analysis lies; PahqError if the name could lead elsewhere."""
    if not experiment or experiment != Path(experiment).name or experiment.startswith("."):
        raise PahqError(f"{experiment!r} is no name of an experiment; a plain name such as 'default' is expected")
    return Path(root) / "analysis" / experiment


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table whole or not at all, with its seal."""
    write_parquet_parts(path, [frame])


def write_parquet_parts(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    """The same for a table that comes in parts: one at least, with the same columns of the same types.

    Each part becomes a row group of the file, and is not held any longer than it takes to write it.
    """
    raw, rest = io.BytesIO(), iter(parts)
    table = pa.Table.from_pandas(next(rest), preserve_index=False)
    schema = table.schema.with_metadata({**table.schema.metadata, b"seal": _BLANK})
    with pq.ParquetWriter(raw, schema) as writer:
        writer.write_table(table.cast(schema))
        for part in rest:
            writer.write_table(pa.Table.from_pandas(part, schema=schema, preserve_index=False))
    blank = raw.getvalue()
    write_atomic(path, blank.replace(_BLANK, b"pahq-sha256:" + hashlib.sha256(blank).hexdigest().encode()))


def in_parts(frames: Iterable[pd.DataFrame], rows: int = PART) -> Iterator[pd.DataFrame]:
    """Frames joined to parts of at least so many rows, but for the last one; none of no frames."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= rows:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def read_parquet(folder: Path, name: str, where: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The parquet file ``name`` of an analysis folder; PahqError if it is missing or broken.

    ``where``: the values of columns in the rows to read; the others do not come into memory. Damaged if the file is not
    what was written. Files of earlier versions have no seal, and are read as they are.
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise PahqError(f"{path} does not exist; evaluate the experiment {folder.name!r} first")
    try:
        raw = path.read_bytes()
        _check_seal(path, raw)
        return _rows(raw, where) if where else pd.read_parquet(io.BytesIO(raw))
    except Damaged:
        raise
    except (OSError, ValueError) as error:
        raise PahqError(f"{path} is not readable parquet: {' '.join(str(error).split())}") from None


def _rows(raw: bytes, where: Mapping[str, str]) -> pd.DataFrame:
    """The rows wanted, from one row group after the other: pyarrow's own filter has many of them in memory at once."""
    file = pq.ParquetFile(io.BytesIO(raw))
    wanted = [file.schema_arrow.empty_table()]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        for column, value in where.items():
            table = table.filter(pc.field(column) == value)
        wanted.append(table)
    found: pd.DataFrame = pa.concat_tables(wanted).to_pandas()
    return found


def _check_seal(path: Path, raw: bytes) -> None:
    said = set(_SEAL.findall(raw))
    if said and said != {hashlib.sha256(_SEAL.sub(_BLANK, raw)).hexdigest().encode()}:
        what = "its contents are not those that it was sealed with"
        raise Damaged(path, what, "remove it, and the command that made it makes it anew")
