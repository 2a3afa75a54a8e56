"""Faults on purpose, on real processes: does anything get lost, and does the same command always complete?

    make faults              200 kills and every other fault, some 40 minutes on two cores (docs/running.md)
    make faults FAULTS=30    fewer kills
    python tools/faults.py --only damaged --kills 0    what is not run, and other seeds, stay in the record

The experiment ``smoke`` runs once undisturbed. Then Snakemake's whole process group is killed with -9 at random
moments, half of them by the clock and half when some number of new files is there, and started again with the same
command, until the run completes; its tables must equal the undisturbed run's byte for byte but for times
(``faultruns`` lists the columns). Then come the other faults (``faultcases``), once each. One line a fault; the record
goes to ``benchmarks/results/faults.json``. Exit status 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faultbench import Bench, Lost, Skipped
from faultcases import CASES
from faultruns import (
    EXPERIMENT,
    OF_CELLS,
    OF_COST,
    ROOT,
    SIZES,
    TIMES,
    Going,
    differences,
    left_behind,
    run,
    until_files,
    workflow,
)
from reference import machine

from pahq.cell.provenance import versions
from pahq.files.text import read_json, write_json

OUT = ROOT / "benchmarks" / "results" / "faults.json"
MENDED = "kill_9_before_a_fault_was_mended"  # what the first kills found; kept in the record
TIMED = "undisturbed.json"  # how long the undisturbed run took, beside it
SHARE = 0.3  # of the time of an undisturbed run: the latest kill by the clock, so that several fall into one run
MOST = 10  # kills of one pipeline run: then it may come to its end
Say = Callable[[str], None]


@dataclass
class Kills:
    """What the kills came to, so far."""

    done: int = 0
    completed: int = 0
    left: int = 0
    seconds: float = 0.0
    doing: Counter[str] = field(default_factory=Counter)
    per_run: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def to_json(self, seed: int, undisturbed: float) -> dict[str, Any]:
        return {
            "seed": seed,
            "undisturbed_seconds": round(undisturbed, 1),
            "load_average": round(os.getloadavg()[2], 1),
            "kills": self.done,
            "pipeline_runs": self.completed,
            "kills_of_each_run": self.per_run,
            "killed_while_running": dict(self.doing.most_common()),
            "temporary_files_left": self.left,
            "seconds": round(self.seconds, 1),
            "lost": self.lost,
        }


def kill_again_and_again(bench: Bench, count: int, minutes: float, seed: int, say: Say) -> Kills:
    """So many kills, or as many as come into the time, over as many runs of the pipeline as that takes."""
    rng, kills, clock = random.Random(seed), Kills(), time.monotonic()
    while kills.done < count and time.monotonic() < clock + 60 * minutes:
        folder = bench.empty(f"run{len(kills.per_run) + 1}")
        _one_pipeline(bench, folder, min(MOST, count - kills.done), rng, kills, say)
        shutil.rmtree(folder)
    kills.seconds = time.monotonic() - clock
    return kills


def _one_pipeline(bench: Bench, folder: Path, most: int, rng: random.Random, kills: Kills, say: Say) -> None:
    log, own, code = bench.base / f"{folder.name}.log", 0, None
    while code is None and own < most:
        going = Going(workflow(folder), folder, log)
        if rng.random() < 0.5:
            after = rng.uniform(0, bench.seconds * SHARE)
            what = f"after {after:.2f} s"
            _wait(going, after)
        else:
            files, more = rng.randint(1, bench.files // 3), rng.uniform(0, 0.05)
            what = f"{1000 * more:.0f} ms after new file {files}"
            if until_files(going, folder, files):
                time.sleep(more)
        doing = going.doing()
        code = going.code
        if code is None:
            going.send(signal.SIGKILL, everyone=True)
            code = None if going.end(60) == -signal.SIGKILL else going.code
        if code is None:
            own += 1
            kills.done += 1
            kills.doing[doing] += 1
            say(f"kill -9, number {kills.done}, {what}, while running {doing}: the same command starts again")
            if living := going.processes():
                kills.lost.append(f"kill {kills.done}: {len(living)} processes outlived the group's kill")
    kills.per_run.append(own)
    kills.left += left_behind(folder / "results")
    if code is None:
        last = run(workflow(folder), folder)
        code = last.code
        log.write_text(log.read_text() + last.output)
    found = [f"it ended with {code}: {log.read_text()[-600:]}"] if code else bench.differences(folder)
    if found:
        kept = bench.keep(folder)
        kills.lost.append(f"after {own} kills ({kept}): {'; '.join(found)}")
    else:
        kills.completed += 1
    say(f"a run killed {own} times: {'; '.join(found) or 'it completed, and its tables equal the undisturbed ones'}")


def _wait(going: Going, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while going.code is None and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(0.02, left))


def other_faults(bench: Bench, chosen: Sequence[str], say: Say) -> list[dict[str, Any]]:
    """Every case whose name begins with one of ``chosen``."""
    rows = []
    for case in CASES:
        if not case.name.startswith(tuple(chosen)):
            continue
        clock = time.monotonic()
        try:
            state, came = "well", case.act(bench)
        except Skipped as why:
            state, came = "skipped", str(why)
        except Lost as what:
            state, came = "lost", str(what)
        except Exception as error:  # of the case itself, or of what it met: no record without the others
            state, came = "lost", f"{type(error).__name__}: {error}"
        rows.append({"fault": case.name, "state": state, "came": came, "seconds": round(time.monotonic() - clock, 1)})
        say(f"{case.name}: {'' if state == 'well' else state.upper() + ': '}{came}")
    return rows


def undisturbed(base: Path) -> Bench:
    """The experiment once, as it runs where nobody disturbs it; twice the same by its own comparison."""
    whole = base / "whole"
    whole.mkdir()
    told = run(workflow(whole), whole)
    if told.code:
        raise SystemExit(f"faults.py: the undisturbed run failed:\n{told.output}")
    assert not differences(whole / "results", whole / "results")
    files = sum(path.is_file() for path in whole.rglob("*"))
    write_json(base / TIMED, {"seconds": told.seconds, "files": files})
    return Bench(base, whole, told.seconds, files)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all is well, 1 something was lost, 2 bad input."""
    parser = argparse.ArgumentParser(prog="faults.py", description="faults on purpose, on real processes")
    parser.add_argument("--kills", type=int, default=200, help="how many kill -9 of the whole group; default: 200")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no further run to kill after so many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills and the places of damage")
    parser.add_argument("--only", nargs="*", default=[""], metavar="NAME", help="these other faults, by how they begin")
    parser.add_argument("--whole", type=Path, help="the folder of an earlier call: its undisturbed run, again")
    parser.add_argument("--out", type=Path, default=OUT, help="where the record goes")
    given = parser.parse_args(argv)
    if given.kills < 0:
        parser.error(f"--kills: a number from 0 on was expected, got {given.kills}")
    names = [case.name for case in CASES]
    if given.whole is not None and not (given.whole / TIMED).exists():
        parser.error(f"--whole: the folder of an earlier call was expected, with {TIMED} in it")
    for word in given.only:
        if not any(name.startswith(word) for name in names):
            parser.error(f"--only: no fault begins with {word!r}; known: {', '.join(names)}")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with &, children's too
    base = Path(tempfile.mkdtemp(prefix="pahq-faults-"))

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    if given.whole is None:
        bench = undisturbed(base)
    else:
        bench = Bench(base, given.whole.resolve() / "whole", **read_json(given.whole / TIMED))
    say(f"undisturbed: {EXPERIMENT} with {' '.join(SIZES)} in {bench.seconds:.0f} s, {bench.files} files, below {base}")
    kills = kill_again_and_again(bench, given.kills, given.minutes, given.seed, say)
    rows = other_faults(bench, given.only, say)
    lost = [*kills.lost, *(row["came"] for row in rows if row["state"] == "lost")]
    earlier = read_json(given.out) if given.out.exists() else {"kill_9": [], "faults": []}
    killed = earlier["kill_9"]
    if given.kills:
        others = [one for one in killed if one["seed"] != given.seed]
        killed = sorted([*others, kills.to_json(given.seed, bench.seconds)], key=lambda one: int(one["seed"]))
    made = {row["fault"]: row for row in [*earlier["faults"], *rows]}
    record = {
        "versions": versions() | {"snakemake": version("snakemake")},
        "machine": "; ".join(dict.fromkeys([*filter(None, earlier.get("machine", "").split("; ")), machine()])),
        "experiment": EXPERIMENT,
        "sizes": list(SIZES),
        "left_out": {"tables": list(TIMES), "cost": list(OF_COST), "cells.parquet": list(OF_CELLS)},
        "kill_9": killed,
        "faults": [made[name] for name in names if name in made],
    }
    if mended := earlier.get(MENDED):
        record[MENDED] = mended
    write_json(given.out, record)
    if not lost:
        shutil.rmtree(base)
    say(f"{kills.done} kills, {len(rows)} other faults: {len(lost) or 'nothing'} lost; the record is {given.out}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
