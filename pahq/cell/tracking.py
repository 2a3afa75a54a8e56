"""Weights & Biases: a finished cell's journal, numbers, circuit and page as a run, an experiment's tables as another.

Tracking never stops or delays a search: a cell is logged once it is complete, by replaying its journal; whatever goes
wrong is one warning, and the rest of the process logs offline, or not at all. ``pahq.cell.lineage`` says what was
computed of what. W&B is imported in these two modules alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pahq.cell.files import read_result
from pahq.cell.journal import read_journal
from pahq.cell.lineage import circuit_artifact, model_artifact, uses
from pahq.config.cell import CellConfig, RunConfig

if TYPE_CHECKING:
    import wandb

LOG = logging.getLogger(__name__)
Page = Callable[[Path], str]  # a finished cell's page, as HTML, by the cell's folder
PROJECT = "pahq"
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
PROBE_SECONDS = 3.0  # W&B itself would try for minutes
# A run replays a search that is over: the machine's load now, and a list of every package installed, would take more
# time than a small search and say nothing of it. Versions that matter are in the summary.
REPLAYED: dict[str, Any] = {"x_save_requirements": False, "x_disable_stats": True, "disable_job_creation": True}
_settled: dict[str, str] = {}  # mode asked for -> mode in use: one probe and one warning in a process


@dataclass(frozen=True)
class Tables:
    """What is logged of an experiment: its tables by name (columns, rows), their ``files``, and the ``circuits`` read.

    ``curves``: points of lines over the bits of a format, each with ``bits`` and the lines' values by name.
    """

    experiment: str
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
    files: Sequence[Path]
    circuits: Sequence[tuple[CellConfig, Path]]
    curves: Sequence[Mapping[str, float]] = field(default_factory=tuple)


def log_cell(
    cell: CellConfig, run: RunConfig, folder: Path, page: Page | None = None, *, paged: bool | None = None
) -> str:
    """Log the finished cell in ``folder`` to ``<root>/wandb``. How it was logged: online, offline or disabled.

    Its ``page`` is half a megabyte: unless ``paged`` says otherwise it is left out where nobody asked for W&B, which is
    offline for want of a key. The run's id is the cell's digest, so that logging again resumes the run, or replaces its
    offline folder. Raises nothing: a failure is a warning.
    """
    if paged is None:
        paged = _asked(run) == "offline"
    return _tracked(run, partial(_log, cell, run, folder, page, paged))


def log_experiment(found: Tables, run: RunConfig) -> str:
    """Log an experiment's tables as one run that reads its circuits. How it was logged: online, offline or disabled."""
    return _tracked(run, partial(_log_tables, found, run))


