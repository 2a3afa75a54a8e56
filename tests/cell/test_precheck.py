"""What cannot fit is refused at once, what would fit never, and what runs out is told."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pahq
from pahq import api
from pahq.cell import precheck
from pahq.cell.precheck import GIB, check_memory, checked_task, free_bytes, needed_bytes, told_when_memory_ends
from pahq.cell.run import run_cell
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.suffix import budget
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.model import load_model

NANO = load_model("nano")


def cell(*typed: str) -> CellConfig:
    return compose_runs(["model=nano", "method=acdc", *typed])[0][0]


def estimate(one: CellConfig) -> int:
    prompts = checked_task(one, NANO).search
    return needed_bytes(one, NANO.config, *prompts.clean.shape, len(prompts.items))


MEASURED = """
import json, sys
from pahq.cell.run import run_cell
from pahq.config.cell import parse_config

cell, run = parse_config(json.loads(sys.argv[1]))
print(run_cell(cell, run).result.peak_bytes)
"""


@pytest.mark.parametrize(
    "typed",
    [
        ("task=nano-ioi", "engine=suffix", "task.examples=200"),
        ("task=nano-ioi", "engine=suffix", "task.examples=200", "task.metric=logit_diff"),
        ("task=nano-induction", "engine=suffix", "task.examples=60", "engine.dtype=float64"),
        ("task=nano-greaterthan", "engine=reference", "task.examples=100"),
    ],
    ids=" ".join,
)
def test_no_search_takes_less_than_what_is_estimated(typed: tuple[str, ...], tmp_path: Path) -> None:
    """So nothing that would have fitted is refused; nor is the estimate idle: a quarter of the peak at least."""
    one = cell("threshold=100", *typed)
    values = one.model_dump(mode="json") | {"run": {"root": str(tmp_path), "wandb": "disabled", "progress": False}}
    ran = subprocess.run([sys.executable, "-c", MEASURED, json.dumps(values)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    peak = int(ran.stdout)
    assert peak / 8 < estimate(one) < peak


def test_the_estimate_stays_below_the_engines_own() -> None:
    for typed in (("task=nano-ioi",), ("task=nano-docstring",), ("task=nano-induction", "engine.dtype=float64")):
        one = cell(*typed)
        model = NANO.to(dtype=getattr(torch, one.engine.dtype))
        problem = api.problem_of(model, checked_task(one, model).search, one)
        assert estimate(one) < budget.least_bytes(problem)


def refused(*typed: str) -> str:
    begun = time.process_time()
    with pytest.raises(PahqError) as caught:
        checked_task(cell(*typed), NANO)
    assert time.process_time() - begun < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("count", [112801, 200000, 10**6, 10**12])
def test_more_prompts_than_a_task_has_are_refused_before_any_is_drawn(count: int) -> None:
    known = "task 'nano-ioi' has 225600 different prompts, and half of those drawn are fresh ones: at most 112800 "
    assert refused("task=nano-ioi", f"task.examples={count}") == f"{known}examples can be asked for, not {count}"


@pytest.mark.parametrize(("task", "count"), [("nano-docstring", 10**9), ("nano-induction", 10**9)])
def test_more_prompts_than_memory_holds_are_refused_before_they_are_drawn(
    monkeypatch: pytest.MonkeyPatch, task: str, count: int
) -> None:
    """And it is told how many twice the least of what they need fits for, which is about what searches take."""
    monkeypatch.setattr(precheck, "free_bytes", lambda device: 10**10)
    sentence = refused(f"task={task}", f"task.examples={count}")
    assert sentence.startswith(f"a search of {count} prompts of ")
    found = re.search(r"GiB are free; fewer task.examples need less, and up to (\d+) are likely to fit$", sentence)
    assert found is not None
    few = checked_task(cell(f"task={task}", "task.examples=2"), NANO).search
    check_memory(cell(f"task={task}"), NANO, few, int(found[1]))
    batch, length = few.clean.shape
    told, more = (
        needed_bytes(cell(f"task={task}"), NANO.config, most, length, len(few.items) * most // batch)
        for most in (int(found[1]), int(found[1]) + 1)
    )
    assert 2 * told <= 10**10 < 2 * more


def test_every_drawn_task_is_counted() -> None:
    assert "has 2328 different prompts" in refused("task=nano-greaterthan", "task.examples=1165")
    assert len(checked_task(cell("task=nano-greaterthan", "task.examples=1164"), NANO).search.clean) == 1164


def test_prompts_of_python_and_of_files_are_estimated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task = checked_task(cell("task=nano-ioi"), NANO)
    monkeypatch.setattr(precheck, "free_bytes", lambda device: 1000)
    for door in (pahq.acdc, lambda *given, **more: pahq.sweep(*given[:2], [0.1], **more), pahq.stability):
        with pytest.raises(PahqError, match=r"needs at least .* GiB of memory beside the model"):
            door(NANO, task, 0.1, progress=False)


@pytest.mark.parametrize(("share", "said"), [(2.1, 0), (1.9, 1)])
def test_what_may_not_fit_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, share: float, said: int
) -> None:
    """And not refused."""
    one = cell("task=nano-ioi", "threshold=100")
    monkeypatch.setattr(precheck, "free_bytes", lambda device: int(share * needed))
    needed = 1 << 60
    task = checked_task(one, NANO)
    needed = needed_bytes(one, NANO.config, *task.search.clean.shape, len(task.search.items))
    checked_task(one, NANO)
    pahq.stability(NANO, task, 100.0, n=2, progress=False)
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 2 * said
    assert all(sentence.startswith("this may not fit: a search of 16 prompts of 15 tokens") for sentence in found)


def test_a_small_limit_is_told_at_once(tmp_path: Path) -> None:
    """A process that may have 1 GiB more than torch itself takes is asked for what needs several."""
    typed = ["task=nano-ioi", "model=nano", "method=acdc", "task.examples=20000", f"run.root={tmp_path}"]
    code = (
        "import resource, sys, torch, pahq.cell.run\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "from pahq.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    begun = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code, *typed], capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 2, ran.stderr
    assert "a search of 20000 prompts of 15 tokens needs at least" in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert time.monotonic() - begun < 60


def test_what_runs_out_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")
    of_system = OSError(errno.ENOMEM, "Cannot allocate memory")
    for error in (real, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), of_system):

        def full(*given: Any, **more: Any) -> Any:
            raise error  # noqa: B023

        monkeypatch.setattr(api, "start_search", full)
        monkeypatch.setattr("pahq.cell.run.search", full)
        with pytest.raises(
            PahqError, match=r"memory ran out in the search; fewer task.examples .*run.memory_gb.*precision=int8"
        ):
            pahq.acdc(NANO, checked_task(cell("task=nano-ioi"), NANO), 0.1, progress=False)
        with pytest.raises(PahqError, match="memory ran out"):
            run_cell(cell("task=nano-ioi"), RunConfig(root=str(tmp_path), wandb="disabled", progress=False))
    with pytest.raises(RuntimeError, match="another"), told_when_memory_ends():
        raise RuntimeError("another")
    with pytest.raises(OSError, match="another"), told_when_memory_ends():
        raise OSError(errno.ENOENT, "another")


def test_control_groups_and_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "two" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "two" / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "two" / "a" / "memory.current").write_text("900\n")
    (tmp_path / "two" / "a" / "memory.stat").write_text("anon 500\nfile 300\nslab_reclaimable 50\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("900\n")
    old = tmp_path / "two" / "memory" / "c"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("700")
    (old / "memory.usage_in_bytes").write_text("600")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/c\n3:cpuset:/c\n0::/a/b\n")
    assert list(precheck._groups(tmp_path / "two", own)) == [100, 450]
    assert list(precheck._groups(tmp_path / "two", tmp_path / "none")) == []
    unlimited = free_bytes("cpu")
    assert unlimited is not None
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**33, 2**33) if kind == resource.RLIMIT_AS else (-1, -1))
    limited = free_bytes("cpu")
    assert limited is not None
    assert 0 <= limited < 8 * GIB
    monkeypatch.setattr(precheck, "_table", lambda path, unit: {})
    assert free_bytes("cpu") is None
