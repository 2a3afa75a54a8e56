"""What a cell's computation rests on, written before its first test and checked before it goes on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pahq.cell.result import Result
from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.files.text import read_json, write_json
from pahq.model.sources.find import weights_digest


def claim(folder: Path, cell: CellConfig, digest: str | None, levels: str | None) -> None:
    """Write what identifies the cell's computation, or check that what is there identifies the same.

    ``digest``: of the model. ``levels``: of what calibrated rounding chose, None without it. Raises PahqError where the
    folder holds the journal of another computation.
    """
    config = cell.model_dump(mode="json")
    provenance = {"model": digest, "pahq": versions()["pahq"]} | ({"levels": levels} if levels else {})
    if (folder / "decisions.jsonl").exists():
        for name, wanted in (("config.json", config), ("provenance.json", provenance)):
            there = _unplaced(read_json(folder / name))
            if there != _unplaced(wanted):
                differs = f"{name} differs"
                if isinstance(there, dict) and there.get("levels") and there | {"levels": levels} == wanted:
                    differs = "its calibrated rounding chose other levels than here and now"
                raise PahqError(f"{folder} holds the journal of another run ({differs}); move it away to start anew")
    write_json(folder / "config.json", config)
    write_json(folder / "provenance.json", provenance)


def check_weights(folder: Path, cell: CellConfig, result: Result) -> None:
    """Raise PahqError if the model's weights are not those that the cell in ``folder`` was finished on."""
    there, found = weights_digest(cell.model.source, cell.model.revision), result.model_digest
    if there not in (None, found):
        raise PahqError(
            f"{folder} was finished on other weights: {cell.model.source} has some of sha256 {str(there)[:12]}... now "
            f"and had {found[:12]}...; move the folder away, or take another run.root, for a search on the new ones"
        )


def _unplaced(values: Any) -> Any:
    """A configuration without the path of its file of prompts: the file's sha256 is there, and files move."""
    if not isinstance(values, dict) or not isinstance(values.get("task"), dict):
        return values
    return values | {"task": {key: value for key, value in values["task"].items() if key != "prompts"}}


def device_name(device: str) -> str:
    """A GPU's product name, or the kind of device (cpu, mps)."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def versions() -> dict[str, str]:
    """Of this package, torch and Python."""
    try:
        own = version("pahq")
    except PackageNotFoundError:  # run from a source tree that was never installed
        own = "source"
    return {"pahq": own, "torch": torch.__version__, "python": platform.python_version()}
