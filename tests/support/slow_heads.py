"""HISP by finite differences: every node of the independent forward is moved a little from its clean value, by itself.

Of the package it uses the metric and the names of edges alone.
"""

from __future__ import annotations

from pahq.tasks.metrics import of_items
from support.slow_scores import _between, _Loop

STEP = 1e-4


def slow_head_scores(model, prompts, objective, graph, ablation="corrupted"):
    """The score of every edge by its name."""
    loop = _Loop(model, prompts, objective, graph, ablation)
    nodes = [str(node) for node in graph.senders if node.kind != "embed" and node.kind != "pos"]
    nodes += [f"{receiver}!" for receiver in graph.head_inputs]
    importance = {node: _importance(loop, node) for node in nodes}
    layer = {node: int(node[1:].split(".")[0]) for node in nodes}
    norms = [
        sum(importance[node] ** 2 for node in nodes if layer[node] == at) ** 0.5
        for at in range(max(layer.values()) + 1)
    ]
    worth = {node: value / norms[layer[node]] for node, value in importance.items()}
    found = {}
    for name in map(str, graph.edges):
        sender, arrow, receiver = name.rpartition("->")
        ends = [worth.get(f"{receiver}!", worth.get(receiver, 1.0))]
        found[name] = min([*ends, worth.get(sender, 1.0)] if arrow else ends)
    return found


def _importance(loop, node):
    """The mean over prompts of how fast their loss changes with the node's mask, by central differences."""
    losses = []
    for share in (1 + STEP, 1 - STEP):
        pairs = zip(loop.clean, loop.ablated, strict=True)
        logits = loop.logits(
            loop.runs([{node: _between(clean[node], ablated[node], share)} for clean, ablated in pairs])
        )
        losses.append(_by_prompt(loop, logits))
    return sum(abs(up - down) / (2 * STEP) for up, down in zip(*losses, strict=True))


def _by_prompt(loop, logits):
    """What the items of each prompt add to the loss, which is a mean over items."""
    items = loop.prompts.items[:, 0]
    parts = []
    for prompt in range(len(loop.prompts.clean)):
        chosen = (items == prompt).nonzero()[:, 0]
        loss = of_items(loop.objective, chosen).loss(logits[chosen])
        parts.append(float(loss.detach()) * len(chosen) / len(items))
    return parts
