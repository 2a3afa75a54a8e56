"""``pahq bundle``: a finished cell as one file that somebody else can check, written and read.

A bundle is an archive (``pahq.files.archive``) of the cell's own files, byte for byte, its prompts in token ids, the
table of prompts where they are somebody's own, the model where the package embeds it, and first of all
``bundle.json``, which says what the bundle claims and the sha256 of every other file. docs/bundles.md describes each.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pahq.cell.files import FILES, SCORES, files_of
from pahq.cell.provenance import check_weights
from pahq.cell.result import Result
from pahq.cell.story import check_cell
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.archive import NoArchive, pack, unpack
from pahq.files.sealed import Damaged
from pahq.files.text import dump_json, loads, write_atomic
from pahq.model.sources.find import open_model, resolve
from pahq.tasks import build_task
from pahq.verify.bundledprompts import told

FORMAT, VERSION = "pahq-bundle", 1
ABOUT, PROMPTS, RESULT = "bundle.json", "prompts.json", "result.json"
TABLES = ("prompts.csv", "prompts.jsonl")
MODEL = ("model/config.json", "model/model.safetensors", "model/vocab.json")
KNOWN = (ABOUT, *FILES, SCORES, RESULT, PROMPTS, *TABLES, *MODEL)


@dataclass(frozen=True)
class Bundle:
    """A bundle: where it lies, what it says of itself (``bundle.json``), and all its other files by name."""

    path: Path
    about: Mapping[str, Any]
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.about["id"])

    @property
    def has_model(self) -> bool:
        return MODEL[0] in self.files

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def __str__(self) -> str:
        model = (
            "its model included" if self.has_model else f"its model by sha256 {self.about['model']['sha256'][:12]}..."
        )
        return (
            f"{self.path}: {self.id}, {self.size / 2**20:.2f} MiB, {model}; "
            f"`pahq verify {self.path.name}` checks it anywhere"
        )

    def to_json(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        own = {"id": self.id, "path": str(self.path), "bytes": self.size, "sha256": digest}
        return own | {"model_included": self.has_model, "files": [ABOUT, *self.files]}


def bundle(folder: str | Path, out: str | Path) -> Bundle:
    """Write a finished cell as one file, which ``pahq.verify_bundle`` and ``pahq verify FILE.zip`` check anywhere.

    The same cell makes the same bytes. Raises PahqError for a cell that is unfinished or damaged, for prompts or
    weights that are no longer those it was finished with, and for an ``out`` that does not end in .zip.
    """
    for given in (folder, out):
        if not isinstance(given, str | Path):
            raise PahqError(f"a cell's folder and a file's path were expected, not {type(given).__name__}")
    folder, out = Path(folder), Path(out)
    if out.suffix.lower() != ".zip":
        raise PahqError(f"{out}: a bundle is a ZIP file; end its name in .zip")
    if out.is_dir():
        raise PahqError(f"{out} is a folder; name a file in it")
    result = check_cell(folder)
    cell = result.config
    check_weights(folder, cell, result)
    source = open_model(cell.model.source, cell.model.revision)
    if source.digest != result.model_digest:
        raise PahqError(
            f"{folder} was finished on other weights than {cell.model.source} has now: none to bundle it with"
        )
    files = {name: (folder / name).read_bytes() for name in (*files_of(cell), RESULT)}
    files[PROMPTS] = dump_json(told(build_task(cell.task, source, cell.seed))).encode()
    if cell.task.prompts is not None:
        table = Path(cell.task.prompts)
        files[f"prompts{table.suffix.lower()}"] = table.read_bytes()
    found = resolve(cell.model.source, cell.model.revision)
    if found.kind == "embedded":
        paths = {name: found.folder / Path(name).name for name in MODEL}
        files |= {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    about = describe(result, files)
    write_atomic(out, pack({ABOUT: dump_json(about).encode(), **files}))
    return Bundle(out, about, files)


def read_bundle(path: Path) -> Bundle:
    """A bundle whose files are those that it names; PahqError in one sentence for whatever else a file may be."""
    try:
        files = unpack(path, KNOWN)
    except NoArchive as fault:
        raise _none(path, f"it {fault.what}") from None
    try:
        about = loads(files.pop(ABOUT))
        form, version, named = about["format"], about["version"], about["files"]
    except (KeyError, TypeError, ValueError):
        raise _none(path, f"it has no {ABOUT} that says what it is") from None
    if form != FORMAT or type(version) is not int or version < 1:
        raise _none(path, f"its {ABOUT} is of the format {form!r}, version {version!r}")
    if version > VERSION:
        raise PahqError(
            f"{path} is a bundle of version {version}, and this pahq reads version {VERSION}; take a newer pahq"
        )
    if named != _digests(files):
        other = min(set(named) ^ set(files), default="") if isinstance(named, dict) else ABOUT
        other = other or next(name for name, digest in _digests(files).items() if named[name] != digest)
        raise _none(path, f"{other} is not what {ABOUT} names by its sha256")
    return Bundle(path, about, files)


@contextmanager
def laid_out(bundle: Bundle) -> Iterator[tuple[Path, Result]]:
    """The bundle's files in a folder for a while, the cell's known to be whole, and its result.

    Raises PahqError where one is damaged or missing, or where ``bundle.json`` claims what they do not say.
    """
    with tempfile.TemporaryDirectory(prefix="pahq-bundle-") as name:
        folder = Path(name)
        for inside, content in bundle.files.items():
            (folder / inside).parent.mkdir(exist_ok=True)
            (folder / inside).write_bytes(content)
        try:
            result = check_cell(folder)
            if not _says(bundle.about, describe(result, bundle.files)):
                raise PahqError(f"{ABOUT} claims what its other files do not say")
        except Damaged as damage:
            raise _none(bundle.path, f"{damage.path.name} is damaged: {damage.what}") from None
        except PahqError as error:
            raise _none(bundle.path, str(error).replace(f"{folder}/", "")) from None
        for missing in {PROMPTS, *_tables(result.config)} - set(bundle.files):
            raise _none(bundle.path, f"it lacks {missing}")
        yield folder, result


def describe(result: Result, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What ``bundle.json`` says: what is claimed and how near the threshold it came, all of it from the other files."""
    cell, search, certainty = result.config, result.search, result.certainty
    doubts = None
    if certainty is not None and search is not None:
        doubts = {"smallest_margin": search.smallest_margin} | certainty.model_dump(mode="json", exclude={"audit"})
    audits = (None if certainty is None else certainty.audit, result.rescored)
    audit = next((one.model_dump(mode="json") for one in audits if one is not None), None)
    model = {"name": cell.model.name, "source": cell.model.source, "revision": cell.model.revision}
    counts = {"tests": result.tests, "edges": result.edges, "kept": result.kept, "kept_cleaned": result.kept_cleaned}
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": result.id,
        "kind": "scores" if cell.method.scores else "search",
        "claim": counts | {"fresh": result.fresh.model_dump(mode="json")},
        "model": model | {"sha256": result.model_digest, "included": MODEL[0] in files},
        "margins": doubts,
        "audit": audit,
        "versions": result.versions.model_dump(mode="json"),
        "files": _digests(files),
    }


def _says(told: Any, found: Any) -> bool:
    """Whether everything ``told`` is so; a later version may find more than an earlier one told."""
    if isinstance(told, Mapping) and isinstance(found, Mapping):
        return all(name in found and _says(value, found[name]) for name, value in told.items())
    return bool(told == found)


def _tables(cell: CellConfig) -> tuple[str, ...]:
    return () if cell.task.prompts is None else (f"prompts{Path(cell.task.prompts).suffix.lower()}",)


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _none(path: Path, why: str) -> PahqError:
    return PahqError(
        f"{path} is no whole bundle: {why}; a file as `pahq bundle CELL --out FILE.zip` writes it was expected"
    )
