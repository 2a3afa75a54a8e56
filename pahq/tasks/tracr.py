"""The compiled programs tracr-reverse and tracr-proportion (Lindner et al. 2023), as ACDC's experiments ask of them.

Prompts are the recorded ones of the original experiments: corrupted prompts are other rows of the batch. The corrupted
run also permutes the rows of the position embedding, since these programs read positions as much as tokens.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.errors import PahqError, unknown
from pahq.model.weights import Reader
from pahq.tasks.task import Prompts, Task

METRIC = "mse"
POSITION_SEED = 49  # of the permutation of position rows in the original corrupted runs
COLUMNS = {"tracr-reverse": None, "tracr-proportion": [0]}  # proportion writes its result to output 0 alone


def build(config: TaskConfig, model: Reader, seed: int) -> Task:
    """The first ``config.examples`` recorded prompts of ``config.kind``; ``seed`` changes nothing.

    Raises PahqError if more prompts are asked for than are recorded, or if the model cannot read them.
    """
    if config.kind not in COLUMNS:
        raise unknown("compiled program", config.kind, COLUMNS)
    recorded = read_prompts(config.kind)
    count = len(recorded["validation"])
    if config.examples > count:
        raise PahqError(f"task {config.name!r} has {count} recorded examples; {config.examples} were asked for")
    tokens = {name: rows[: config.examples] for name, rows in recorded.items()}
    search = _prompts(tokens["validation"], tokens["validation_patch"], config, model)
    fresh = _prompts(tokens["test"], tokens["test_patch"], config, model)
    return Task(config.name, search, fresh, METRIC)


def read_prompts(kind: str) -> dict[str, Tensor]:
    """The recorded tokens, [example, 4] each: validation, validation_patch, test, test_patch."""
    path = Path(str(resources.files("pahq.data"))) / "models" / kind / "prompts.safetensors"
    return load_file(path)


def _prompts(clean: Tensor, corrupted: Tensor, config: TaskConfig, model: Reader) -> Prompts:
    batch, length = clean.shape
    columns = COLUMNS[config.kind]
    needed = int(torch.maximum(clean, corrupted).max()) + 1
    if model.config.d_vocab < needed or model.config.context < length:
        raise PahqError(
            f"task {config.name!r} needs {needed} tokens and {length} positions; model {model.config.name!r} has "
            f"{model.config.d_vocab} and {model.config.context}"
        )
    # Position 0 holds the beginning-of-sequence token, on which the programs' output means nothing.
    items = torch.cartesian_prod(torch.arange(batch), torch.arange(1, length))
    targets = {} if columns is None else {"columns": torch.tensor(columns)}
    order = None
    if config.ablation == "corrupted":
        order = torch.randperm(length, generator=torch.Generator().manual_seed(POSITION_SEED))
    return Prompts(clean, corrupted, items, targets, position_order=order)
