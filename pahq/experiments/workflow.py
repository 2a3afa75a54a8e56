"""What the Snakefile needs beside an experiment's cells: the settings of ``--config``, and who runs here. No torch."""

from __future__ import annotations

import base64
import difflib
import fcntl
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from pahq.errors import PahqError, unknown
from pahq.experiments.jobs import SEARCHES, Asked

LOG = logging.getLogger(__name__)
DEVICES = ("cpu", "cuda")
EARLY = 1.0  # seconds of the epoch: before every file, and not 0, which Snakemake takes for no time at all
SKEW = 60.0  # seconds by which clocks of machines that share a disk may differ, as they do
DERIVED = ("cells/*/*/stability/*.done", "analysis/**/*", "report/**/*", "report.html")  # from cells' results
LEAST = {"resamples": 2, "seeds": 0, "random_circuits": 1, "inflated": 1}  # of the settings that are whole numbers


@dataclass(frozen=True)
class Settings:
    """``snakemake --config KEY=VALUE ...``, checked.

    ``resamples`` and ``seeds`` of every circuit whose stability is measured; None: what its row says.
    ``random_circuits`` and ``inflated`` are sample sizes of ``pahq faithfulness``; None: its own. ``device`` is where
    cells are computed: ``cpu`` or ``cuda``.
    """

    experiment: str = "default"
    root: str = "results"
    wandb: str | None = None
    stability_of: str = "marked"
    resamples: int | None = None
    seeds: int | None = None
    random_circuits: int | None = None
    inflated: int | None = None
    lock: bool = True
    device: str = "cpu"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """The settings that Snakemake read; PahqError in one sentence for an unknown key or a faulty value."""
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                near = "".join(f" (is it {name}?)" for name in difflib.get_close_matches(str(key), known, n=1))
                raise PahqError(f"unknown --config key {key!r}{near}; known: {', '.join(known)}")
        found: dict[str, Any] = {
            key: str(config[key]) for key in ("experiment", "wandb", "stability_of", "device") if key in config
        }
        if found.get("device", "cpu") not in DEVICES:
            raise unknown("device", found["device"], DEVICES)
        found |= {key: _whole(key, config[key]) for key in LEAST if key in config}
        return cls(**found, root=_root(config.get("root", cls.root)), lock=_truth("lock", config.get("lock", cls.lock)))

    def counts(self, asked: Asked) -> tuple[int, int]:
        """Resamples and seeds to measure of circuits whose rows ask for so much."""
        return (
            asked.resamples if self.resamples is None else self.resamples,
            asked.seeds if self.seeds is None else self.seeds,
        )

    @property
    def sample_sizes(self) -> list[str]:
        """What was said of sample sizes, as options of ``pahq faithfulness``."""
        said = {"--random-circuits": self.random_circuits, "--inflated": self.inflated}
        return [word for option, count in said.items() if count is not None for word in (option, str(count))]


def _whole(key: str, value: Any) -> int:
    if type(value) is not int or value < LEAST[key]:
        raise PahqError(f"--config {key}: a whole number from {LEAST[key]} on was expected, got {value!r}")
    if key in ("resamples", "seeds") and value > SEARCHES:
        raise PahqError(f"--config {key}: {value} are too many searches of one cell; at most {SEARCHES} are expected")
    return value


def _root(value: Any) -> str:
    """The results' folder as typed, where Snakemake took it for text and can have it in the paths of rules."""
    if not isinstance(value, str) or not value:
        hint = "write ./ before a name that Snakemake reads as a number, a list or a mapping"
        raise PahqError(f"--config root: the name of a folder was expected, got {value!r}; {hint}")
    if set("{}\n") & set(value):
        raise PahqError(f"--config root: Snakemake cannot have braces or line ends in a path, got {value!r}")
    return value


def _truth(key: str, value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise PahqError(f"--config {key}: true or false was expected, got {value!r}")
    return str(value).lower() == "true"


def join_runs(root: str, folder: Path = Path(".snakemake"), *, dry: bool = False) -> TextIO:
    """Say that a run lives here, until it ends in whatever way; clear away what killed runs left of theirs.

    A Snakemake that was killed leaves its locks in ``folder``, and the next one would refuse to start. Every live run
    shares a lock of the kernel's, which goes with its process: whoever can have it alone is alone, and then Snakemake's
    locks on files below ``root`` are a dead run's. With another run alive they stay and Snakemake refuses as ever; so
    they do where the file system cannot lock files. ``dry``: no file's date is changed. The file that comes back is to
    be kept open.
    """
    folder.mkdir(exist_ok=True)
    file = (folder / "pahq.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        alone = False
    except OSError:
        return file
    else:
        alone = True
    if alone:
        with suppress(OSError):  # of a lock that stays Snakemake tells
            for path in (folder / "locks").glob("*.lock"):
                if all(_is_below(line, root) for line in path.read_text().splitlines()):
                    path.unlink(missing_ok=True)
        _keep_models(root, folder)
        settle_times(Path(root), time.time(), dry=dry)
    fcntl.flock(file, fcntl.LOCK_SH)  # whatever was cleared away, or others would wait for this run's end
    return file


def _keep_models(root: str, folder: Path) -> None:
    """Take the files of models that are there for whole, which they are, whenever a run was killed.

    Snakemake would make them anew, being marked as incomplete, and do nothing else: cells are never older than these
    files, so that making them is no reason to do cells, and it looks for no other one where an input is made.
    """
    for path in Path(root, "models").glob("[!.]*.json"):
        for name in {f"{root}/models/{path.name}", os.path.normpath(path)}:
            marker = base64.urlsafe_b64encode(name.encode()).decode()
            with suppress(OSError):  # a name that is too long is none of a single file
                (folder / "incomplete" / marker).unlink(missing_ok=True)


def settle_times(root: Path, now: float, *, dry: bool = False) -> None:
    """Take files that are dated in the future, by a clock that was ahead, for what they may be at worst.

    Snakemake compares times alone. A table from the future would count as newer than cells that are computed after it,
    and never be made again; a cell from the future would have tables made again at each call. So results of cells are
    dated now, and what follows from them is dated before everything. What is on a file stays. Files that cannot be
    dated anew, being somebody else's, are told; so are all where it is ``dry``, and none is dated then.
    """
    results = set(root.glob("cells/*/*/result.json"))
    derived = {path for pattern in DERIVED for path in root.glob(pattern)}
    ahead, faults = list[Path](), list[OSError]()
    for path in sorted(results | derived):
        try:
            if path.is_file() and path.stat().st_mtime > now + SKEW:
                if not dry:
                    at = now if path in results else EARLY
                    os.utime(path, (at, at))
                ahead.append(path)
        except OSError as error:
            faults.append(error)
    if ahead:
        LOG.warning(
            "%d files below %s %s dated in the future (a clock was ahead), %s first: %s made again where it may be "
            "older than these",
            *(len(ahead), root, "are" if dry else "were", ahead[0].relative_to(root)),
            "a run that is not dry dates them anew, so that what follows from cells is"
            if dry
            else "what follows from cells is",
        )
    if faults:
        LOG.warning(
            "%d files below %s cannot be dated anew, though a clock was ahead or may have been (%s first): what "
            "follows from cells may stay as it is though it is too old",
            *(len(faults), root, faults[0]),
        )


def _is_below(path: str, root: str) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
