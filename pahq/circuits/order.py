"""The order of visits and tests (Conmy et al. 2023 and its code): a setting, since it changes the circuit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pahq.circuits.graph import Graph, Receiver

LETTER_ORDER = ("v", "k", "q")


@dataclass(frozen=True)
class Order:
    """``indices``: the heads of a layer as senders, descending (ACDC's command line) or ascending (its class default).

    ``senders``: nearest layer first (ACDC's default) or farthest first.
    """

    indices: str = "descending"
    senders: str = "nearest"


@dataclass(frozen=True, slots=True)
class Visit:
    """The tests of one node: the Direct edge of a head's input (``direct``), or all its Addition edges."""

    receiver: Receiver
    direct: bool


def visits(graph: Graph) -> Iterator[Visit]:
    """Every node once, from the output down.

    Per layer: the MLP input; the Direct edges of all heads, letter by letter v, k, q; then the Addition inputs in the
    same letter order. Within a letter heads run from the last to the first, whatever ``Order.indices`` says of senders.
    """
    shape = graph.shape
    yield Visit(Receiver("logits"), direct=False)
    for layer in reversed(range(shape.layers)):
        if shape.mlp:
            yield Visit(Receiver("mlp", layer), direct=False)
        for direct in (True, False) if graph.n_direct else (False,):
            for letter in LETTER_ORDER:
                for head in reversed(range(shape.letter_heads(letter))):
                    yield Visit(Receiver("head", layer, head, letter), direct)


def sender_order(graph: Graph, receiver: Receiver, order: Order) -> list[int]:
    """Indices of the senders of one receiver in the order in which their edges are tested.

    Nearest first: the layer below, its MLP before its heads, and so on down to the embedding (then the position).
    """
    layers: dict[int, list[int]] = {}
    for index, node in enumerate(graph.senders[: graph.upstream(receiver)]):
        layers.setdefault(node.layer, []).append(index)
    ordered: list[list[int]] = []
    for layer in sorted(layers, reverse=True):
        kinds: dict[str, list[int]] = {}
        for index in layers[layer]:
            kinds.setdefault(graph.senders[index].kind, []).append(index)
        heads = kinds.get("head", [])
        if order.indices == "descending":
            heads = heads[::-1]
        ordered += [kinds[kind] for kind in ("mlp", "embed", "pos") if kind in kinds] + ([heads] if heads else [])
    if order.senders == "farthest":
        ordered.reverse()
    return [index for block in ordered for index in block]
