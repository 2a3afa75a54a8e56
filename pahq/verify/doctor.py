"""``pahq doctor``: whether everything that a search needs is there, and whether searches are exact here.

Each look says *ok*, *note* (something is absent that a search does without) or *fault*, with one sentence.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from pahq.config.cell import CellConfig, RunConfig
from pahq.config.precision import FORMATS, SCALES

MARGIN = 1e-9  # in nats: how far effects in float64 may lie apart in two engines
DISK = 1 << 30  # bytes that should be free


State = Literal["ok", "note", "fault"]
Found = tuple[State, str]


@dataclass(frozen=True)
class Look:
    """One thing looked at: how it is, and a sentence about it."""

    what: str
    state: State
    sentence: str


Compose = Callable[[Sequence[str]], Sequence[tuple[CellConfig, RunConfig]]]


def looks(root: Path, compose: Compose) -> Iterator[Look]:
    """Everything, one after the other. ``root``: where results are to lie; ``compose``: cells of what is typed."""
    for what, look in (
        ("packages", _packages),
        ("torch", _torch),
        ("device", _device),
        ("results", lambda: _results(root)),
        ("formats", _formats),
        ("tracking", _tracking),
        ("hub", _hub),
        ("exactness", lambda: _exactness(compose)),
    ):
        yield _looked(what, look)


def _looked(what: str, look: Callable[[], Found]) -> Look:
    try:
        return Look(what, *look())
    except Exception as error:  # whatever is wrong with a set-up is what is asked here
        return Look(what, "fault", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _packages() -> Found:
    wanted = [Requirement(line) for line in requires("pahq") or []]
    missing = []
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(one.name)
        except PackageNotFoundError:
            missing.append(f"{one} is not installed")
            continue
        if not one.specifier.contains(there, prereleases=True):
            missing.append(f"{one} is needed, and {there} is installed")
    if missing:
        return "fault", "; ".join(missing)
    return "ok", f"pahq {version('pahq')} on Python {platform.python_version()} has everything that it needs"


def _torch() -> Found:
    import torch

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    sentence = f"torch {torch.__version__} computes on {threads} of {cores} cores"
    if threads > 1 and "OMP_NUM_THREADS" not in os.environ:
        return "ok", f"{sentence}; where several jobs run side by side, give each one thread (OMP_NUM_THREADS=1)"
    return "ok", sentence


def _device() -> Found:
    import torch

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        return (
            "ok",
            f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {whole / 2**30:.0f} GiB free (run.device=cuda)",
        )
    return "note", "no CUDA device is here, so that searches run on the CPU"


def _results(root: Path) -> Found:
    if root.exists() and not root.is_dir():
        return "fault", f"{root} is no folder, so results cannot lie there"
    place = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    with tempfile.TemporaryDirectory(dir=place) as folder:
        (Path(folder) / "written").write_text("x")
    free = shutil.disk_usage(place).free
    sentence = f"{root} can be written, {free / 2**30:.1f} GiB are free"
    return ("ok" if free >= DISK else "note"), sentence


def _formats() -> Found:
    import torch

    from pahq.precision.formats import Format, round_trip

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 64, 48, generator=generator)
    worst = {}
    for name in FORMATS:
        back = round_trip(weight, Format(name, SCALES.get(name, ("none",))[0]))
        again = round_trip(back, Format(name, SCALES.get(name, ("none",))[0]))
        worst[name] = float((back - weight).norm() / weight.norm())
        if (
            not torch.isfinite(back).all()
            or worst[name] > 0.2
            or float((again - back).norm() / back.norm()) > worst[name]
        ):
            return "fault", f"format {name} does not hold a matrix of random numbers ({worst[name]:.2g} off)"
    return "ok", "relative error of a random matrix: " + ", ".join(f"{name} {off:.1g}" for name, off in worst.items())


def _tracking() -> Found:
    from pahq.cell.tracking import mode_of

    mode = mode_of(RunConfig())
    told = {
        "online": "cells are logged to Weights & Biases",
        "offline": "cells are logged to a folder; no key, or no way to the server (wandb sync sends it later)",
        "disabled": "cells are not logged",
    }
    return ("ok" if mode == "online" else "note"), f"wandb=auto means {mode} here: {told[mode]}"


def _hub() -> Found:
    import socket
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "note", f"HF_HUB_OFFLINE is set: models come from {constants.HF_HUB_CACHE} alone"
    server = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((server.hostname, server.port or 443), timeout=3).close()
    except OSError as error:
        return "note", f"{constants.ENDPOINT} cannot be reached ({error}); embedded models and folders need none"
    return "ok", f"{constants.ENDPOINT} can be reached; models are kept in {constants.HF_HUB_CACHE}"


def _exactness(compose: Compose) -> Found:
    """The fast engine's search of a small model against the reference engine's, in full and in low precision."""
    from pahq.cell.run import load
    from pahq.circuits.order import Order
    from pahq.engine.problem import cell_problem
    from pahq.search.start import build_engine, search_by

    begin, tests, apart = time.perf_counter(), 0, 0.0
    for words in (("method=acdc",), ("method=pahq", "precision=int8")):
        ((cell, _),) = compose(["task=nano-ioi", "task.examples=4", "engine.dtype=float64", *words])
        model, task = load(cell, "cpu")
        found = []
        for engine in ("suffix", "reference"):
            problem = cell_problem(cell, model, task.search)
            found.append(list(search_by(build_engine(engine, problem), problem, Order(), 0.1)))
        fast, slow = ([(one.edge, one.removed) for one in decisions] for decisions in found)
        if fast != slow:
            return "fault", f"{' '.join(words)}: the fast engine decides otherwise than the reference engine"
        tests += len(fast)
        apart = max([apart, *(abs(a.effect - b.effect) for a, b in zip(*found, strict=True))])
    if apart > MARGIN:
        return "fault", f"effects of the fast engine are off by {apart:.2g} from the reference engine's"
    seconds = time.perf_counter() - begin
    return (
        "ok",
        f"{tests} tests of two searches, decided alike by both engines, effects within {apart:.1g} ({seconds:.1f} s)",
    )
