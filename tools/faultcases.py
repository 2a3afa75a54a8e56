"""Every fault but kill -9, once each. A case says in one sentence what came of it, or raises ``Lost``."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faultbench import Bench, Skipped, need, sentence_of
from faultdamage import (
    CELL_FILES,
    STABILITY,
    TABLE,
    damaged,
    damaged_analysis,
    damaged_table,
    damaged_together,
)
from faultlimits import LIMITS
from faultruns import EXPERIMENT, REPORT, Going, pahq, run, until, workflow

from pahq.cell.files import SCORES, cell_folder
from pahq.experiments.compose import cells

GRACE = 10.0  # seconds between a cluster's SIGTERM and its SIGKILL; theirs are 30 and more
SMALL_DISK = "size=160k"  # fewer bytes than the experiment's results


@dataclass(frozen=True)
class Case:
    name: str
    act: Callable[[Bench], str]


def signalled(number: signal.Signals, everyone: bool, bench: Bench) -> str:
    """A signal in mid-run, SIGKILL to what still lives when the time of grace is over, the same command."""
    folder = bench.empty(f"{number.name}-{everyone}")
    going = Going(workflow(folder, REPORT), folder, bench.base / f"{folder.name}.log")
    need(until(going, folder, "results/cells/*/*/decisions.jsonl"), f"it never began: {going.output[-300:]}")
    doing, clock = going.doing(), time.monotonic()
    going.send(number, everyone=everyone)
    code = going.end(GRACE)
    seconds = time.monotonic() - clock
    need(code != 0, "it ended as if it were done")
    need("Traceback" not in going.output, f"a traceback: {going.output[-600:]}")
    how = "outlived the grace and was killed" if code == -signal.SIGKILL else f"ended with {code}"
    left = len(going.processes())
    going.send(signal.SIGKILL, everyone=True)
    told = f"while running {doing}, it {how} after {seconds:.1f} s" + (f" ({left} processes left)" if left else "")
    return f"{told}; {bench.goes_on(folder, REPORT)}"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """``results`` below a folder on a small disk of its own. Raises Skipped where nobody may mount one."""
    place = folder / "results"
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], capture_output=True, text=True)
    except FileNotFoundError:
        raise Skipped("there is no mount here") from None
    if done.returncode:
        raise Skipped(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def full_disk(bench: Bench) -> str:
    folder = bench.empty("full")
    with small_disk(folder, SMALL_DISK) as place:
        told = run(workflow(folder, REPORT), folder)
        need(told.code != 0, "it ended as if it were done", told)
        said = sentence_of(told.output)
        need("the disk is full" in said, "no sentence tells of a full disk", told)
        _remount(place, "size=64m")
        return f"told ({said.split(',')[0]}); once there was room, {bench.goes_on(folder, REPORT)}"


def read_only(bench: Bench) -> str:
    folder = bench.empty("readonly")
    [one, *_] = cells(EXPERIMENT).values()
    new_cell = ("task=tracr-proportion", "method=acdc", "threshold=0.1", "run.root=results", "wandb=disabled")
    with small_disk(folder, "size=64m") as place:
        for name in ("cells", "models"):
            shutil.copytree(bench.whole / "results" / name, place / name)
        _remount(place, "ro")
        try:
            known = run(pahq(*one.overrides, "run.root=results", "wandb=disabled"), folder)
            need(known.code == 0, "a finished cell cannot be read", known)
            new = run(pahq(*new_cell), folder)
            need(new.code == 2 and "Read-only file system" in sentence_of(new.output), "a new cell is not refused", new)
            told = run(workflow(folder, REPORT), folder)
            need(told.code != 0, "it ended as if it were done", told)
            need("Read-only file system" in told.output, "nothing says that the folder is read-only", told)
        finally:
            _remount(place, "rw")
        how = "with a traceback of Snakemake's" if "Traceback" in told.output else "in a sentence"
        came = bench.goes_on(folder, REPORT)
    return f"finished cells are read, a new one is refused in a sentence, Snakemake stops {how}; writable again, {came}"


def two_runs(bench: Bench) -> str:
    """The first is stopped in mid-run, so that the second surely meets it."""
    folder = bench.empty("two")
    [one, *_] = cells(EXPERIMENT)
    words = pahq(*cells(EXPERIMENT)[one].overrides, "run.root=results", "wandb=disabled", "run.progress=false")
    first = Going(words, folder, folder / "first.log")
    need(until(first, folder, "results/cells/*/*/.lock"), f"it never began: {first.output[-300:]}")
    first.send(signal.SIGSTOP, everyone=True)
    second = run(words, folder)
    first.send(signal.SIGCONT, everyone=True)
    need(first.end(120) == 0, f"the first ended badly: {first.output[-300:]}")
    need(second.code == 2 and "another process is computing" in sentence_of(second.output), "no sentence", second)
    third = run(words, folder)
    need(third.code == 0, "the same command does not complete", third)
    made, known = (cell_folder(place / "results", one) / "circuit.json" for place in (folder, bench.whole))
    need(made.read_bytes() == known.read_bytes(), "another circuit than undisturbed")
    return "the second was told that another process is computing the cell; the first ended well, with the same circuit"


def unwritable_tracking(bench: Bench) -> str:
    """A file where W&B's folder belongs: not even root can write below it."""
    folder = bench.empty("wandb")
    (folder / "results").mkdir()
    (folder / "results" / "wandb").write_text("in the way\n")
    [one, *_] = cells(EXPERIMENT)
    told = run(pahq(*cells(EXPERIMENT)[one].overrides, "run.root=results", "wandb=offline"), folder)
    need(told.code == 0, f"the cell ended with {told.code}", told)
    said = [line for line in told.output.splitlines() if line.startswith("pahq: W&B: ")]
    need(said and "Traceback" not in told.output, "no warning in a sentence", told)
    made, known = (cell_folder(place / "results", one) / "circuit.json" for place in (folder, bench.whole))
    need(made.read_bytes() == known.read_bytes(), "another circuit than undisturbed")
    return f"the cell was finished all the same, with one warning ({said[0].removeprefix('pahq: ')[:120]})"


def _cases() -> Iterator[Case]:
    for name in (*CELL_FILES, *STABILITY, "faithfulness.json", SCORES):
        yield Case(f"damaged {name}", partial(damaged, name))
    yield Case("damaged files of several kinds", damaged_together)
    yield Case("damaged files that tables are made of", damaged_analysis)
    yield Case(f"damaged {TABLE}", partial(damaged_table, TABLE))
    for everyone, whom in ((False, "Snakemake alone"), (True, "the whole group")):
        yield Case(f"SIGTERM to {whom}", partial(signalled, signal.SIGTERM, everyone))
        yield Case(f"Ctrl-C to {whom}", partial(signalled, signal.SIGINT, everyone))
    yield Case("full disk", full_disk)
    yield Case("read-only results", read_only)
    yield Case("two runs on one cell", two_runs)
    yield Case("unwritable folder of W&B", unwritable_tracking)
    for name, act in LIMITS:
        yield Case(name, act)


CASES = tuple(_cases())
