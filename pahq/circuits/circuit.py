"""A circuit: which edges of a graph are present. A value; numbers and JSON only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pahq.circuits.graph import Graph, ModelShape, Receiver, build_graph
from pahq.errors import PahqError


@dataclass(frozen=True)
class Circuit:
    """``present[i]`` says whether ``graph.edges[i]`` belongs to the circuit."""

    graph: Graph
    present: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.present) != len(self.graph.edges):
            raise PahqError(f"{len(self.present)} flags for a graph of {len(self.graph.edges)} edges")

    @classmethod
    def from_indices(cls, graph: Graph, indices: Iterable[int]) -> Circuit:
        chosen = set(indices)
        return cls(graph, tuple(i in chosen for i in range(len(graph.edges))))

    @classmethod
    def from_names(cls, graph: Graph, names: Iterable[str]) -> Circuit:
        """The circuit of the edges named; PahqError for a name that the graph lacks."""
        return cls.from_indices(graph, (graph.index_of(name) for name in names))

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(i for i, present in enumerate(self.present) if present)

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the present edges, in the graph's order."""
        return tuple(str(self.graph.edges[i]) for i in self.indices)

    def __len__(self) -> int:
        return sum(self.present)

    def cleaned(self, *, ablation: str = "corrupted") -> Circuit:
        """The circuit without edges that change no output: those on no path from an embedding to the logits.

        ACDC keeps such edges (a Direct edge whose input lost every parent, say). With corrupted prompts a node without
        live input takes its corrupted value either way. Not so under zero and mean ``ablation``: what a node makes of
        ablated inputs (its biases, at least) differs from its ablated output, so there every sender counts as a start.
        """
        every = ablation != "corrupted"
        live = [True] * len(self.graph.senders) if every else self._reached_from_embedding()
        used = self._reaching_logits()
        graph = self.graph
        kept = []
        for receiver in graph.receivers:
            if not self._input_used(receiver, used):
                continue
            parents = [i for i in graph.incoming(receiver) if self.present[i] and live[i - graph.incoming(receiver)[0]]]
            kept += parents
            direct = graph.direct(receiver) if receiver.kind == "head" else None
            if direct is not None and parents and self.present[direct]:
                kept.append(direct)
        return Circuit.from_indices(graph, kept)

    def _online(self, receiver: Receiver) -> bool:
        """Whether a head's projection follows its input (its Direct edge is present, or the graph has none)."""
        direct = self.graph.direct(receiver) if receiver.kind == "head" else None
        return direct is None or self.present[direct]

    def _reached_from_embedding(self) -> list[bool]:
        """By sender: whether some path of present edges leads to it from an embedding."""
        graph, shape = self.graph, self.graph.shape
        live: list[bool] = []

        def fed(receiver: Receiver) -> bool:
            if not self._online(receiver):
                return False
            return any(self.present[i] and live[n] for n, i in enumerate(graph.incoming(receiver)))

        for node in graph.senders:
            if node.kind == "mlp":
                live.append(fed(Receiver("mlp", node.layer)))
            elif node.kind == "head":
                group = node.head // (shape.heads // shape.kv_heads)
                heads = {"q": node.head, "k": group, "v": group}
                live.append(any(fed(Receiver("head", node.layer, heads[letter], letter)) for letter in heads))
            else:
                live.append(True)
        return live

    def _reaching_logits(self) -> list[bool]:
        """By sender: whether some path of present edges leads from it to the logits."""
        used = [False] * len(self.graph.senders)
        for receiver in reversed(self.graph.receivers):
            if self._input_used(receiver, used):
                for n, i in enumerate(self.graph.incoming(receiver)):
                    used[n] = used[n] or self.present[i]
        return used

    def _input_used(self, receiver: Receiver, used: list[bool]) -> bool:
        if receiver.kind == "logits":
            return True
        return self._online(receiver) and any(used[i] for i in outputs_of(self.graph, receiver))

    def to_json(self, *, ablation: str = "corrupted") -> dict[str, Any]:
        """What ``circuit.json`` holds; ``ablation`` decides what cleaning may drop."""
        shape = asdict(self.graph.shape) | {"direct_edges": self.graph.n_direct > 0}
        return {"graph": shape, "edges": list(self.edges), "cleaned": list(self.cleaned(ablation=ablation).edges)}

    @classmethod
    def read(cls, path: str | Path) -> Circuit:
        """Read what ``to_json`` wrote; PahqError in one sentence if the file is no such thing."""
        try:
            data = json.loads(Path(path).read_text())
            shape = dict(data["graph"])
            direct = bool(shape.pop("direct_edges", True))
            graph = build_graph(ModelShape(**shape), direct_edges=direct)
            return cls.from_names(graph, data["edges"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PahqError(f"{path} is not a readable circuit: {error}") from error


def outputs_of(graph: Graph, receiver: Receiver) -> list[int]:
    """The senders computed from this receiver's input: a head (or its key-value group), an MLP, or none (logits)."""
    if receiver.kind == "logits":
        return []
    first = graph.upstream(receiver)
    if receiver.kind == "mlp":
        return [first]
    return [first + head for head in graph.shape.query_heads(receiver.letter, receiver.head)]
