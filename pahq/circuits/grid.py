"""Rows and columns of a drawn circuit: layers up, heads across, MLPs in the column on the right. Pure numbers.

A small model is drawn whole; of a large one only the layers and heads with an edge have rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pahq.circuits.graph import LETTERS, ModelShape
from pahq.circuits.lanes import Spot

WHOLE = 200  # a model of at most so many heads is drawn with those that the circuit leaves out


@dataclass(frozen=True, slots=True)
class Wire:
    """What is drawn as one line: from a node to a slot (``a1.h0<q>``), a node or, of several heads, ``a1.g0``.

    ``kept``: whether it is of the circuit; nodes and slots that only other lines touch look unused.
    """

    sender: str
    receiver: str
    weight: float = 1.0
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A layer's heads, its MLP, or a bar; ``used``: whether a node of it has an edge."""

    kind: str  # embed | head | mlp | logits
    layer: int
    used: bool


def group_name(layer: int, head: int) -> str:
    """The bar below the heads that share key-value head ``head``."""
    return f"a{layer}.g{head}"


def used_by(shape: ModelShape, wires: Iterable[Wire]) -> set[str]:
    """Nodes that wires touch; where an input of several heads has one, those that send, or else the first of them."""
    wires = list(wires)
    senders, ends = {wire.sender for wire in wires}, {wire.receiver for wire in wires}
    used = set(senders)
    for end in ends:
        shared = shape.kv_heads < shape.heads and (".g" in end or end.endswith(("<k>", "<v>")))
        if shared:
            layer, head = numbers_of(end)
            heads = [f"a{layer}.h{one}" for one in shape.query_heads("k", head)]
            used |= set(heads) & senders or {heads[0]}
        else:
            used.add(end.split("<")[0])
    return used


class Grid:
    """Which rows and columns there are, and at which of them every node and every input stands (``spots``)."""

    def __init__(self, shape: ModelShape, wires: Sequence[Wire]) -> None:
        self.shape, self.wires = shape, wires
        self.shared = self.shape.kv_heads < self.shape.heads
        self.used = used_by(shape, wires)
        self.whole = self.shape.layers * self.shape.heads <= WHOLE
        taken = {int(name.split(".h")[1]) for name in self.used if ".h" in name}
        self.columns = list(range(self.shape.heads)) if self.whole else sorted(taken) or [0]
        self.rows = tuple(self._rows())
        self.mlp = len(self.columns)  # the MLPs' column
        beside = any(row.kind == "mlp" or (row.kind == "head" and shape.parallel) for row in self.rows)
        self.last = self.mlp if beside else self.mlp - 1
        self.spots = dict(self._spots())

    def _rows(self) -> Iterator[Row]:
        yield Row("embed", -1, True)
        for layer in range(self.shape.layers):
            used = any(name.startswith(f"a{layer}.") for name in self.used)
            mlp = f"m{layer}" in self.used
            if used or self.whole or (self.shape.parallel and mlp):
                yield Row("head", layer, used)
            if self.shape.mlp and not self.shape.parallel and (self.whole or mlp):
                yield Row("mlp", layer, mlp)
        yield Row("logits", self.shape.layers, True)

    def _spots(self) -> Iterator[tuple[str, Spot]]:
        embeds = ["embed", "pos"] if self.shape.split_embed else ["embed"]
        for row, line in enumerate(self.rows):
            if line.kind == "embed":
                half = (self.last + 1) / len(embeds)
                for i, name in enumerate(embeds):
                    yield name, Spot(row, i * half - 0.5, (i + 1) * half - 0.5, bar=True)
            elif line.kind == "logits":
                yield "logits", Spot(row, -0.5, self.last + 0.5, bar=True)
            elif line.kind == "mlp":
                yield f"m{line.layer}", Spot(row, self.mlp, self.mlp)
            else:
                yield from self._spots_of_heads(row, line.layer)

    def _spots_of_heads(self, row: int, layer: int) -> Iterator[tuple[str, Spot]]:
        for column, head in enumerate(self.columns):
            yield f"a{layer}.h{head}", Spot(row, column, column)
            for letter in "q" if self.shared else LETTERS:
                yield f"a{layer}.h{head}<{letter}>", Spot(row, column, column, letter=letter)
        for group in range(self.shape.kv_heads) if self.shared else ():
            heads = self.shape.query_heads("k", group)
            places = [i for i, head in enumerate(self.columns) if head in heads]
            if places:
                yield group_name(layer, group), Spot(row, places[0], places[-1], shared=True)
                for letter in "kv":
                    yield f"a{layer}.h{group}<{letter}>", Spot(row, places[0], places[-1], letter=letter, shared=True)
        if self.shape.parallel and self.shape.mlp:
            yield f"m{layer}", Spot(row, self.mlp, self.mlp)

    def blocked(self) -> tuple[str, ...]:
        """What stands in the way in each row: heads (left), an MLP in the column on the right, both (all), or none."""
        kinds = {"head": "all" if self.shape.parallel else "left", "mlp": "right", "embed": "none", "logits": "none"}
        return tuple(kinds[row.kind] if row.used or row.kind == "head" else "none" for row in self.rows)


def numbers_of(name: str) -> tuple[int, int]:
    """Layer and head of ``a3.h2<k>`` or ``a3.g2``."""
    layer, _, head = name.split("<")[0][1:].partition(".")
    return int(layer), int(head[1:])
