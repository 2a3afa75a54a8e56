"""An experiment in a folder of its own: started, watched, killed, and compared with a run that nobody disturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from pahq.analysis.names import EVALUATED, TABLES
from pahq.experiments.compose import cells

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "smoke"
SIZES = ("resamples=2", "seeds=0", "random_circuits=3", "inflated=3")  # small: the faults are what takes time
REPORT = f"results/analysis/{EXPERIMENT}/tables/REPORT.md"  # a goal of Snakemake's that leaves out figures and pages

# What an undisturbed run would not repeat either, by column of a table: times, memory, and ratios of them.
TIMES = (
    *("seconds", "ms_per_test", "peak_mib", "seconds_to_acdc", "peak_to_acdc", "seconds_acdc", "seconds_unaudited"),
    *("peak_mib_acdc", "peak_mib_unaudited", "seconds_overlapped", "seconds_serial", "overlapped_to_serial"),
)
OF_COST = ("note",)  # of the table cost: which cells were resumed, and whether their peaks can be compared
OF_CELLS = ("seconds", "peak_bytes", "resumed")  # of analysis/EXPERIMENT/cells.parquet
BESIDE = ("circuit.json", "config.json", "provenance.json", "stability.json", "inclusion.parquet", "faithfulness.json")


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    output: str
    seconds: float


def workflow(folder: Path, *goals: str) -> list[str]:
    """Snakemake on a working folder of its own; results go into ``results`` there."""
    place = ("--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", "2")
    said = ("--config", f"experiment={EXPERIMENT}", "wandb=disabled", *SIZES)
    return [sys.executable, "-m", "snakemake", *goals, *place, *said]


def pahq(*words: str) -> list[str]:
    return [sys.executable, "-m", "pahq", *words]


def environment(more: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """One thread a process, this repository's code, and nothing of Weights & Biases that was set outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | dict(more)
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": path}


def run(
    words: Sequence[str],
    folder: Path,
    limit: float = 600,
    *,
    more: Mapping[str, str] = MappingProxyType({}),
    limited: int | None = None,
) -> Told:
    """A command to its end. ``more``: of its environment; ``limited``: to so many bytes of virtual memory."""
    clock = time.monotonic()
    bound = [] if limited is None else ["prlimit", f"--as={limited}", "--"]
    done = subprocess.run(
        [*bound, *words],
        cwd=folder,
        env=environment(more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    return Told(done.returncode, done.stdout, time.monotonic() - clock)


class Going:
    """A command in the background, in a session and a process group of its own; its output goes to a file."""

    def __init__(self, words: Sequence[str], folder: Path, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                words, cwd=folder, env=environment(), stdout=output, stderr=output, start_new_session=True
            )
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        """Its exit status, None while it lives."""
        return self._process.poll()

    def send(self, number: signal.Signals, *, everyone: bool) -> None:
        """A signal to the command alone, or to its whole process group."""
        try:
            (os.killpg if everyone else os.kill)(self._process.pid, number)
        except ProcessLookupError:
            return  # it has just ended by itself

    def end(self, limit: float) -> int:
        """Wait for its end, and kill the group when the time is over."""
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL, everyone=True)
            self._process.wait()
        return self._process.returncode

    def processes(self) -> dict[int, list[str]]:
        """The words of every process of the command that lives, by its id."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(place.name)) == self._process.pid and (line := (place / "cmdline").read_bytes()):
                    found[int(place.name)] = line.decode(errors="replace").split("\0")
            except OSError:
                continue  # it ended meanwhile
        return found

    def doing(self) -> str:
        """What the command is at: the commands of pahq that run for it, or snakemake where none does."""
        named = set()
        for words in self.processes().values():
            if words[1:3] == ["-m", "pahq"]:
                named.add("cells" if words[3].startswith("-") else words[3])
        return "+".join(sorted(named)) or "snakemake"


def until_files(going: Going, folder: Path, count: int, limit: float = 120) -> bool:
    """Wait until so many files have come into being below a folder; whether the command still lived then."""
    before, new = set(_files(folder)), set[str]()
    deadline = time.monotonic() + limit
    while len(new) < count and going.code is None and time.monotonic() < deadline:
        time.sleep(0.004)
        new |= set(_files(folder)) - before
    return going.code is None


def _files(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names)


def until(going: Going, folder: Path, pattern: str, limit: float = 120) -> bool:
    """Wait for a file; whether the command still lived then."""
    deadline = time.monotonic() + limit
    while not list(folder.glob(pattern)) and going.code is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return going.code is None


def differences(whole: Path, other: Path) -> list[str]:
    """What of the results in ``other`` is not as in ``whole``, by file; times are left out as the constants say.

    Tables (CSV; where none of their columns is left out, Markdown and Parquet too) and the analysis they are made from,
    every cell's files and the searches of its stability.
    """
    pairs = [(path, other / path.relative_to(whole)) for path in _compared(whole)]
    found = [str(one.relative_to(whole)) for one, two in pairs if not two.is_file() or _content(one) != _content(two)]
    more = {path.relative_to(other) for path in _compared(other)} - {
        path.relative_to(whole) for path in _compared(whole)
    }
    return sorted([*found, *(f"{path} (one too many)" for path in more)])


def _compared(root: Path) -> list[Path]:
    analysis = root / "analysis" / EXPERIMENT
    named = [analysis / "tables" / f"{name}.csv" for name in TABLES]
    timeless = [path for path in named if path.exists() and not _left_out(path)]
    named += [path.with_suffix(ending) for path in timeless for ending in (".md", ".parquet")]
    named += [analysis / f"{name}.parquet" for name in EVALUATED]
    named += sorted((analysis / "faithfulness").glob("[!.]*.parquet"))
    for cell_id in cells(EXPERIMENT):
        folder = root / "cells" / cell_id
        named += [folder / name for name in (*BESIDE, "decisions.jsonl")]
        named += sorted((folder / "stability").glob("[!.]*.json"))
    return [path for path in named if path.exists()]


def _left_out(path: Path) -> set[str]:
    """Columns of a table's CSV that are left out."""
    [header] = csv.reader([path.read_text().split("\n", 1)[0]])
    return set(header) & {*TIMES, *(OF_COST if path.stem == "cost" else ())}


def _content(path: Path) -> object:
    """All that is compared of a file: its bytes, or what is left of it without times."""
    if path.name == "decisions.jsonl" or path.parent.name == "stability":
        text = path.read_text()
        lines = [json.loads(line) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]
        return [{key: value for key, value in line.items() if key not in ("seconds", "sha256")} for line in lines]
    if path.suffix == ".csv" and (gone := _left_out(path)):
        rows = list(csv.reader(StringIO(path.read_text())))
        kept = [at for at, name in enumerate(rows[0]) if name not in gone]
        return [[row[at] for at in kept] for row in rows]
    if path.name == "cells.parquet":
        return pd.read_parquet(path).drop(columns=list(OF_CELLS)).to_csv()
    return path.read_bytes()


def left_behind(folder: Path) -> int:
    """Files under a temporary name: of writes that a kill cut short. They are litter, and nothing reads them."""
    return sum(path.is_file() and path.name.startswith(".") and path.name.count(".") > 1 for path in folder.rglob("*"))
