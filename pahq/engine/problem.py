"""The ground that all engines stand on: a network under test, its prompts, its ablated values, its objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.config import CellConfig, PrecisionConfig
from pahq.errors import PahqError
from pahq.graph import Graph, build_graph
from pahq.metrics import Objective, gather_items, objective
from pahq.model.forward import Run, embeddings, logits, run_senders, unembed
from pahq.model.weights import Model
from pahq.precision.store import PrecisionStore
from pahq.tasks.task import Prompts


@dataclass(frozen=True)
class Problem:
    """A network under test on one prompt set: everything a search needs except its decisions.

    ``clean`` holds the embedding senders of the clean prompts; ``corrupted`` the run that absent edges take their
    values from, made once with every head in its low format. ``objective`` compares with the full-precision clean
    model.
    """

    graph: Graph
    store: PrecisionStore
    prompts: Prompts
    objective: Objective
    focus: str
    clean: tuple[Float[Tensor, "batch pos d_model"], ...]
    corrupted: Run

    def item_logits(self, final: Float[Tensor, "*trial batch pos d_model"]) -> Float[Tensor, "*trial item vocab"]:
        """Logits where the metric reads, from the final residual stream."""
        return unembed(self.store.full, gather_items(final, self.prompts.items))


def build_problem(
    model: Model,
    prompts: Prompts,
    *,
    metric: str,
    ablation: str = "corrupted",
    split_embed: bool = False,
    direct_edges: bool = True,
    precision: PrecisionConfig | None = None,
    focus: str = "none",
) -> Problem:
    """Set up a search on ``model`` (its dtype and device are the search's).

    ``ablation``: what absent edges carry. corrupted: the corrupted prompts' values. zero: those of a run in which every
    sender is zero, so a projection is W.norm(biases) + b, not zero. mean: the same with each sender at its mean over
    the corrupted prompts, position by position.
    Raises PahqError when prompts and model do not fit each other.
    """
    _check_tokens(model, prompts)
    graph = build_graph(model.config.shape(split_embed=split_embed), direct_edges=direct_edges)
    store = PrecisionStore.build(model, precision or PrecisionConfig(name="float32", heads="float32"))
    clean_logits = gather_items(logits(model, prompts.clean), prompts.items)
    return Problem(
        graph=graph,
        store=store,
        prompts=prompts,
        objective=objective(metric, prompts.targets, clean_logits),
        focus=focus,
        clean=tuple(embeddings(model, prompts.clean, split=split_embed)),
        corrupted=_ablation_run(store.low, prompts, ablation, split_embed),
    )


def cell_problem(cell: CellConfig, model: Model, prompts: Prompts) -> Problem:
    """The search problem of a cell."""
    return build_problem(
        model,
        prompts,
        metric=cell.task.metric,
        ablation=cell.task.ablation,
        split_embed=cell.task.split_embed,
        direct_edges=cell.method.direct_edges,
        precision=cell.precision,
        focus=cell.method.focus,
    )


def _ablation_run(model: Model, prompts: Prompts, ablation: str, split_embed: bool) -> Run:
    parts = embeddings(model, prompts.corrupted, split=True)
    if prompts.position_order is not None and len(parts) == 2:
        parts[1] = parts[1][:, prompts.position_order.to(parts[1].device)]
    start = parts if split_embed else [torch.stack(parts).sum(0)]
    run = run_senders(model, start)
    if ablation == "corrupted":
        return run
    if ablation == "zero":
        fixed = torch.zeros_like(run.senders)
    elif ablation == "mean":
        fixed = run.senders.mean(1, keepdim=True).expand_as(run.senders)
    else:
        raise PahqError(f"unknown ablation {ablation!r}; known: corrupted, mean, zero")
    return run_senders(model, start, fixed=fixed)


def _check_tokens(model: Model, prompts: Prompts) -> None:
    config = model.config
    if config.positions == "learned" and prompts.clean.shape[1] > config.context:
        raise PahqError(
            f"prompts have {prompts.clean.shape[1]} tokens; model {config.name!r} has {config.context} positions"
        )
    for name, tokens in (("clean", prompts.clean), ("corrupted", prompts.corrupted)):
        bad = (tokens < 0) | (tokens >= config.d_vocab)
        if bad.any():
            row = int(bad.any(1).nonzero()[0])
            raise PahqError(f"{name} prompt {row} has a token outside the vocabulary of {config.d_vocab}")