def _tracked(run: RunConfig, log: Callable[[str], None]) -> str:
    asked = _asked(run)
    if asked != "disabled":
        with _places(Path(run.root) / "wandb"):
            _log_as(asked, log)
    return _settled.get(asked, asked)


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
def _places(instead: Path) -> Iterator[None]:
    """For W&B a cache where it can write: its own, or ``instead``. Without one its service logs to the terminal.

    Where its cache cannot be written, neither can the place from which it uploads what it makes of tables.
    """
    base = os.environ.get("WANDB_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    base = base or os.path.join(os.environ.get("HOME", ""), ".cache")
    logs = Path(base, "wandb", "logs")
    with suppress(OSError):
        if logs.is_absolute():
            logs.mkdir(parents=True, exist_ok=True)
    if logs.is_absolute() and os.access(logs, os.W_OK):
        yield
        return
    own = {"WANDB_CACHE_DIR": str(instead.resolve() / "cache"), "WANDB_DATA_DIR": str(instead.resolve() / "data")}
    known = {name: os.environ.get(name) for name in own}
    os.environ |= own
    try:
        yield
    finally:
        for name, value in known.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _log_as(asked: str, log: Callable[[str], None]) -> None:
    """Log in the mode that was asked for, or in the next one that works."""
    try:
        mode = _settled[asked] = _settled.get(asked) or _choose(asked)
    except Exception as error:  # W&B raises a dozen kinds, and none of them is worth a search
        mode = _fall_back(asked, "offline", error)
    if mode == "online":
        try:
            log(mode)
            return
        except Exception as error:
            mode = _fall_back(asked, "offline", error)
    if mode == "offline":
        try:
            log(mode)
        except Exception as error:
            _fall_back(asked, "disabled", error)


def _fall_back(asked: str, mode: str, error: Exception) -> str:
    _settled[asked] = mode
    now = "tracking goes on offline" if mode == "offline" else "cells are no longer tracked"
    reason = " ".join(str(error).split()) or "no reason given"
    LOG.warning("W&B: %s (%s); %s", type(error).__name__, reason[:200], now)
    return mode


def has_key() -> bool:
    """Whether a key of W&B's is configured. Asks nobody for it, and no server about it."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    return bool(wandb.login(prompt=False, verify=False))


def project() -> str:
    """The project that runs belong to."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def _choose(asked: str) -> str:
    """The mode to use: online needs a key and a way to the server; without either it is offline."""
    if asked == "offline":
        return "offline"
    if not has_key():
        if asked == "online":
            LOG.warning("W&B: no key is configured (wandb login); tracking goes on offline")
        return "offline"
    missing = unreachable()
    if missing is not None:
        LOG.warning("W&B: %s; tracking goes on offline", missing)
    return "online" if missing is None else "offline"


def unreachable() -> str | None:
    """Why there is no way to W&B's server; None where there is one. Behind a proxy, only W&B itself can tell."""
    import wandb

    server = urlsplit(str(wandb.setup().settings.base_url))
    port = server.port or (443 if server.scheme == "https" else 80)
    if not urllib.request.getproxies().get(server.scheme):
        try:
            socket.create_connection((server.hostname, port), timeout=PROBE_SECONDS).close()
        except OSError as error:
            return f"{server.hostname} cannot be reached ({error})"
    return None


def _log(cell: CellConfig, run: RunConfig, folder: Path, page: Page | None, paged: bool, mode: str) -> None:
    result = read_result(folder)
    named = {"group": run.experiment, "job_type": cell.method.label, "name": cell.id}
    with _begun(Path(run.root), mode, cell.digest, config=cell.model_dump(mode="json"), **named) as tracked:
        uses(tracked, model_artifact(cell, result, Path(run.root)))
        if not cell.method.scores:
            _replay(tracked, folder)
        if page is not None and (paged or mode == "online"):
            _show(tracked, page, folder)
        tracked.summary.update(dict(_numbers(result.model_dump(mode="json", exclude={"config"}))))
        tracked.summary["kl"] = result.fresh.kl  # a name without a dot, which W&B's plots take for a part of another
        tracked.log_artifact(circuit_artifact(cell, folder))


def _log_tables(found: Tables, run: RunConfig, mode: str) -> None:
    import wandb

    named = {"group": found.experiment, "job_type": "tables", "name": f"{found.experiment}: tables"}
    # Online a run of its own each time: one that is resumed would have the lines over bits twice.
    own = f"-{time.strftime('%Y%m%d-%H%M%S')}" if mode == "online" else ""
    with _begun(Path(run.root), mode, f"tables-{found.experiment}{own}", **named) as tracked:
        for cell, folder in found.circuits:
            uses(tracked, circuit_artifact(cell, folder))
        tracked.define_metric("bits")
        for name in sorted({name for point in found.curves for name in point} - {"bits"}):
            tracked.define_metric(name, step_metric="bits")
        for point in found.curves:
            tracked.log(dict(point))
        tables = {name: wandb.Table(list(columns), list(rows)) for name, (columns, rows) in found.tables.items()}
        tracked.log({f"tables/{name}": table for name, table in tables.items()})
        artifact = wandb.Artifact(f"tables-{found.experiment}", type="tables", metadata={"cells": len(found.circuits)})
        for file in found.files:
            artifact.add_file(str(file), policy="immutable")
        tracked.log_artifact(artifact)


@contextmanager
def _begun(root: Path, mode: str, run_id: str, **named: Any) -> Iterator[wandb.Run]:
    """A run of W&B's, finished at the end; an offline run of the same name is replaced."""
    import wandb

    root.mkdir(parents=True, exist_ok=True)
    for stale in (root / "wandb").glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(stale, ignore_errors=True)
    tracked = wandb.init(
        project=project(),
        dir=str(root),
        id=run_id,
        resume="allow",
        mode=mode,  # type: ignore[arg-type]
        settings=wandb.Settings(init_timeout=20, console="off", silent=True, **REPLAYED),
        **named,
    )
    try:
        yield tracked
    finally:
        tracked.finish()


def _show(tracked: wandb.Run, page: Page, folder: Path) -> None:
    """The page to explore, as media; without it the run has all else."""
    import wandb

    try:
        html = page(folder)
    except Exception as error:
        LOG.warning("W&B: the page of %s is left out (%s)", folder, " ".join(str(error).split())[:200])
        return
    tracked.log({"circuit": wandb.Html(html, inject=False, data_is_not_path=True)})


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
