"""What a call from Python asks, checked as a cell's configuration is, and the problem that it is."""

from __future__ import annotations

from typing import Any

import torch

from pahq.cell.precheck import check_memory
from pahq.config.asked import Setting, asked
from pahq.config.cell import CellConfig
from pahq.engine.problem import Problem, cell_problem
from pahq.errors import PahqError
from pahq.model.fused import check_fused
from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model
from pahq.tasks.ability import warned_check
from pahq.tasks.check import check_prompts
from pahq.tasks.task import Prompts, Task


def checked(model: Model, setting: Setting, threshold: object, **more: Any) -> CellConfig:
    """A call's values as a cell's configuration, see ``asked``; PahqError in one sentence for what is wrong."""
    check_model(model)
    dtype = model.dtype if isinstance(model, ModelFile) else model.W_E.dtype
    return asked(setting, threshold, dtype=str(dtype).removeprefix("torch."), **more)


def problem_of(model: Model, task: Prompts | Task, cell: CellConfig, *, check: bool = False) -> Problem:
    """What ``acdc`` searches; PahqError when model, prompts and setting do not fit each other.

    ``check``: a warning where the model does not do the task.
    """
    found = prompts_of(task)
    check_prompts(model.config, found, metric=cell.task.metric, ablation=cell.task.ablation)
    check_memory(cell, model, found, warn=check)
    if cell.precision.kernel == "fused":
        check_fused((model if isinstance(model, ModelFile) else model.W_E).device)
    if check:
        warned_check(model, found)
    with torch.no_grad():
        return cell_problem(cell, model, found)


def prompts_of(task: Prompts | Task) -> Prompts:
    """The prompts to search on; PahqError for what is neither a task nor prompts."""
    found = task.search if isinstance(task, Task) else task
    if not isinstance(found, Prompts):
        raise PahqError(
            f"prompts as pahq.prompts or pahq.read_prompts gives them were expected, not {type(found).__name__}"
        )
    return found


def check_model(model: object) -> None:
    """PahqError for what is no model."""
    if not isinstance(model, Model | ModelFile):
        raise PahqError(f"a model as pahq.load_model gives it was expected, not {type(model).__name__}")
