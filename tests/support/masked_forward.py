"""The independent patched forward with a number in place of every edge's presence: one edge and position at a time."""

from __future__ import annotations

import torch

from support.patched_forward import _Example, _means, _project


def masked_logits(model, prompts, masks, *, ablation, split, direct, projections=None):
    """[item, vocab] logits with ``masks`` by the names of edges; ``projections``: of projections, by a head's input."""
    means = _means(model, prompts.corrupted, split, prompts.position_order) if ablation == "mean" else None
    runs = {}
    for example in sorted({example for example, _ in prompts.items.tolist()}):
        tokens = prompts.clean[example].tolist(), prompts.corrupted[example].tolist()
        asked = (ablation, split, direct, prompts.position_order, frozenset(), means)
        runs[example] = _Masked(model, model, *tokens, frozenset(), *asked)
        runs[example].masks = masks | (projections or {})
    return torch.stack([runs[example].logits(position) for example, position in prompts.items.tolist()])


class _Masked(_Example):
    def input(self, receiver, layer, kind):
        stream = list(self.cache.residual(layer, kind))
        for sender in self.cache.upstream(layer, kind):
            mask, online, ablated = self.masks[f"{sender}->{receiver}"], self.output(sender), self.cache.out[sender]
            stream = [x + mask * a - mask * b for x, a, b in zip(stream, online, ablated, strict=True)]
        return stream

    def projection(self, layer, letter, index):
        name = f"a{layer}.h{index}<{letter}>"
        online = _project(self.low, layer, letter, index, self.input(name, layer, "head"))
        if name not in self.masks:
            return online
        ablated = _project(self.low, layer, letter, index, self.cache.residual(layer, "head"))
        return [self.masks[name] * x + (1 - self.masks[name]) * y for x, y in zip(online, ablated, strict=True)]
