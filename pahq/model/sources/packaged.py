"""Real language models that PyPI packages carry: found without importing them, checked, converted once.

A GGUF file, which several packages may hold in parts, is converted into a folder of ours below
``$XDG_CACHE_HOME/pahq`` (``~/.cache/pahq``). The folder is written under another name, by one process at a time, and
then renamed, so it is complete as soon as it has its name. It is named after the file's sha256, so once it is there
the packages are no longer needed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from pahq.config.modelnames import PACKAGED, Packaged
from pahq.errors import PahqError
from pahq.files.text import read_json, write_json
from pahq.model.sources.assembly import model_from_tensors
from pahq.model.sources.gguf import read_gguf
from pahq.model.sources.tensorfile import WEIGHTS, file_digest
from pahq.model.weights import Model

LAYOUT = 1  # raised whenever the same file would convert to other numbers
CHECKSUMS = "checksums.json"


def packaged_folder(name: str, save: Callable[[Model, Path], object]) -> Path:
    """The folder of a packaged model, converted first if need be; ``save`` writes a model as a folder of ours.

    Raises PahqError when the package is not installed, its file is not the stated one, or the cache cannot be
    written.
    """
    packaged = PACKAGED[name]
    folder = cache_folder() / f"{name}-{packaged.sha256[:12]}-{LAYOUT}"
    if folder.is_dir():
        return folder
    try:
        with _one_at_a_time(folder):
            if not folder.is_dir():
                _convert(name, packaged, folder, save)
    except OSError as error:
        raise PahqError(
            f"model {name!r} cannot be converted into {folder} ({error.strerror or error}); "
            "XDG_CACHE_HOME=FOLDER puts it elsewhere"
        ) from None
    return folder


def cache_folder() -> Path:
    """Where converted models are kept: ``$XDG_CACHE_HOME/pahq/models``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pahq" / "models"


def check_converted(folder: Path, digest: str) -> None:
    """Compare a converted folder with what was written: the weights by their ``digest``, the other files by reading.

    Raises PahqError, naming the file, where one has changed.
    """
    for name, written in read_json(folder / CHECKSUMS).items():
        if written != (digest if name == WEIGHTS else file_digest([folder / name])):
            raise PahqError(f"{folder / name} has changed since it was converted; delete {folder} to convert it again")


def _convert(name: str, packaged: Packaged, folder: Path, save: Callable[[Model, Path], object]) -> None:
    with _whole_file(name, packaged, folder) as path:
        config, tensors, tokenizer = read_gguf(path, name)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: the lock says that none is at it
    save(model_from_tensors(config, tensors, tokenizer=tokenizer), partial)
    write_json(partial / CHECKSUMS, {path.name: file_digest([path]) for path in sorted(partial.iterdir())})
    partial.rename(folder)


@contextmanager
def _whole_file(name: str, packaged: Packaged, folder: Path) -> Iterator[Path]:
    """The model's file, put together beside the folder if it comes in parts; PahqError if it is not the stated one."""
    parts = [_place(name, packaged, module, file) for module, file in packaged.places]
    if not all(part.is_file() for part in parts) or file_digest(parts) != packaged.sha256:
        whose = f"{parts[0]} is" if len(parts) == 1 else f"{parts[0]} and its other parts are"
        raise PahqError(
            f"{whose} not the file of {packaged.package} (its sha256 differs); install it anew: {packaged.command}"
        )
    if len(parts) == 1:
        yield parts[0]
        return
    whole = folder.with_name(folder.name + ".gguf")
    try:
        with whole.open("wb") as file:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file)
        yield whole
    finally:
        whole.unlink(missing_ok=True)


def package_file(module: str, file: str) -> Path | None:
    """A file inside an installed package, which is not imported; None where the package is missing."""
    spec = find_spec(module)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / file


def _place(name: str, packaged: Packaged, module: str, file: str) -> Path:
    found = package_file(module, file)
    if found is None:
        raise PahqError(
            f"model {name!r} comes with the package {packaged.package}, which is missing: {packaged.command}"
        )
    return found


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits; the kernel lets go when the file closes, be it by a kill
        yield
