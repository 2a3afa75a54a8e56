"""Mixed precision of attention: who is in focus, and the weights that a forward then gets.

PAHQ (arXiv 2510.23264): the head under test runs in full precision, every other head in the low format. The forward
asks ``layer(i, focus)`` and never learns what a format is. A focus unit is a key-value group: for ordinary attention
that is one head; with grouped queries a k or v input belongs to all heads of its group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pahq.config import PrecisionConfig
from pahq.graph import Edge, Graph
from pahq.model.weights import LayerWeights, Model
from pahq.precision.formats import Format, round_trip

Focus = frozenset[tuple[int, int]]  # (layer, key-value head)
NO_FOCUS: Focus = frozenset()


def focus_of(graph: Graph, edge: Edge, rule: str) -> Focus:
    """The groups that run in full precision while ``edge`` is under test.

    ``rule``: receiver | sender | both | none. Edges into an MLP or the logits have no receiver head, edges from an MLP
    or an embedding no sender head. A Direct edge lies within its head.
    """
    shape = graph.shape
    chosen = set()
    receiver, sender = edge.receiver, edge.sender
    if receiver.kind == "head" and (rule in ("receiver", "both") or (rule == "sender" and edge.direct)):
        head = shape.query_heads(receiver.letter, receiver.head)[0]
        chosen.add((receiver.layer, head * shape.kv_heads // shape.heads))
    if sender is not None and sender.kind == "head" and rule in ("sender", "both"):
        chosen.add((sender.layer, sender.head * shape.kv_heads // shape.heads))
    return frozenset(chosen)


@dataclass(frozen=True)
class PrecisionStore:
    """The full-precision model and the network under test (``low``: every head and MLP in its low format)."""

    full: Model
    low: Model

    @classmethod
    def build(cls, model: Model, precision: PrecisionConfig) -> PrecisionStore:
        """Round the attention and MLP weights of ``model``; embedding, norms and biases stay as they are."""
        heads, mlp = Format(precision.heads, precision.scales), Format(precision.mlp)
        layers = tuple(_rounded(layer, heads, mlp) for layer in model.layers)
        return cls(full=model, low=replace(model, layers=layers))

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        """A layer's weights with the groups in focus in full precision."""
        groups = tuple(sorted(group for layer, group in focus if layer == index))
        return self._spliced(index, groups) if groups else self.low.layers[index]

    def _spliced(self, index: int, groups: tuple[int, ...]) -> LayerWeights:
        low, full = self.low.layers[index], self.full.layers[index]
        per_group = self.full.config.heads // self.full.config.kv_heads
        heads = [group * per_group + i for group in groups for i in range(per_group)]

        def splice(name: str, rows: list[int]) -> Tensor:
            weight: Tensor = getattr(low, name).clone()
            weight[rows] = getattr(full, name)[rows]
            return weight

        kv = list(groups)
        return replace(
            low, W_Q=splice("W_Q", heads), W_K=splice("W_K", kv), W_V=splice("W_V", kv), W_O=splice("W_O", heads)
        )


def _rounded(layer: LayerWeights, heads: Format, mlp: Format) -> LayerWeights:
    attention = {name: round_trip(getattr(layer, name), heads) for name in ("W_Q", "W_K", "W_V", "W_O")}
    names = [name for name in ("W_in", "W_gate", "W_out") if getattr(layer, name) is not None]
    return replace(layer, **attention, **{name: round_trip(getattr(layer, name), mlp) for name in names})
