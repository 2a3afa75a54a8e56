"""What Weights & Biases wrote of runs that it could send nowhere, read by its own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_folders(root: Path) -> list[Path]:
    return sorted((root / "wandb").glob("*run-*-*"))


def records(folder: Path) -> list[dict[str, Any]]:
    """All records of a run's file."""
    [file] = folder.glob("*.wandb")
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def artifacts(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [
        record["artifact"] for record in found if record["type"] == "artifact" and record["artifact"]["type"] == kind
    ]


def summary_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for record in found:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    return summary


def contents(artifact: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """An artifact's files and references by their names in it."""
    return {entry["path"]: entry for entry in artifact["manifest"]["contents"]}
