"""Would the tests notice a fault? Change the code in one place after another, and see whether a test fails.

    make mutants                                       10 minutes, seed 0, all rooms
    make mutants MINUTES=60 SEED=7 ROOMS="search roc"

cosmic-ray knows the changes (tools/mutantplaces.py); a seed draws as many from each room. A mutant is killed when a
test fails, or when the tests take far longer than without it; it survived when all pass. The tests are quick ones that
call the changed function: those of the module's own test file, then the others of its room. Survivors are printed and
kept with the figures in benchmarks/results/mutants.json; tools/mutants_survivors.yaml says why one may live.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from mutantplaces import Mutant, Place, function_at, mutants, places
from mutantruns import Run, prepare, start, traced

ROOT = Path(__file__).resolve().parents[1]
ROC = ("pahq/circuits/agreement.py", "pahq/analysis/evaluate.py")
ROOMS = {  # a room's code, and its tests
    "circuits": ("pahq/circuits/*.py", "tests/circuits/test_*.py"),
    "search": ("pahq/search/*.py", "tests/search/test_*.py"),
    "engine": ("pahq/engine/**/*.py", "tests/engine/test_*.py"),
    "precision": ("pahq/precision/*.py", "tests/precision/test_*.py"),
    "scores": ("pahq/scores/*.py", "tests/scores/test_*.py"),
    "roc": (" ".join(ROC), "tests/circuits/test_agreement.py tests/analysis/test_evaluate.py"),
}
MARKED = ("tests/engine/test_suffix.py",)  # slow tests without which code would have none
LONGEST = 40.0  # seconds that a mutant's tests take without it; files beyond are left out
PATIENCE = (5.0, 10.0)  # a mutant may take so many times as long as its tests, and so many seconds more
ENOUGH = 0.9  # share of mutants that tests must notice
REASONS = "tools/mutants_survivors.yaml"


@dataclass(frozen=True)
class TestFile:
    """What one run without a change found: a test file's room, its seconds, and functions it calls, as "file:line"."""

    __test__ = False

    name: str
    room: str
    seconds: float
    functions: frozenset[str]


@dataclass(frozen=True)
class Found:
    """What became of a mutant: "killed" (``by`` a test), "timed out" or "survived"; ``tests`` files had run."""

    mutant: Mutant
    outcome: str
    by: str
    tests: tuple[str, ...]


@dataclass
class Pool:
    """Runs under way, at most so many at once; ``ended`` gives those that ended and stops those that take too long."""

    at_once: int
    running: dict[Run, Any] = field(default_factory=dict)

    def full(self) -> bool:
        return len(self.running) >= self.at_once

    def ended(self, until: float) -> Iterator[tuple[Run, Any, bool]]:
        """Wait until some have ended, or a time; with each, whether it took too long."""
        while self.running and time.monotonic() < until:
            time.sleep(0.01)
            for run, what in list(self.running.items()):
                status = run.ended()
                if late := status is None and time.monotonic() > run.until:
                    run.stop()
                if late or status is not None:
                    del self.running[run]
                    yield run, what, late or status == -signal.SIGXCPU
            if not self.full():
                return

    def stop(self) -> None:
        for run in list(self.running):
            run.stop()
            del self.running[run]


def matching(root: Path, patterns: str) -> list[str]:
    """Files below ``root`` that one of several patterns matches, in the order of the alphabet."""
    return sorted({path.relative_to(root).as_posix() for pattern in patterns.split() for path in root.glob(pattern)})


def all_places(root: Path, rooms: Sequence[str]) -> dict[str, list[Place]]:
    """The places of the code of rooms. A file of two rooms belongs to ``roc``."""
    found = {}
    for room in rooms:
        own = [name for name in matching(root, ROOMS[room][0]) if room == "roc" or name not in ROC]
        found[room] = [place for name in own for place in places(name, (root / name).read_text())]
    return found


