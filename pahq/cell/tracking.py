"""Weights & Biases, imported nowhere else: a finished cell's journal, numbers and circuit as one run.

Tracking never stops or delays a search: a cell is logged once it is complete, by replaying its journal; whatever goes
wrong is one warning, and the rest of the process logs offline, or not at all.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pahq.cell.files import read_result
from pahq.cell.journal import read_journal
from pahq.config.cell import CellConfig, RunConfig

if TYPE_CHECKING:
    import wandb

LOG = logging.getLogger(__name__)
PROJECT = "pahq"
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
PROBE_SECONDS = 3.0  # W&B itself would try for minutes
# A run replays a search that is over: the machine's load now, and a list of every package installed, would take more
# time than a small search and say nothing of it. Versions that matter are in the summary.
REPLAYED: dict[str, Any] = {"x_save_requirements": False, "x_disable_stats": True, "disable_job_creation": True}
_settled: dict[str, str] = {}  # mode asked for -> mode in use: one probe and one warning in a process


def log_cell(cell: CellConfig, run: RunConfig, folder: Path) -> None:
    """Log the finished cell in ``folder`` to ``<root>/wandb``.

    The run's id is the cell's digest, so that logging again resumes the run, or replaces its offline folder. Raises
    nothing: a failure is a warning.
    """
    asked = _asked(run)
    if asked == "disabled":
        return
    with _cache(Path(run.root) / "wandb"):
        _log_as(asked, cell, run, folder)


def mode_of(run: RunConfig) -> str:
    """How cells would be logged: online, offline or disabled."""
    asked = _asked(run)
    return asked if asked == "disabled" else _choose(asked)


def _asked(run: RunConfig) -> str:
    """The mode that was typed; where none was, what W&B's own variables say, else auto."""
    if run.wandb != "auto":
        return run.wandb
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on"):
        return "disabled"
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    return MODES.get(mode, "auto")


@contextmanager
def _cache(instead: Path) -> Iterator[None]:
    """For W&B a cache where it can write: its own, or ``instead``. Without one its service logs to the terminal."""
    base = os.environ.get("WANDB_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    base = base or os.path.join(os.environ.get("HOME", ""), ".cache")
    logs, known = Path(base, "wandb", "logs"), os.environ.get("WANDB_CACHE_DIR")
    with suppress(OSError):
        if logs.is_absolute():
            logs.mkdir(parents=True, exist_ok=True)
    if logs.is_absolute() and os.access(logs, os.W_OK):
        yield
        return
    os.environ["WANDB_CACHE_DIR"] = str(instead.resolve() / "cache")
    try:
        yield
    finally:
        os.environ.pop("WANDB_CACHE_DIR")
        if known is not None:
            os.environ["WANDB_CACHE_DIR"] = known


def _log_as(asked: str, cell: CellConfig, run: RunConfig, folder: Path) -> None:
    try:
        mode = _settled[asked] = _settled.get(asked) or _choose(asked)
    except Exception as error:  # W&B raises a dozen kinds, and none of them is worth a search
        mode = _fall_back(asked, "offline", error)
    if mode == "online":
        try:
            _log(cell, run, folder, mode)
            return
        except Exception as error:
            mode = _fall_back(asked, "offline", error)
    if mode == "offline":
        try:
            _log(cell, run, folder, mode)
        except Exception as error:
            _fall_back(asked, "disabled", error)


def _fall_back(asked: str, mode: str, error: Exception) -> str:
    _settled[asked] = mode
    now = "tracking goes on offline" if mode == "offline" else "cells are no longer tracked"
    reason = " ".join(str(error).split()) or "no reason given"
    LOG.warning("W&B: %s (%s); %s", type(error).__name__, reason[:200], now)
    return mode


def _choose(asked: str) -> str:
    """The mode to use: online needs a key and a way to the server; without either it is offline."""
    if asked == "offline":
        return "offline"
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        if asked == "online":
            LOG.warning("W&B: no key is configured (wandb login); tracking goes on offline")
        return "offline"
    server = urlsplit(str(wandb.setup().settings.base_url))
    port = server.port or (443 if server.scheme == "https" else 80)
    if not urllib.request.getproxies().get(server.scheme):  # behind a proxy, only W&B itself can tell
        try:
            socket.create_connection((server.hostname, port), timeout=PROBE_SECONDS).close()
        except OSError as error:
            LOG.warning("W&B: %s cannot be reached (%s); tracking goes on offline", server.hostname, error)
            return "offline"
    return "online"


def _log(cell: CellConfig, run: RunConfig, folder: Path, mode: str) -> None:
    import wandb

    result = read_result(folder)
    root = Path(run.root)
    root.mkdir(parents=True, exist_ok=True)
    for stale in (root / "wandb").glob(f"offline-run-*-{cell.digest}"):
        shutil.rmtree(stale, ignore_errors=True)
    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        dir=str(root),
        id=cell.digest,
        resume="allow",
        mode=mode,  # type: ignore[arg-type]
        group=run.experiment,
        job_type=cell.method.label,
        name=cell.id,
        config=cell.model_dump(mode="json"),
        settings=wandb.Settings(init_timeout=20, console="off", silent=True, **REPLAYED),
    )
    try:
        if not cell.method.scores:
            _replay(tracked, folder)
        tracked.summary.update(dict(_numbers(result.model_dump(mode="json", exclude={"config"}))))
        artifact = wandb.Artifact(f"circuit-{cell.digest}", type="circuit", metadata={"cell": cell.id})
        for name in ("circuit.json", "config.json"):
            # Immutable: the file is read where it lies, not copied to the user's home first.
            artifact.add_file(str(folder / name), policy="immutable")
        tracked.log_artifact(artifact)
    finally:
        tracked.finish()


def _replay(tracked: wandb.Run, folder: Path) -> None:
    """Per-test progress from the journal: effect, the metric after the decision, edges kept so far."""
    kept = 0
    for line in read_journal(folder / "decisions.jsonl"):
        kept += not line.removed
        metric = line.after if line.removed else line.before
        tracked.log({"effect": line.after - line.before, "metric": metric, "kept": kept}, step=line.i)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The scalars of a result by dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, (bool, int, float, str)):
            yield f"{prefix}{key}", value
