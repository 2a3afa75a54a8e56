"""How well a model does the language tasks: accuracy, and the task's metric on clean and on corrupted prompts.

    python benchmarks/language_tasks.py [TASK ...] [--prompts 96] [--json FILE]

TASK names files of conf/task (default: those that run on smollm2). Settings may follow a name behind commas, for a
model that has no such file: smollm2-induction,task.name=gemma3-induction,model=gemma3,task.bos='<bos>'. A circuit can
only be found for what a model does, so this comes before any search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from output import publish
from torch import Tensor

from pahq.cell.run import load
from pahq.config.cell import CellConfig
from pahq.experiments.compose import compose_runs, options
from pahq.model.forward import logits
from pahq.model.weights import Model
from pahq.tasks.metrics import gather_items, objective

CHUNK = 8  # prompts in one forward: logits of all positions would be gigabytes
RULES = {
    "wrong": "the answer's logit is above the wrong answer's",
    "choices": "the answer's logit is above that of every wrong choice",
    "sign": "the right tokens have more probability than the wrong ones",
    "answer": "the answer is the likeliest of all tokens",
}


def item_logits(model: Model, tokens: Tensor, items: Tensor) -> Tensor:
    """Logits [item, vocab] where the metric reads; ``items`` are sorted by example."""
    rows = []
    for first in range(0, len(tokens), CHUNK):
        mine = items[(items[:, 0] >= first) & (items[:, 0] < first + CHUNK)]
        if len(mine):
            found = logits(model, tokens[first : first + CHUNK])
            rows.append(gather_items(found, mine - torch.tensor([first, 0])))
    return torch.cat(rows)


def right(values: Tensor, targets: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """Which rule decides, and for every item whether the model is right by it."""
    rule = next(name for name in RULES if name in targets)
    if rule == "sign":
        return rule, (values.softmax(-1) * targets["sign"]).sum(-1) > 0
    answer = values.gather(1, targets["answer"][:, None])
    if rule == "answer":
        return rule, (answer >= values.amax(-1, keepdim=True)).flatten()
    wrong = targets[rule].reshape(len(values), -1)
    return rule, (answer > values.gather(1, wrong)).all(-1)


@torch.no_grad()
def measure(cell: CellConfig) -> dict[str, Any]:
    """One task: accuracy on its search prompts, metric clean and corrupted, and KL of corrupted to clean."""
    model, task = load(cell, "cpu")
    prompts = task.search
    clean = item_logits(model, prompts.clean, prompts.items)
    corrupted = item_logits(model, prompts.corrupted, prompts.items)
    own = objective(task.metric, prompts.targets, clean)
    rule, hits = right(clean, prompts.targets)
    return {
        "model": cell.model.name,
        "digest": model.digest,
        "prompts": len(prompts.clean),
        "positions": prompts.clean.shape[1],
        "items": len(prompts.items),
        "accuracy": float(hits.float().mean()),
        "accuracy_corrupted": float(right(corrupted, prompts.targets)[1].float().mean()),
        "right_means": RULES[rule],
        "metric": task.metric,
        "clean": float(own.value(clean)),
        "corrupted": float(own.value(corrupted)),
        "kl_corrupted": float(objective("kl", {}, clean).value(corrupted)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.tasks or [name for name in options("task") if name.startswith("smollm2-")]
    report = {}
    for typed in names:
        file, *settings = typed.split(",")
        [(cell, _)] = compose_runs([f"task={file}", f"task.examples={arguments.prompts}", *settings])
        name = cell.task.name
        report[name] = measure(cell) | {"typed": typed}
        sys.stderr.write(f"{name}: accuracy {report[name]['accuracy']:.2f}\n")
    publish({"seed": 0, "threads": 1, "tasks": report}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
