"""A sweep whose cells are jobs of Hydra's submitit launcher: what each asks for, and what is told when one is lost."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pahq.errors import PahqError

if TYPE_CHECKING:
    from pahq.config.cell import CellConfig, ModelChoice, RunConfig
    from pahq.experiments.resources import Shape

LAUNCHER = "hydra/launcher"
SUBMITIT = ("submitit_local", "submitit_slurm")
LOST = ("UncompletedJobError", "FailedJobError", "FailedSubmissionError")  # submitit's, which need not be installed
MIB_A_GIB = 1024


def check_installed(launcher: str) -> None:
    """PahqError where there is no such launcher, or nothing that it could hand jobs to."""
    if launcher == "submitit_slurm" and shutil.which("srun") is None:
        raise PahqError(
            f"{LAUNCHER}={launcher} needs Slurm, and no srun was found here; {LAUNCHER}=submitit_local needs none"
        )
    try:
        found = find_spec("hydra_plugins.hydra_submitit_launcher")
    except ModuleNotFoundError:  # nor any other plugin of Hydra's
        found = None
    if found is None:
        raise PahqError(f"{LAUNCHER}: the submitit launcher is not installed; make cluster installs it")


def launcher_of(words: Iterable[str]) -> str:
    """The launcher that was typed; Hydra's own, ``basic``, unless one was."""
    typed = [word.partition("=")[2] for word in words if word.lstrip("+").startswith(f"{LAUNCHER}=")]
    return typed[-1] if typed else "basic"


def estimated(runs: Sequence[tuple[CellConfig, RunConfig]], words: Sequence[str]) -> list[str]:
    """Settings of the launcher from the cells' estimates, but for those that were typed.

    All jobs of a sweep ask for the same, so for what the largest cell needs. On this machine they start all at once and
    share its cores, so that each has the time of all of them. The shape of a model comes from its file below the folder
    of results (``pahq models NAME --out``) if there is one, else from the model's own configuration.
    """
    from pahq.experiments.resources import needs

    shapes: dict[str, Shape] = {}
    for cell, where in runs:
        if cell.model.name not in shapes:
            shapes[cell.model.name] = _shape(cell.model, Path(where.root))
    found = [needs([(cell, shapes[cell.model.name])]) for cell, _ in runs]
    threads = max(where.threads for _, where in runs)
    settings = {
        "mem_gb": math.ceil(max(one.memory_mb for one in found) / MIB_A_GIB),
        "timeout_min": (sum if launcher_of(words) == "submitit_local" else max)(one.minutes for one in found),
        "cpus_per_task": threads,
    }
    if any(where.device != "cpu" for _, where in runs):
        settings["gpus_per_node"] = 1
    typed = {word.partition("=")[0].lstrip("+~") for word in words}
    named = {f"hydra.launcher.{name}": value for name, value in settings.items()}
    return [f"{key}={value}" for key, value in named.items() if key not in typed]


def _shape(model: ModelChoice, root: Path) -> Shape:
    from pahq.experiments.resources import Shape

    path = root / "models" / f"{model.name}.json"
    if path.is_file():
        return Shape.read(str(path))
    from pahq.model.sources.find import configuration

    return Shape.of(configuration(model.source, model.revision).model_dump())


def lost(error: Exception, root: str, words: Iterable[str]) -> PahqError | None:
    """A job that ended without a result, in a sentence; None of any other error. ``words``: what was typed."""
    if type(error).__name__ not in LOST:
        return None
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason was given")
    typed = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}
    sweep = typed.get("hydra.sweep.dir", Path(root) / ".hydra")
    where = typed.get("hydra.launcher.submitit_folder", Path(sweep) / ".submitit")
    return PahqError(f"a job of the sweep was lost ({first}); its log lies below {where}; the same command goes on")