def unchanged(
    root: Path, rooms: Mapping[str, str], files: Collection[str], folder: Path, at_once: int, seconds: float
) -> list[TestFile]:
    """Run rooms' quick tests (by their patterns) without a change; ValueError if one fails: no mutant could be judged.

    What is known of a test file is which functions of ``files`` it calls.
    """
    pool, found, waiting = Pool(at_once), [], list(rooms)
    codes = {file: traced(file, (root / file).read_text(), root / file) for file in files}
    try:
        while waiting or pool.running:
            while waiting and not pool.full():
                room = waiting.pop(0)
                pool.running[start(root, folder / room, matching(root, rooms[room]), MARKED, seconds, codes)] = room
            for run, room, late in pool.ended(float("inf")):
                outcome = run.outcome()
                if late or outcome.get("status") != 0:
                    told = f"fail: {outcome.get('failed') or 'a crash'}"
                    told = f"take longer than {seconds:.0f} s" if late else told
                    raise ValueError(f"the tests of {room} {told} without any change\n{_tail(run)}")
                always = outcome["functions"].get("", [])
                for name, spent in outcome["seconds"].items():
                    called = frozenset([*always, *outcome["functions"].get(name, [])])
                    found.append(TestFile(name, room, spent, called))
    finally:
        pool.stop()
    return found


def callers(mutant: Mutant, root: Path, known: Sequence[TestFile]) -> list[TestFile]:
    """The room's test files that call the changed function, as they run in turn, up to ``LONGEST`` seconds."""
    line = function_at((root / mutant.file).read_text(), mutant.line)
    calls = [test for test in known if test.room == mutant.room and f"{mutant.file}:{line}" in test.functions]
    own = f"test_{Path(mutant.file).stem}.py"
    calls.sort(key=lambda test: (Path(test.name).name != own, test.seconds))
    chosen: list[TestFile] = []
    total = 0.0
    for test in calls:
        if not chosen or total + test.seconds <= LONGEST:
            chosen.append(test)
            total += test.seconds
    return chosen


def judge(
    root: Path, folder: Path, drawn: Iterator[Mutant], known: Sequence[TestFile], at_once: int, until: float
) -> Iterator[Found]:
    """What becomes of each mutant, until the time is over or there are none; those under way then are not counted."""
    pool, number = Pool(at_once), 0
    mutant = next(drawn, None)
    try:
        while time.monotonic() < until and (mutant or pool.running):
            while mutant and not pool.full():
                tests = callers(mutant, root, known)
                names = tuple(test.name for test in tests)
                if tests:
                    seconds = PATIENCE[0] * sum(test.seconds for test in tests) + PATIENCE[1]
                    code = compile(mutant.text, root / mutant.file, "exec", dont_inherit=True)
                    run = start(root, folder / str(number), names, MARKED, seconds, {mutant.file: code})
                    pool.running[run] = mutant, names
                else:
                    yield Found(mutant, "survived", "", ())
                number, mutant = number + 1, next(drawn, None)
            for run, (tried, names), late in pool.ended(until):
                outcome = run.outcome()
                survived = outcome.get("status") == 0
                name = "timed out" if late else "survived" if survived else "killed"
                by = "" if late or survived else outcome.get("failed") or "a crash"
                yield Found(tried, name, by, names)
                shutil.rmtree(run.folder, ignore_errors=True)
    finally:
        pool.stop()


def reason(mutant: Mutant, reasons: Sequence[Mapping[str, str]]) -> str:
    """Why a survivor may live, by its file and its change; "" where nobody has said so."""
    told = {(entry["file"], entry["before"], entry["after"]): entry["reason"] for entry in reasons}
    return told.get((mutant.file, mutant.before, mutant.after), "")


