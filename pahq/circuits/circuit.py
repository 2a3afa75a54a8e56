"""A circuit: which edges of a graph are present. A value; numbers and JSON only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pahq.circuits.graph import Graph, ModelShape, Receiver, build_graph
from pahq.errors import PahqError
from pahq.files.text import loads

if TYPE_CHECKING:
    from pahq.circuits.svg import Drawing


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

    def __repr__(self) -> str:
        edges = self.edges
        more = ", ..." if len(edges) > 4 else ""
        return f"Circuit of {len(edges):,} of {len(self.present):,} edges\n{', '.join(edges[:4])}{more}".rstrip()

    def draw(self) -> Drawing:
        """The circuit's picture, every line alike; ``pahq.draw`` knows effects, published edges and files too."""
        from pahq.circuits.picture import draw
        from pahq.circuits.shown import Shown
        from pahq.circuits.svg import Drawing

        return Drawing(draw(Shown(self, f"{len(self):,} of {len(self.present):,} edges")))

    def _repr_svg_(self) -> str:
        return self.draw().svg

    def cleaned(self, *, ablation: str = "corrupted") -> Circuit:
        """The circuit without edges that change no output: those on no path from an embedding to the logits.

        ACDC keeps such edges (a Direct edge whose input lost every parent, say). With corrupted prompts a node without
        live input takes its corrupted value either way. Not so under zero and mean ``ablation``: what a node makes of
        ablated inputs (its biases, at least) differs from its ablated output, so there every sender counts as a start.
        """
        graph, every = self.graph, ablation != "corrupted"
        live = [True] * len(graph.senders) if every else self._reached_from_embedding()
        reaching = graph.reaching_logits(self.present)
        kept = []
        for receiver in graph.receivers:
            if not graph.is_read(receiver, self.present, reaching):
                continue
            parents = [i for n, i in enumerate(graph.incoming(receiver)) if self.present[i] and live[n]]
            kept += parents
            direct = graph.direct(receiver) if receiver.kind == "head" else None
            if direct is not None and parents and self.present[direct]:
                kept.append(direct)
        return Circuit.from_indices(graph, kept)

    def _reached_from_embedding(self) -> list[bool]:
        """By sender: whether some path of present edges leads to it from an embedding."""
        graph = self.graph
        live: list[bool] = []

        def fed(receiver: Receiver) -> bool:
            if not graph.online(receiver, self.present):
                return False
            return any(self.present[i] and live[n] for n, i in enumerate(graph.incoming(receiver)))

        for sender, node in enumerate(graph.senders):
            live.append(node.kind in ("embed", "pos") or any(fed(receiver) for receiver in graph.inputs(sender)))
        return live

    def to_json(self, *, ablation: str = "corrupted") -> dict[str, Any]:
        """What ``circuit.json`` holds; ``ablation`` decides what cleaning may drop."""
        shape = asdict(self.graph.shape) | {"direct_edges": self.graph.n_direct > 0}
        return {"graph": shape, "edges": list(self.edges), "cleaned": list(self.cleaned(ablation=ablation).edges)}

    @classmethod
    def read(cls, path: str | Path) -> Circuit:
        """Read what ``to_json`` wrote; PahqError in one sentence if the file is no such thing."""
        try:
            data = loads(Path(path).read_text())
            shape = dict(data["graph"])
            direct = bool(shape.pop("direct_edges", True))
            graph = build_graph(ModelShape(**shape), direct_edges=direct)
            return cls.from_names(graph, data["edges"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PahqError(f"{path} is not a readable circuit: {error}") from error
