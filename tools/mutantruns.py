"""Test runs in forks of a process that has imported torch: a changed module costs well under a second of start-up.

No file of the repository changes. A fork finds the changed text where the module would have been imported, and what it
writes (pytest's folders, hypothesis' examples) lies in a folder of its own. Processes that tests start see no change.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from hypothesis import settings

LIBRARIES = ("torch", "numpy", "pandas", "scipy.stats", "pydantic", "hypothesis", "jaxtyping", "safetensors.torch")
CALLED = "__mutants_called__"  # a built-in function while tests run without a change
BUSY = 6  # a run may take so many times its seconds of a core, on a machine that has others' work to do
MEMORY = 16 << 30  # bytes of addresses that a fork may take: a changed size must not take the whole machine


@dataclass(frozen=True)
class Run:
    """A fork under way: its process, its folder, and when it began and is stopped (``time.monotonic``)."""

    process: int
    folder: Path
    began: float
    until: float

    def stop(self) -> None:
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def ended(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs. It is not asked again after that."""
        process, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if process else None

    def outcome(self) -> dict[str, Any]:
        """What the fork wrote at its end: ``status``, ``failed``, ``seconds``, ``functions``; empty without that."""
        written = self.folder / "outcome.json"
        found: dict[str, Any] = json.loads(written.read_text()) if written.is_file() else {}
        return found


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from other code than its file has."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        super().__init__(name, str(path))
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules that have other code than their files; ``codes`` by their paths below ``root``."""

    def __init__(self, root: Path, codes: Mapping[str, CodeType]) -> None:
        names = {file: file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in codes}
        self._loaders = {name: Loader(name, root / file, codes[file]) for file, name in names.items()}

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        loader = self._loaders.get(fullname)
        return importlib.util.spec_from_file_location(fullname, loader.path, loader=loader) if loader else None


def traced(file: str, source: str, path: Path) -> CodeType:
    """The file's code, of which every function and class first tells ``CALLED`` that it runs, as "file:first line"."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            node.body.insert(ast.get_docstring(node) is not None, ast.parse(f"{CALLED}('{file}:{first}')").body[0])
    tree.body.append(ast.parse(f"{CALLED}('{file}:0')").body[0])
    return compile(tree, path, "exec", dont_inherit=True)


class Watch:
    """A plugin of pytest: tests in the order of ``files``, a core's seconds by file, and which test failed first.

    ``marked`` are the files of which tests marked slow run too. ``functions`` are, for each test file ("" for the
    collection of tests), what told ``called`` that it runs.
    """

    def __init__(self, files: Sequence[str], marked: Sequence[str]) -> None:
        self.failed = ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.functions: dict[str, set[str]] = defaultdict(set)
        self._files, self._marked, self._now, self._began = list(files), marked, "", 0.0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = [
            item for item in items if self._file(item.nodeid) in self._marked or not item.get_closest_marker("slow")
        ]
        items[:] = sorted(kept, key=lambda item: self._files.index(self._file(item.nodeid)))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._now, self._began = self._file(nodeid), sum(os.times()[:4])

    def pytest_runtest_logfinish(self) -> None:
        self.seconds[self._now] += sum(os.times()[:4]) - self._began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def called(self, name: str) -> None:
        self.functions[self._now].add(name)

    @staticmethod
    def _file(nodeid: str) -> str:
        return nodeid.split("::")[0]


def prepare(root: Path) -> None:
    """Import what tests import, and nothing of the package."""
    os.chdir(root)
    sys.path.insert(0, str(root))
    warnings.filterwarnings("ignore", category=SyntaxWarning)  # changed code compares with "is" what should not be
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    for name in LIBRARIES:
        __import__(name)


def start(
    root: Path,
    folder: Path,
    tests: Sequence[str],
    marked: Sequence[str],
    seconds: float,
    codes: Mapping[str, CodeType],
) -> Run:
    """Run test files in a fork until one fails; ``codes`` are files that have other code than on disk.

    ``seconds`` are a core's: a run that takes more is ended by SIGXCPU, or stopped after ``BUSY`` times as long.
    """
    folder.mkdir(parents=True)
    began = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        status = 3
        try:
            os.setpgid(0, 0)
            _run(root, folder, tests, marked, seconds, codes)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.setpgid(process, process)  # whichever of the two comes first: a run is stopped with all that it started
    return Run(process, folder, began, began + BUSY * seconds)


def _run(
    root: Path,
    folder: Path,
    tests: Sequence[str],
    marked: Sequence[str],
    seconds: float,
    codes: Mapping[str, CodeType],
) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    allowed = int(seconds) + 1  # SIGXCPU at the first of the two, SIGKILL at the second
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed + 5))
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    watch = Watch(tests, marked)
    setattr(builtins, CALLED, watch.called)
    sys.meta_path.insert(0, Finder(root, codes))
    settings.register_profile("mutants", deadline=None, database=None)
    settings.load_profile("mutants")
    own = ["-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={folder / 'tmp'}"]
    status = pytest.main(["-x", "-q", "--no-header", *own, *tests], plugins=[watch])
    functions = {file: sorted(found) for file, found in watch.functions.items()}
    found = {"status": int(status), "failed": watch.failed, "seconds": watch.seconds, "functions": functions}
    (folder / "outcome.json").write_text(json.dumps(found))
