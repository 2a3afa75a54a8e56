"""The computational graph that a circuit search prunes: nodes, receivers, edges.

Conmy et al. 2023 (ACDC, arXiv 2304.14997), section 2 and its released code. Pure values: no tensors here.

Three facts carry everything below. Senders are listed in the order in which the model computes them, so the
senders upstream of a receiver are always a *prefix* of that list. An Addition edge's index is therefore its
receiver's offset plus its sender's index. Placeholder edges (a head's q, k, v to its output, an MLP's input to its
output) are never tested and never counted; which sender a receiver feeds is what ``Graph.outputs`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from pahq.errors import PahqError

LETTERS = ("q", "k", "v")
LARGEST = 200_000_000  # edges: 1.3 times those of Llama-3-405B; a file that speaks of more is refused, not built


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides its graph.

    ``kv_heads`` < ``heads`` is grouped-query attention: k and v inputs exist once per key-value head.
    ``split_embed`` makes token and position embedding two senders (as ACDC's ``use_pos_embed``).
    ``parallel``: a layer's MLP reads the stream that its heads read, so that no edge leads from these heads to it.
    ``coupled``: a norm stands behind the heads, which divides what all heads of a layer send by one number, so that
    what enters one of them changes what each of them sends.
    """

    layers: int
    heads: int
    kv_heads: int
    mlp: bool
    split_embed: bool = False
    parallel: bool = False
    coupled: bool = False

    def __post_init__(self) -> None:
        if any(type(count) is not int for count in (self.layers, self.heads, self.kv_heads)):
            raise PahqError(f"layers, heads and key-value heads are whole numbers; got {self}")
        if min(self.layers, self.heads, self.kv_heads) < 1:
            raise PahqError(f"a model needs at least one layer, head and key-value head; got {self}")
        if self.heads % self.kv_heads:
            raise PahqError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if self.parallel and not self.mlp:
            raise PahqError("a model without MLPs has none that could run in parallel with its heads")
        if self.layers**2 * (self.heads + 1) * (self.heads + 2 * self.kv_heads + 1) > 2 * LARGEST:
            raise PahqError(f"a model of {self.layers} layers of {self.heads} heads has more than {LARGEST:,} edges")

    def letter_heads(self, letter: str) -> int:
        """How many inputs the letter has in one layer: heads for q, key-value heads for k and v."""
        return self.heads if letter == "q" else self.kv_heads

    def query_heads(self, letter: str, head: int) -> range:
        """The heads that read input ``head`` of ``letter``: itself, or its whole key-value group."""
        if letter == "q":
            return range(head, head + 1)
        group = self.heads // self.kv_heads
        return range(head * group, (head + 1) * group)


class Node(NamedTuple):
    """A sender: ``embed`` (or ``embed`` and ``pos``), a head's output ``a3.h2``, an MLP's output ``m5``."""

    kind: str  # embed | pos | head | mlp
    layer: int = -1
    head: int = 0

    def __str__(self) -> str:
        if self.kind == "head":
            return f"a{self.layer}.h{self.head}"
        return f"m{self.layer}" if self.kind == "mlp" else self.kind


class Receiver(NamedTuple):
    """Where edges end: a head's input ``a5.h1<q>``, an MLP's input ``m5``, or ``logits``.

    With grouped-query attention ``head`` counts key-value heads for the letters k and v.
    """

    kind: str  # head | mlp | logits
    layer: int = -1
    head: int = 0
    letter: str = ""

    def __str__(self) -> str:
        if self.kind == "head":
            return f"a{self.layer}.h{self.head}<{self.letter}>"
        return f"m{self.layer}" if self.kind == "mlp" else self.kind


