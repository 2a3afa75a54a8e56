"""The graph by the names of its edges, and the order in which a search meets them.

A sender is ``embed`` (``pos`` beside it where the task splits them), a head ``a3.h2`` or an MLP ``m5``; a receiver is
``a5.h1<q>``, ``m5`` or ``logits``. Addition edges are called ``a3.h2->a5.h1<q>``, Direct edges ``a5.h1<q>``. With
grouped queries the k and v inputs exist once per key-value head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD = re.compile(r"a(\d+)\.h(\d+)(?:<([qkv])>)?$")


@dataclass(frozen=True)
class Shape:
    """What of a model and a task decides the graph."""

    layers: int
    heads: int
    kv_heads: int
    mlp: bool
    split: bool
    direct: bool
    parallel: bool = field(default=False, kw_only=True)
    coupled: bool = field(default=False, kw_only=True)  # a norm behind the heads: each hangs on all of its layer

    def count(self, letter: str) -> int:
        """How many inputs of a letter a layer has."""
        return self.heads if letter == "q" else self.kv_heads

    def group(self, head: int) -> int:
        """The key-value head that a query head reads."""
        return head // (self.heads // self.kv_heads)


def head_of(node: str) -> tuple[int, int, str] | None:
    """Layer, head and letter ("" for an output) of a head's node; None for any other node."""
    found = HEAD.match(node)
    return (int(found[1]), int(found[2]), found[3] or "") if found else None


def layer_of(node: str) -> int:
    """The layer of a head's or an MLP's node; -1 of an embedding."""
    head = head_of(node)
    if head:
        return head[0]
    return int(node[1:]) if re.fullmatch(r"m\d+", node) else -1


def senders(shape: Shape) -> list[str]:
    """All senders, as the model computes them."""
    names = ["embed", "pos"] if shape.split else ["embed"]
    for layer in range(shape.layers):
        names += [f"a{layer}.h{head}" for head in range(shape.heads)]
        names += [f"m{layer}"] if shape.mlp else []
    return names


def upstream(shape: Shape, receiver: str) -> list[str]:
    """The senders that a receiver may read: of lower layers, and for an MLP that is not parallel to them the heads of
    its own layer too."""
    if receiver == "logits":
        return senders(shape)
    own = layer_of(receiver)
    reads_heads = head_of(receiver) is None and not shape.parallel
    return [s for s in senders(shape) if layer_of(s) < own or (reads_heads and layer_of(s) == own and head_of(s))]


def inputs(shape: Shape, layer: int, letter: str) -> list[str]:
    """The inputs of one letter in one layer."""
    return [f"a{layer}.h{head}<{letter}>" for head in range(shape.count(letter))]


def receivers(shape: Shape) -> list[str]:
    names = []
    for layer in range(shape.layers):
        names += [name for letter in "qkv" for name in inputs(shape, layer, letter)]
        names += [f"m{layer}"] if shape.mlp else []
    return names + ["logits"]


def edges(shape: Shape) -> list[str]:
    """Every edge: Addition edges, and a Direct edge for each input of a head where the task has those."""
    names = [f"{s}->{r}" for r in receivers(shape) for s in upstream(shape, r)]
    return names + ([r for r in receivers(shape) if head_of(r)] if shape.direct else [])


def readers(shape: Shape, receiver: str) -> list[str]:
    """The senders whose output depends on a receiver: itself (an MLP), its head, all heads of its group, or, where a
    norm couples them, of its layer."""
    at = head_of(receiver)
    if at is None:
        return [receiver]
    layer, index, letter = at
    if shape.coupled:
        return [f"a{layer}.h{h}" for h in range(shape.heads)]
    return [f"a{layer}.h{h}" for h in range(shape.heads) if (h if letter == "q" else shape.group(h)) == index]


def ordered_senders(shape: Shape, receiver: str, heads: str, nearest: bool) -> list[str]:
    """The senders of a receiver as they are tested: by layer from the nearest, its MLP first, then its heads, and the
    embedding last. ``heads``: descending or ascending among the heads of a layer. Not ``nearest``: the same pieces
    (an MLP, the heads of a layer, an embedding) from the other end."""
    names = upstream(shape, receiver)
    pieces = []
    for layer in range(shape.layers - 1, -1, -1):
        here = [s for s in names if layer_of(s) == layer]
        pieces.append([s for s in here if not head_of(s)])
        pieces.append(
            sorted((s for s in here if head_of(s)), key=lambda s: head_of(s)[1], reverse=heads != "ascending")
        )
    pieces += [[s] for s in names if layer_of(s) < 0]
    if not nearest:
        pieces.reverse()
    return [s for piece in pieces for s in piece]


@dataclass(frozen=True)
class Visit:
    """The tests of one node, ``edges`` in their order; all or none of them are made."""

    receiver: str
    direct: bool
    edges: tuple[str, ...]


def visits(shape: Shape, heads: str, nearest: bool) -> Iterator[Visit]:
    """Receivers from the output down. Per layer: the MLP's input, the Direct edges of all heads letter by letter
    (v, k, q), then the heads' Addition inputs by the same letters; within a letter from the last head to the first."""

    def addition(receiver: str) -> Visit:
        return Visit(
            receiver, False, tuple(f"{s}->{receiver}" for s in ordered_senders(shape, receiver, heads, nearest))
        )

    yield addition("logits")
    for layer in range(shape.layers - 1, -1, -1):
        if shape.mlp:
            yield addition(f"m{layer}")
        here = [name for letter in "vkq" for name in reversed(inputs(shape, layer, letter))]
        if shape.direct:
            for name in here:
                yield Visit(name, True, (name,))
        for name in here:
            yield addition(name)
