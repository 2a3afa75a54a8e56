"""The analysis folder ``<root>/analysis/<experiment>/``: files written whole or not at all, Parquet in and out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from pahq.errors import PahqError


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
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_parquet(folder: Path, name: str) -> pd.DataFrame:
    """The parquet file ``name`` of an analysis folder; PahqError if it is missing or broken."""
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise PahqError(f"{path} does not exist; evaluate the experiment {folder.name!r} first")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise PahqError(f"{path} is not readable parquet: {' '.join(str(error).split())}") from None