@dataclass(frozen=True, slots=True)
class Edge:
    """An Addition edge ``a3.h2->a5.h1<q>``, or (no sender) the Direct edge ``a5.h1<q>``.

    The Direct edge runs from a head's input to its projection; absent, the projection keeps its corrupted value.
    """

    sender: Node | None
    receiver: Receiver

    @property
    def direct(self) -> bool:
        return self.sender is None

    def __str__(self) -> str:
        return str(self.receiver) if self.sender is None else f"{self.sender}->{self.receiver}"


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of one model shape; an edge's position in ``edges`` is its index.

    ``senders`` and ``receivers`` stand in the order of computation. ``edges`` lists the Addition edges receiver by
    receiver (each over ``senders[:upstream(receiver)]``), then the Direct edges in the order of ``head_inputs``.
    """

    shape: ModelShape
    senders: tuple[Node, ...]
    receivers: tuple[Receiver, ...]
    offsets: tuple[int, ...]  # first Addition edge of each receiver; one more entry: the first Direct edge
    edges: tuple[Edge, ...]

    def __repr__(self) -> str:
        shape = self.shape
        return f"Graph of {shape.layers} layers of {shape.heads} heads: {self.n_addition:,} + {self.n_direct:,} edges"

    @cached_property
    def sender_index(self) -> dict[Node, int]:
        return {node: i for i, node in enumerate(self.senders)}

    @cached_property
    def receiver_index(self) -> dict[Receiver, int]:
        return {receiver: i for i, receiver in enumerate(self.receivers)}

    @cached_property
    def head_inputs(self) -> tuple[Receiver, ...]:
        return tuple(receiver for receiver in self.receivers if receiver.kind == "head")

    @cached_property
    def edge_index(self) -> dict[str, int]:
        """Index of every edge by its name."""
        return {str(edge): i for i, edge in enumerate(self.edges)}

    @cached_property
    def _direct_index(self) -> dict[Receiver, int]:
        return {receiver: self.offsets[-1] + i for i, receiver in enumerate(self.head_inputs)}

    @property
    def n_addition(self) -> int:
        return self.offsets[-1]

    @property
    def n_direct(self) -> int:
        return len(self.edges) - self.offsets[-1]

    def upstream(self, receiver: Receiver) -> int:
        """How many senders lie upstream of the receiver: always the first so many of ``senders``."""
        i = self.receiver_index[receiver]
        return self.offsets[i + 1] - self.offsets[i]

    def head_senders(self, layer: int) -> range:
        """The heads of a layer, as indices of ``senders``."""
        first = self.sender_index[Node("head", layer)]
        return range(first, first + self.shape.heads)

    def outputs(self, receiver: Receiver) -> range:
        """The senders computed from this receiver's input: a head (or its key-value group), an MLP, or none (logits).

        Where a norm couples the heads of a layer, each of them is computed from what any of them reads.
        The index of an MLP as a sender is not how many senders it reads: a parallel MLP stands behind heads that it
        does not read.
        """
        return self._outputs[receiver]

    def inputs(self, sender: int) -> tuple[Receiver, ...]:
        """The receivers that sender number ``sender`` is computed from: q, k and v of a head, an MLP's input, none.

        Of a head behind which a norm stands: q, k and v of all heads of its layer.
        """
        return self._inputs[sender]

    def own_inputs(self, sender: int) -> tuple[Receiver, ...]:
        """Of these a head's own: its q, and k and v of its group."""
        return self._own_inputs[sender]

    @cached_property
    def _own_inputs(self) -> tuple[tuple[Receiver, ...], ...]:
        of, heads = self.shape.query_heads, [node.head for node in self.senders]
        every = zip(self._inputs, heads, strict=True)
        return tuple(tuple(at for at in own if at.kind == "mlp" or h in of(at.letter, at.head)) for own, h in every)

    @cached_property
    def _outputs(self) -> dict[Receiver, range]:
        return {receiver: self._outputs_of(receiver) for receiver in self.receivers}

    def _outputs_of(self, receiver: Receiver) -> range:
        if receiver.kind == "logits":
            return range(0)
        if receiver.kind == "mlp":
            sender = self.sender_index[Node("mlp", receiver.layer)]
            return range(sender, sender + 1)
        shape, first = self.shape, self.head_senders(receiver.layer).start
        heads = range(shape.heads) if shape.coupled else shape.query_heads(receiver.letter, receiver.head)
        return range(first + heads.start, first + heads.stop)

    @cached_property
    def _inputs(self) -> tuple[tuple[Receiver, ...], ...]:
        inputs: list[list[Receiver]] = [[] for _ in self.senders]
        for receiver in self.receivers:
            for sender in self.outputs(receiver):
                inputs[sender].append(receiver)
        return tuple(map(tuple, inputs))

    def incoming(self, receiver: Receiver) -> range:
        """Indices of the receiver's Addition edges, in the order of ``senders``."""
        i = self.receiver_index[receiver]
        return range(self.offsets[i], self.offsets[i + 1])

    def direct(self, receiver: Receiver) -> int | None:
        """Index of the Direct edge of a head's input; None where the graph has no Direct edges."""
        return self._direct_index[receiver] if self.n_direct else None

    def online(self, receiver: Receiver, present: Sequence[bool]) -> bool:
        """Whether what is computed from this receiver's input follows it: no Direct edge of it is absent.

        ``present`` says of every edge whether it is there.
        """
        direct = self.direct(receiver) if receiver.kind == "head" else None
        return direct is None or present[direct]

    def reaching_logits(self, present: Sequence[bool]) -> list[bool]:
        """By sender: whether some path of ``present`` edges leads from it to the logits.

        A path through a layer whose heads are coupled may leave it by another head than it entered.
        """
        reaching = [False] * len(self.senders)
        for receiver in reversed(self.receivers):
            if self.is_read(receiver, present, reaching):
                for sender, edge in enumerate(self.incoming(receiver)):
                    reaching[sender] = reaching[sender] or present[edge]
        return reaching

    def is_read(self, receiver: Receiver, present: Sequence[bool], reaching: Sequence[bool]) -> bool:
        """Whether the logits hang on the receiver's input, given which senders have a path to them."""
        if receiver.kind == "logits":
            return True
        return self.online(receiver, present) and any(reaching[sender] for sender in self.outputs(receiver))

    def index_of(self, name: str) -> int:
        """Index of the edge called ``name``; PahqError if this graph has none of that name."""
        try:
            return self.edge_index[name]
        except KeyError:
            raise PahqError(
                f"the graph has no edge {name!r}; edges look like a1.h0->a2.h3<q>, m0->logits or a2.h3<q>"
            ) from None


