"""Linters, types and tests. The fast loop tests what a change touches, in under two minutes on two cores.

    make check              the rooms in which files differ from the last commit; without any, a fast set of all rooms
    make check ROOMS=all    every room's quick tests
    make check ROOMS="engine search"
    make test               every test (``tools/check.py --whole``)

A test that takes long is marked ``slow`` (tests/conftest.py) and runs in ``make test`` alone. Types take one core for a
minute where nothing is cached, so they are checked while the tests run; the first fault in them ends the tests.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = ("tests/test_layers.py",)
DOORS = ("tests/test_api.py", "tests/test_main.py", "tests/test_one_door.py")  # of modules at the package's root
BESIDE = {"tools": "tools", "conf": "experiments", "workflow": "experiments", "Snakefile": "experiments"}
FAST = ("circuits", "config", "files", "search", "tasks")  # where nothing has changed
LINTERS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("snakefmt", "--check", "Snakefile", "workflow"),
)
BESIDE_TESTS = (("mypy",), ("snakemake", "--lint"))
PYTEST = ("pytest", "-q", "-n", "2", "--dist", "loadscope")


def changed(root: Path = ROOT) -> list[str]:
    """Files that differ from the last commit, new ones too, by their paths below ``root``."""
    tracked = ("git", "diff", "--name-only", "HEAD")
    new = ("git", "ls-files", "--others", "--exclude-standard")
    return sorted({line for words in (tracked, new) for line in _output(words, root).splitlines()})


def rooms_of(files: Sequence[str], known: Sequence[str]) -> list[str]:
    """The rooms (folders of ``tests/``) that those files belong to: code by its folder, tests by theirs."""
    rooms = set()
    for file in files:
        top, *rest = Path(file).parts
        rooms.add(BESIDE.get(top, rest[0] if top in ("pahq", "tests") and len(rest) > 1 else ""))
    return sorted(rooms & set(known))


def known_rooms(root: Path = ROOT) -> list[str]:
    """The rooms that have tests."""
    return sorted(
        {path.parent.relative_to(root / "tests").parts[0] for path in (root / "tests").glob("*/**/test_*.py")}
    )


def chosen_tests(words: Sequence[str], known: Sequence[str], files: Sequence[str]) -> list[str]:
    """What pytest is given: the rooms named, or all, or those of the changed files. ValueError for an unknown room."""
    unknown = [word for word in words if word not in (*known, "all")]
    if unknown:
        raise ValueError(f"unknown room {unknown[0]!r}; known: all, {', '.join(known)}")
    if "all" in words:
        return ["tests"]
    chosen = list(words) or rooms_of(files, known) or list(FAST)
    touched = [file for file in files if Path(file).match("tests/test_*.py") and (ROOT / file).is_file()]
    touched += DOORS if any(Path(file).match("pahq/*.py") and len(Path(file).parts) == 2 for file in files) else ()
    return [*ALWAYS, *(f"tests/{room}" for room in chosen), *sorted(set(touched) - set(ALWAYS))]


def in_turn(commands: Sequence[Sequence[str]], root: Path = ROOT) -> int:
    """Run modules of Python one after another; the first exit status that is not 0, or 0."""
    for command in commands:
        print("==", " ".join(command), flush=True)
        done = subprocess.run([sys.executable, "-m", *command], cwd=root)
        if done.returncode:
            return done.returncode
    return 0


def side_by_side(tests: Sequence[str], others: Sequence[Sequence[str]], root: Path = ROOT) -> int:
    """Run ``tests`` while ``others`` run in turn; the tests are interrupted when one of the others fails."""
    print("==", " ".join(tests), flush=True)
    running = subprocess.Popen([sys.executable, "-m", *tests], cwd=root)
    try:
        found = in_turn(others, root)
        if found:
            print("==", tests[0], "is interrupted, since the command above failed", flush=True)
    except BaseException:
        found = 1
        raise
    finally:
        if found and running.poll() is None:
            running.send_signal(signal.SIGINT)
        status = running.wait()
    return found or status


def main(words: Sequence[str]) -> int:
    whole = list(words) == ["--whole"]
    try:
        tests = () if whole else ("-m", "not slow", *chosen_tests(words, known_rooms(), changed()))
    except ValueError as error:
        sys.stderr.write(f"make check: {error}\n")
        return 2
    clock = time.monotonic()
    status = in_turn(LINTERS) or side_by_side((*PYTEST, *tests), BESIDE_TESTS)
    if not status:
        print(f"make {'test' if whole else 'check'}: all is well, {time.monotonic() - clock:.0f} s")
    return status


def _output(words: Sequence[str], root: Path) -> str:
    return subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