def report(found: Sequence[Found], counts: Mapping[str, int], reasons: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The record: figures of each room and of all, and every mutant that was not killed by a test."""
    rooms = {room: _figures([one for one in found if one.mutant.room == room]) for room in counts}
    return {
        "all": _figures(found),
        "rooms": {room: {"places": counts[room]} | figures for room, figures in rooms.items()},
        "survived": [
            _told(one) | {"reason": reason(one.mutant, reasons)} for one in found if one.outcome == "survived"
        ],
        "timed_out": [_told(one) for one in found if one.outcome == "timed out"],
    }


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The record in words: survivors first, then the figures."""
    for one in record["survived"]:
        yield f"survived: {one['file']}:{one['line']} ({one['operator']})"
        yield from (f"    - {line}" for line in one["before"].splitlines())
        yield from (f"    + {line}" for line in one["after"].splitlines())
        passed = f"these tests pass: {', '.join(one['tests'])}" if one["tests"] else "no quick test calls it"
        yield f"    {one['reason'] or f'no reason is given; {passed}'}"
    for room, figures in [*record["rooms"].items(), ("all", record["all"])]:
        share = f", {100 * figures['killed_share']:.0f}% noticed" if figures["tried"] else ""
        numbers = ", ".join(f"{figures[name]} {name.replace('_', ' ')}" for name in ("killed", "timed_out", "survived"))
        yield f"{room}: {figures['tried']} mutants, {numbers}{share}"


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/mutants.json")
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}; all without any")
    asked = parser.parse_args(words)
    if unknown := [room for room in asked.rooms if room not in ROOMS]:
        parser.error(f"unknown room {unknown[0]!r}; known: {', '.join(ROOMS)}")
    if not 0 < asked.minutes < float("inf") or asked.processes < 1:
        parser.error("MINUTES must be a number above 0, and PROCESSES at least 1")
    until = time.monotonic() + 60 * asked.minutes
    prepare(ROOT)
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="mutants") as name:
        by_room = all_places(ROOT, asked.rooms or list(ROOMS))
        print(f"{sum(map(len, by_room.values()))} places; the tests run once without any change", flush=True)
        try:
            files = {place.file for there in by_room.values() for place in there}
            tests = {room: ROOMS[room][1] for room in by_room}
            known = unchanged(ROOT, tests, files, Path(name), asked.processes, 60 * asked.minutes)
        except ValueError as error:
            sys.stderr.write(f"make mutants: {error}\n")
            return 1
        print(f"{len(known)} test files, {sum(test.seconds for test in known):.0f} s", flush=True)
        drawn = mutants(ROOT, by_room, asked.seed)
        for one in judge(ROOT, Path(name), drawn, known, asked.processes, until):
            found.append(one)
            print(f"{len(found)} {one.outcome}: {one.mutant.file}:{one.mutant.line} {one.mutant.operator}", flush=True)
    reasons = yaml.safe_load((ROOT / REASONS).read_text()) or []
    head = {"library": f"cosmic-ray {version('cosmic-ray')}", "seed": asked.seed, "minutes": asked.minutes}
    head |= {"processes": asked.processes, "cores": os.cpu_count()}
    record = head | report(found, {room: len(there) for room, there in by_room.items()}, reasons)
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(lines(record)))
    share = record["all"]["killed_share"]
    if share is None or share < ENOUGH:
        sys.stderr.write(f"make mutants: tests must notice {100 * ENOUGH:.0f}% of the mutants\n")
        return 1
    return 0


def _figures(found: Sequence[Found]) -> dict[str, Any]:
    """Counts of one list; ``killed_share`` is the share that tests noticed, by failing or by taking far too long."""
    count = {name: sum(one.outcome == name for one in found) for name in ("killed", "timed out", "survived")}
    noticed = count["killed"] + count["timed out"]
    figures: dict[str, Any] = {"tried": len(found)} | {name.replace(" ", "_"): n for name, n in count.items()}
    return figures | {"killed_share": round(noticed / len(found), 4) if found else None}


def _told(one: Found) -> dict[str, Any]:
    mutant = one.mutant
    place = {"file": mutant.file, "line": mutant.line, "operator": mutant.operator}
    return place | {"before": mutant.before, "after": mutant.after, "tests": list(one.tests)}


def _tail(run: Run) -> str:
    output = run.folder / "output.txt"
    return "\n".join(output.read_text(errors="replace").splitlines()[-15:]) if output.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