def build_graph(shape: ModelShape, *, direct_edges: bool = True) -> Graph:
    """The graph of a model shape, every edge included; without ``direct_edges`` projections are always online.

    Its nodes stand in the order of computation, which this function alone states; the order of a search's visits is
    that one reversed (``pahq.circuits.order``). How layers are wired is said in ``pahq.model.block``; of that the graph
    needs ``shape.parallel`` alone.

    Counts (Addition + Direct) agree with ACDC's own: 32,491 + 432 for GPT-2 small.
    """
    if not isinstance(shape, ModelShape):
        raise PahqError(f"a ModelShape was expected, not {type(shape).__name__}; a model has one: model.config.shape()")
    return _built(shape, direct_edges)


@lru_cache(maxsize=8)  # a graph is a value: whoever reads hundreds of circuits of one shape has it once
def _built(shape: ModelShape, direct_edges: bool) -> Graph:
    senders: list[Node] = [Node("embed")]
    if shape.split_embed:
        senders.append(Node("pos"))
    receivers: list[Receiver] = []
    offsets = [0]
    edges: list[Edge] = []

    def receive(receiver: Receiver, upstream: int) -> None:
        receivers.append(receiver)
        edges.extend(Edge(sender, receiver) for sender in senders[:upstream])
        offsets.append(len(edges))

    for layer in range(shape.layers):
        below = len(senders)
        for letter in LETTERS:
            for head in range(shape.letter_heads(letter)):
                receive(Receiver("head", layer, head, letter), below)
        senders.extend(Node("head", layer, head) for head in range(shape.heads))
        if shape.mlp:
            receive(Receiver("mlp", layer), below if shape.parallel else len(senders))
            senders.append(Node("mlp", layer))
    receive(Receiver("logits"), len(senders))
    if direct_edges:
        edges.extend(Edge(None, receiver) for receiver in receivers if receiver.kind == "head")
    return Graph(shape, tuple(senders), tuple(receivers), tuple(offsets), tuple(edges))
