"""What absent edges carry: the corrupted prompts' run, and what an ablation makes of its values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.forward import embeddings
from pahq.model.run import Fixed, Run, run_senders
from pahq.model.weights import Network
from pahq.precision.formats import HALF
from pahq.tasks.task import Prompts


def ablated_run(model: Network, prompts: Prompts, ablation: str, split_embed: bool) -> Run:
    """The run that absent edges take their values from; for what ``ablation`` means see ``build_problem``."""
    parts, change = corrupted_parts(model, prompts), change_of(ablation)
    start = parts if split_embed else [torch.stack(parts).sum(0)]
    run = run_senders(model, start)
    if change is None:
        return run
    fixed = Fixed(tuple(map(change, run.start)), tuple(map(change, run.z)), tuple(map(change, run.mlp)))
    return run_senders(model, start, fixed=fixed)


def corrupted_parts(model: Network, prompts: Prompts) -> list[Float[Tensor, "batch pos d_model"]]:
    """The embedding of the corrupted prompts in its parts, positions in the order that the prompts ask for."""
    parts = embeddings(model, prompts.corrupted, split=True)
    if prompts.position_order is not None and len(parts) == 2:
        parts[1] = parts[1][:, prompts.position_order.to(parts[1].device)]
    return parts


def change_of(ablation: str) -> Callable[[Tensor], Tensor] | None:
    """What ablation makes of a sender's corrupted value; None where that stays."""
    changes: dict[str, Callable[[Tensor], Tensor] | None] = {
        "corrupted": None,
        "mean": _mean_prompt,
        "zero": torch.zeros_like,
    }
    if ablation not in changes:
        raise PahqError(f"unknown ablation {ablation!r}; known: corrupted, mean, zero")
    return changes[ablation]


def narrowed(model: Network, run: Run, cache: str) -> Run:
    """The ablated run with its senders held in 16 bits. What they add up to is added up from the rounded ones."""

    def rounded(values: Tensor) -> Tensor:
        stored = values.to(HALF[cache])
        if not torch.isfinite(stored).all():
            largest = float(values.abs().max())
            raise PahqError(f"an activation of {largest:.3g} does not fit cache={cache}; bf16 holds it")
        return stored.to(values.dtype)

    start, z, mlp = (tuple(map(rounded, part)) for part in (run.start, run.z, run.mlp))
    return run_senders(model, start, fixed=Fixed(start, z, mlp)).narrow(HALF[cache])


def _mean_prompt(values: Float[Tensor, "*head batch pos d"]) -> Float[Tensor, "*head batch pos d"]:
    """Each position at its mean over the prompts. W_O is linear, so a mean z is a mean output."""
    return values.mean(-3, keepdim=True).expand_as(values)
