"""Named settings, the files below ``conf/<group>``, read as they stand. No Hydra, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pahq.errors import unknown

GROUPS = ("task", "model", "method", "precision", "engine")


def configuration_folder() -> Path:
    """The folder of Hydra's files: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "conf", package.parent / "conf"
    return inside if (inside / "config.yaml").is_file() else beside


def options(group: str, folder: Path | None = None) -> tuple[str, ...]:
    """Names of the files of a configuration group, ``task`` say, or of all experiments (``experiment``)."""
    return tuple(sorted(path.stem for path in ((folder or configuration_folder()) / group).glob("*.yaml")))


def preset(group: str, name: str) -> dict[str, Any]:
    """The values of ``conf/<group>/<name>.yaml``; PahqError with the known names where there is no such file."""
    if name not in options(group):
        raise unknown(group, name, options(group))
    values = yaml.safe_load((configuration_folder() / group / f"{name}.yaml").read_text())
    return {str(key): value for key, value in values.items()}
