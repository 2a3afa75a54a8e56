"""Cells to bundle, and bundles that somebody has changed, with or without new digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pahq.cell.files import files_of, read_result, write_result
from pahq.cell.result import Result
from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs
from pahq.files.archive import pack, unpack
from pahq.files.text import dump_json
from pahq.verify.bundle import ABOUT, KNOWN, describe

Change = Callable[[dict[str, bytes]], object]


def finish(root: Path, *words: str) -> Path:
    """A finished cell's folder."""
    [(cell, _)] = compose_runs(words)
    return run_cell(cell, RunConfig(root=str(root), wandb="disabled", progress=False)).folder


def changed(bundle: Path, out: Path, change: Change, *, sealed: bool) -> Path:
    """A bundle with other files in it; ``sealed``: bundle.json then names the digests that they have now."""
    files = unpack(bundle, KNOWN)
    change(files)
    if sealed:
        about = json.loads(files.pop(ABOUT))
        about["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        files = {ABOUT: dump_json(about).encode(), **files}
    out.write_bytes(pack(files))
    return out


def forged(
    bundle: Path,
    out: Path,
    change: Change = lambda files: None,
    result: Callable[[dict[str, Any]], object] = lambda values: None,
) -> Path:
    """A bundle whose files and result are changed and then sealed throughout, as a forger of patience would."""
    files = unpack(bundle, KNOWN)
    del files[ABOUT]
    change(files)
    folder = out.parent / f"{out.stem}-forged"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    old = read_result(folder)
    values = old.to_json()
    result(values)
    new = write_result(folder, Result.from_json(values, folder / "result.json"))
    files = {name: (folder / name).read_bytes() for name in files}
    assert set(files_of(new.config)) <= set(files)
    out.write_bytes(pack({ABOUT: dump_json(describe(new, files)).encode(), **files}))
    return out
