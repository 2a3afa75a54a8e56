"""Faults of the machine around a run: its clock jumps, its memory ends, one of its processes dies."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from faultbench import Bench, need, sentence_of
from faultruns import EXPERIMENT, REPORT, Going, Told, pahq, run, until, workflow

from pahq.cell.files import cell_folder
from pahq.experiments.compose import cells

DAY = 86400.0
# Found by every Python that starts: the time of day is off by up to a year, another way at each look.
CLOCK = """
import random, time
_true, _true_ns, _rng = time.time, time.time_ns, random.Random(0)
time.time = lambda: _true() + 86400 * _rng.choice((-365, -1, 0, 1, 365))
time.time_ns = lambda: _true_ns() + 86400 * 10**9 * _rng.choice((-365, -1, 0, 1, 365))
"""
HUNGRY = (
    *("task=nano-ioi", "method=acdc", "threshold=0.003", "task.examples=300"),
    *("run.root=results", "run.progress=false", "wandb=disabled"),
)
TESTS = 20  # of that search, before its memory ends


def clock_jumps(bench: Bench) -> str:
    """The whole run, with a clock that jumps back and forth in Snakemake and in all its jobs."""
    folder = bench.empty("clock")
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(CLOCK)
    told = run(workflow(folder, REPORT), folder, more={"PYTHONPATH": str(folder / "clock")})
    need(told.code == 0, f"it ended with {told.code}", told)
    need("Traceback" not in told.output, "a traceback", told)
    need(not (found := bench.differences(folder)), f"not as undisturbed: {', '.join(found)}", told)
    return "the run completed, and its tables equal the undisturbed ones"


def dated_in_the_future(bench: Bench) -> str:
    """Tables dated a day ahead, though a cell was computed by hand after them; then that cell dated a day ahead."""
    folder = bench.copy("future")
    results, [one, *_] = folder / "results", cells(EXPERIMENT)
    ahead = time.time() + DAY
    analysis = [path for path in (results / "analysis").rglob("*") if path.is_file()]
    for path in analysis:
        os.utime(path, (ahead, ahead))
    cell = cell_folder(results, one) / "result.json"
    cell.unlink()
    done = run(pahq(*cells(EXPERIMENT)[one].overrides, "run.root=results", "wandb=disabled"), folder)
    need(done.code == 0, f"the cell ended with {done.code}", done)
    told = _settled(folder)
    made = [path for path in analysis if path.suffix == ".csv" and path.stat().st_mtime > cell.stat().st_mtime]
    need(made, "tables older than a cell's result were left as they were", told)
    before = cell.read_bytes()
    os.utime(cell, (ahead, ahead))
    told = _settled(folder)
    need(cell.read_bytes() == before, "a finished cell was computed again", told)
    again = run(workflow(folder, REPORT), folder)
    need("Nothing to be done" in again.output, "it is done again at each call", again)
    need(not (found := bench.differences(folder)), f"not as undisturbed: {', '.join(found)}", again)
    return "told each time; tables from the future were made again, no cell was, and then there was nothing to be done"


def _settled(folder: Path) -> Told:
    told = run(workflow(folder, REPORT), folder)
    need(told.code == 0, f"it ended with {told.code}", told)
    need("were dated in the future" in told.output, "no sentence tells of times in the future", told)
    return told


def out_of_memory(bench: Bench) -> str:
    """A limit on the memory of a process that is in the middle of its search: no byte more than it has."""
    folder, apart = bench.empty("memory"), bench.empty("memory-undisturbed")
    going = Going(pahq(*HUNGRY), folder, bench.base / "memory.log")
    need(until(going, folder, "results/cells/*/*/decisions.jsonl"), f"it never began: {going.output[-300:]}")
    [journal] = folder.glob("results/cells/*/*/decisions.jsonl")
    deadline = time.monotonic() + 120
    while going.code is None and _lines(journal) < TESTS and time.monotonic() < deadline:
        time.sleep(0.005)
    limit = _virtual_bytes(going.pid)
    resource.prlimit(going.pid, resource.RLIMIT_AS, (limit, limit))
    code = going.end(300)
    told, kept = Told(code, going.output, 0.0), journal.read_text()
    need(code == 2, f"it ended with {code}", told)
    said = sentence_of(told.output)
    told_all = all(name in said for name in ("task.examples", "run.memory_gb", "precision"))
    need(told_all and len(told.output.splitlines()) == 1, "no single sentence names what would fit", told)
    need(kept.count("\n") >= TESTS, "decisions are lost")
    fewer = [word.replace("=300", "=20") for word in HUNGRY]
    small = run(pahq(*fewer), folder, limited=limit)
    need(small.code == 0, f"with fewer examples and the same limit it ended with {small.code}", small)
    again = run(pahq(*HUNGRY), folder)
    need(again.code == 0, f"without the limit it ended with {again.code}", again)
    need(journal.read_text().startswith(kept), "decisions were taken again", again)
    whole = run(pahq(*HUNGRY), apart)
    need(whole.code == 0, f"undisturbed it ended with {whole.code}", whole)
    [other] = apart.glob("results/cells/*/*/circuit.json")
    made, known = (journal.parent / "circuit.json").read_bytes(), other.read_bytes()
    need(made == known, "another circuit than undisturbed")
    counted, fits = kept.count("\n"), "fewer examples completed below the same limit"
    return f"told in one sentence after {counted} tests; {fits}; without it the same command went on, circuit equal"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _virtual_bytes(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmSize")]
    return int(line.split()[1]) * 1024


def killed_worker(bench: Bench) -> str:
    """The process of one sweep, killed alone in the middle of it; Snakemake and its other jobs live on."""
    folder = bench.empty("worker")
    going = Going(workflow(folder, REPORT), folder, bench.base / "worker.log")
    need(until(going, folder, "results/cells/*/*/decisions.jsonl"), f"it never began: {going.output[-300:]}")
    sweeps = [(pid, words) for pid, words in going.processes().items() if words[1:4] == ["-m", "pahq", "-m"]]
    need(sweeps, f"no sweep is running: {going.output[-300:]}")
    pid, words = sweeps[0]
    os.kill(pid, signal.SIGKILL)
    code = going.end(300)
    need(code not in (0, -signal.SIGKILL), f"Snakemake ended with {code}: {going.output[-600:]}")
    told = f"{' '.join(filter(None, words[4:]))} 2>&1" in going.output and "exit status 137" in going.output
    need(told, f"the sweep that died is not named: {going.output[-600:]}")
    finished = len(list(folder.glob("results/cells/*/*/result.json")))
    how = f"Snakemake finished {finished} cells, named the sweep that was killed and ended with {code}"
    return f"{how}; {bench.goes_on(folder, REPORT)}"


LIMITS: tuple[tuple[str, Callable[[Bench], str]], ...] = (
    ("clock that jumps", clock_jumps),
    ("files dated in the future", dated_in_the_future),
    ("memory that ends", out_of_memory),
    ("killed worker of a sweep", killed_worker),
)
