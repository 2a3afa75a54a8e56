"""The order of visits and tests (Conmy et al. 2023 and its code): a setting, since it changes the circuit.

A search goes from the output down, so its visits follow the order of computation (``Graph.receivers``) reversed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from pahq.circuits.graph import Graph, Node, Receiver


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


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive visits whose tests may be measured together, since none of these nodes reads another one.

    A stage holds the logits, one layer's MLP, or one layer's head inputs of one letter (their Direct edges, or their
    Addition edges).
    """

    receivers: tuple[Receiver, ...]
    direct: bool

    @property
    def kind(self) -> str:
        return self.receivers[0].kind

    @property
    def layer(self) -> int:
        return self.receivers[0].layer

    @property
    def visits(self) -> tuple[Visit, ...]:
        return tuple(Visit(receiver, self.direct) for receiver in self.receivers)


def stages(graph: Graph) -> Iterator[Stage]:
    """Every stage once, from the output down.

    Per layer: the MLP input; the Direct edges of all heads, letter by letter v, k, q; then the Addition inputs in the
    same letter order. Within a letter heads run from the last to the first, whatever ``Order.indices`` says of senders.
    """
    for (kind, _), members in groupby(reversed(graph.receivers), key=lambda at: (at.kind, at.layer)):
        letters = [tuple(of) for _, of in groupby(members, key=lambda at: at.letter)]
        for direct in (True, False) if kind == "head" and graph.n_direct else (False,):
            yield from (Stage(receivers, direct) for receivers in letters)


def stage_numbers(graph: Graph) -> dict[Visit, int]:
    """The number of every visit's stage, counted from the output down."""
    return {visit: number for number, stage in enumerate(stages(graph)) for visit in stage.visits}


def visits(graph: Graph) -> Iterator[Visit]:
    """Every node's visits, in the order of ``stages``."""
    return (visit for stage in stages(graph) for visit in stage.visits)


def sender_order(graph: Graph, receiver: Receiver, order: Order) -> Sequence[int]:
    """Indices of the senders of one receiver in the order in which their edges are tested.

    Nearest first: the layer below, its MLP before its heads, and so on down to the embedding (then the position).
    """
    return _ordered(graph.senders[: graph.upstream(receiver)], order)


@lru_cache(maxsize=256)  # all receivers of a layer that read the heads' stream have the same senders
def _ordered(senders: tuple[Node, ...], order: Order) -> tuple[int, ...]:
    layers: dict[int, list[int]] = {}
    for index, node in enumerate(senders):
        layers.setdefault(node.layer, []).append(index)
    ordered: list[list[int]] = []
    for layer in sorted(layers, reverse=True):
        kinds: dict[str, list[int]] = {}
        for index in layers[layer]:
            kinds.setdefault(senders[index].kind, []).append(index)
        heads = kinds.get("head", [])
        if order.indices == "descending":
            heads = heads[::-1]
        ordered += [kinds[kind] for kind in ("mlp", "embed", "pos") if kind in kinds] + ([heads] if heads else [])
    if order.senders == "farthest":
        ordered.reverse()
    return tuple(index for block in ordered for index in block)
