"""Whether a search can fit into this machine's memory, asked before its prompts are drawn and before any forward pass.

What is estimated is the least: what every search of that size holds at once, beside the model. So nothing is refused
that would have fitted; what runs out of memory all the same is told in a sentence too.
"""

from __future__ import annotations

import errno
import logging
import resource
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pahq.config.cell import CellConfig
from pahq.errors import PahqError
from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model, ModelConfig
from pahq.tasks import build_task
from pahq.tasks.bos import missing_note
from pahq.tasks.check import check_prompts
from pahq.tasks.task import Prompts, Task, check_enough

_log = logging.getLogger(__name__)
GIB = 1 << 30
MANY = 1000  # examples from which on the memory is asked about before they are drawn
_OUT = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def checked_task(cell: CellConfig, model: Model | ModelFile) -> Task:
    """The cell's task, once it is clear that the model can read its prompts and that a search of them can fit.

    Raises PahqError as ``build_task``, ``check_prompts`` and ``check_memory`` do. How long prompts are is learnt of
    two, so that a task of too many is refused before these are drawn. What there is to say of a task is logged.
    """
    if cell.task.examples > MANY and cell.task.kind != "own":
        few = build_task(cell.task.model_copy(update={"examples": 2}), model, cell.seed)
        check_enough(cell.task, few.different)
        check_memory(cell, model, few.search, cell.task.examples)
    task = build_task(cell.task, model, cell.seed)
    check_prompts(model.config, task.search, metric=cell.task.metric, ablation=cell.task.ablation)
    check_memory(cell, model, task.search, warn=True)
    for note in task.notes or missing_note(model, task.search.clean):
        _log.warning("task %s: %s", cell.task.name, note)
    return task


def check_memory(
    cell: CellConfig, model: Model | ModelFile, prompts: Prompts, examples: int | None = None, *, warn: bool = False
) -> None:
    """Raise PahqError where a search of these prompts (or of ``examples`` like them) cannot fit into memory.

    ``warn``: a sentence where it may not: a search that keeps many edges takes about twice the least.
    """
    batch, length = prompts.clean.shape
    count = examples or batch

    def least(count: int) -> int:
        return needed_bytes(cell, model.config, count, length, len(prompts.items) * count // batch)

    needed = least(count)
    free = free_bytes(model.device if isinstance(model, ModelFile) else model.W_E.device)
    if free is None or 2 * needed <= free:
        return
    sentence = (
        f"a search of {count} prompts of {length} tokens needs at least {needed / GIB:.3g} GiB of memory beside "
        f"the model, and {free / GIB:.3g} GiB are free; {_what_would_fit(least, count, free // 2)}"
    )
    if needed > free:
        raise PahqError(sentence)
    if warn:
        _log.warning("this may not fit: %s", sentence)


def _what_would_fit(least: Callable[[int], int], count: int, free: int) -> str:
    """How many of ``count`` examples are likely to fit, where ``least`` says what so many need at least."""
    most = bisect_right(range(1, count), free, key=least)
    if most == 0:
        return "not even one of its task.examples is likely to fit: take a smaller model or a machine with more memory"
    return f"fewer task.examples need less, and up to {most} are likely to fit"


def needed_bytes(cell: CellConfig, config: ModelConfig, examples: int, length: int, items: int) -> int:
    """The least bytes that a cell's search holds at once beside the model, for so many prompts and metric's items."""
    size = 8 if cell.engine.dtype == "float64" else 4
    rows = examples * length
    stream, head = rows * config.d_model * size, rows * config.d_head * size
    mlps = config.layers if config.d_mlp else 0
    ablated = (2 + mlps) * stream + config.layers * config.heads * head
    if cell.precision.cache != "float32":
        ablated //= size // 2
    logits = items * config.d_vocab_out * size if cell.task.metric == "kl" else 0
    scores = 2 * config.heads * examples * length**2 * size  # of a layer's attention, while it is made
    widest = max(scores, rows * config.d_mlp * size)
    if cell.engine.name == "reference":
        senders = 1 + config.layers * config.heads + mlps
        held = 2 * (senders + config.layers) * stream
    else:
        held = config.layers * 2 * (config.heads + config.kv_heads) * head + mlps * stream
    searches = 2 if cell.audit == "band" else 1  # side by side
    return searches * (ablated + logits + held + stream) + widest


def free_bytes(device: torch.device | str) -> int | None:
    """Bytes that this process can still have on a device; None where the system does not say.

    The least of what the machine has left (swap counted), what the process's control groups allow and its own limits.
    """
    target = torch.device(device)
    if target.type == "cuda":
        free = torch.cuda.mem_get_info(target)[0]
        return int(free + torch.cuda.memory_reserved(target) - torch.cuda.memory_allocated(target))
    machine = _table(Path("/proc/meminfo"), 1024)
    if target.type != "cpu" or "MemAvailable" not in machine:
        return None
    swap = machine.get("SwapFree", 0)
    found = [machine["MemAvailable"] + swap]
    found += [limit + swap for limit in _groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]
    own = _table(Path("/proc/self/status"), 1024)
    for kind, key in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and key in own:
            found.append(limit - own[key])
    return max(0, min(found))


@contextmanager
def told_when_memory_ends() -> Iterator[None]:
    """Whatever says that no memory is left becomes a PahqError in one sentence: what needs less, and what is kept."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        out = isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM
        if not out and (isinstance(error, OSError) or not any(text in str(error) for text in _OUT)):
            raise
        raise PahqError(
            "the machine's memory ran out in the search; fewer task.examples need less, and so do a ceiling "
            "(run.memory_gb, with engine=suffix), which a cell goes on with where it stopped, a precision of fewer "
            "bits (precision=int8 with method=pahq), and on a large model precision.cache=bf16"
        ) from error


def _groups(root: Path, own: Path) -> Iterator[int]:
    """What each control group that this process is in (version 2 or 1) leaves it, the file cache counted as free."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            limit, used = (_number(place / name) for name in names)
            if limit is not None and used is not None:
                stat = _table(place / "memory.stat", 1)
                cache = stat.get("file", stat.get("cache", 0)) + stat.get("slab_reclaimable", 0)
                yield limit - max(0, used - cache)
            if place == base:
                break


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _table(path: Path, unit: int) -> dict[str, int]:
    """Lines ``name: number`` or ``name number`` of a file of the system's, in bytes; empty where it cannot be read."""
    try:
        rows = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) * unit for row in rows if len(row) > 1 and row[1].isdigit()}
