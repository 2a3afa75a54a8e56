"""Tasks: prompts to search on, fresh prompts to judge by, and what the metrics read. One module and one line each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pahq.config.cell import TaskConfig
from pahq.errors import unknown
from pahq.model.weights import Reader
from pahq.tasks import docstring, greaterthan, induction, ioi, own, tracr
from pahq.tasks.metrics import objective
from pahq.tasks.task import Prompts, Task

TASKS: dict[str, Callable[[TaskConfig, Reader, int], Task]] = {
    "ioi": ioi.build,
    "greaterthan": greaterthan.build,
    "greaterthan-digits": greaterthan.build_digits,
    "docstring": docstring.build,
    "induction": induction.build,
    "own": own.build,
    "tracr-reverse": tracr.build,
    "tracr-proportion": tracr.build,
}


def build_task(config: TaskConfig, model: Reader, seed: int) -> Task:
    """The task that a configuration describes, its prompts in the model's tokens (on the CPU).

    Search and fresh prompts are functions of ``config`` and ``seed``, never of the weights. Raises PahqError for an
    unknown kind, for a model that cannot read the prompts, and for a metric that the task lacks.
    """
    if config.kind not in TASKS:
        raise unknown("task kind", config.kind, TASKS)
    task = TASKS[config.kind](config, model, seed)
    # The metrics' own table says what each of them needs: bind it once to logits of one item that hold nothing.
    objective(config.metric, task.search.targets, torch.zeros(1, model.config.d_vocab_out))
    return task


__all__ = ["TASKS", "Prompts", "Task", "build_task"]
