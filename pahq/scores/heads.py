"""HISP, head importance scores for pruning (Michel et al. 2019, arXiv 1905.10650), as ACDC's paper has it.

A node is a head's q, k, v or output (before W_O, which is linear), or the output of an MLP. With a mask that blends
what a node computes with its ablated value, and M the loss of a prompt, the node's importance is

    the mean over prompts of |dM / d mask| at the clean run = |<clean - ablated, dM / d node>|

divided by the L2 norm of all importances of its layer. One forward and one backward per batch of prompts. Edges follow
from their ends (``pahq.scores.nodes``): nodes are removed from the least important on, and an edge goes with the first
of its two. ACDC's paper takes the ablated value in the place of the zero of Michel et al.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import LETTERS, Receiver
from pahq.engine.problem import Problem
from pahq.model.block import Part, through
from pahq.model.forward import mix, mlp, project, unembed
from pahq.model.layerweights import LayerWeights
from pahq.scores.gradients import batches
from pahq.scores.nodes import edge_scores
from pahq.tasks.metrics import gather_items, of_items


def head_scores(problem: Problem, *, batch_size: int | None = None) -> Float[Tensor, " edge"]:
    """The score of every edge of the problem's graph, in float64. ``batch_size``: prompts computed together at most."""
    graph, importances = problem.graph, _importances(problem, batch_size)
    inputs: dict[Receiver, float] = {}
    outputs: dict[int, float] = {}
    for layer, by_kind in enumerate(importances):
        norm = torch.cat(list(by_kind.values())).norm().clamp(min=torch.finfo(torch.float64).tiny)
        for kind, values in by_kind.items():
            named = (values / norm).tolist()
            if kind in LETTERS:
                first = next(i for i, at in enumerate(graph.head_inputs) if (at.layer, at.letter) == (layer, kind))
                inputs |= dict(zip(graph.head_inputs[first : first + len(named)], named, strict=True))
            else:
                senders = [
                    at for at, node in enumerate(graph.senders) if (node.kind, node.layer) == (_NODE[kind], layer)
                ]
                outputs |= dict(zip(senders, named, strict=True))
    return edge_scores(graph, inputs, outputs)


_NODE = {"heads": "head", "mlp": "mlp"}


def _importances(problem: Problem, batch_size: int | None) -> list[dict[str, Float[Tensor, " node"]]]:
    """By layer and kind of node: the mean over prompts of |dM / d mask|, not yet divided by the layer's norm."""
    found: list[dict[str, Tensor]] = [{} for _ in range(problem.store.config.layers)]
    for rows, weight in batches(problem, "mean", batch_size):
        for layer, by_kind in enumerate(_of_batch(problem, rows, weight)):
            for kind, values in by_kind.items():
                found[layer][kind] = found[layer].get(kind, 0) + values
    return found


def _of_batch(problem: Problem, rows: slice, weight: float) -> list[dict[str, Float[Tensor, " node"]]]:
    """The share of some prompts in that mean. ``weight``: what the loss of one item counts."""
    network, config, part = problem.store.network(), problem.store.config, problem.part(rows)
    items = problem.prompts.items[:, 0]
    chosen = ((items >= rows.start) & (items < rows.stop)).nonzero()[:, 0]
    if not len(chosen):
        return []
    leaves: list[dict[str, Tensor]] = [{} for _ in range(config.layers)]

    def send(index: int, layer: LayerWeights, part_of_layer: Part, read: Tensor) -> Tensor:
        here = leaves[index]
        if part_of_layer.kind == "mlp":
            here["mlp"] = mlp(config, layer, read)
            return here["mlp"]
        here |= {letter: project(config, layer, letter, read[None]) for letter in LETTERS}
        here["heads"] = mix(config, layer, here["q"], here["k"], here["v"])
        return here["heads"]

    with torch.enable_grad():
        start = torch.stack(list(part.clean)).sum(0).requires_grad_()
        final = through(config.parts, network.layers, start, send)
        logits = unembed(network, gather_items(final, part.prompts.items))
        loss = of_items(problem.objective, chosen).loss(logits) * (weight * len(chosen))
        flat = [values for here in leaves for values in here.values()]
        gradients = iter(torch.autograd.grad(loss, flat))
    found = []
    for index, here in enumerate(leaves):
        ablated = part.corrupted_projections[index] | {"heads": part.corrupted.z[index]}
        ablated |= {"mlp": part.corrupted.mlp[index]} if config.d_mlp else {}
        found.append({kind: _by_node(x.detach() - ablated[kind], next(gradients), kind) for kind, x in here.items()})
    return found


def _by_node(difference: Tensor, gradient: Tensor, kind: str) -> Float[Tensor, " node"]:
    """|<difference, gradient>| of each prompt, added up; an MLP is one node."""
    products = (difference * gradient).double()
    if kind == "mlp":
        products = products[None]
    return products.sum((-2, -1)).abs().sum(-1)
