"""Circuits and scores in the formats of others: EAP-IG's graph (which MIB's circuit track takes too) and networkx.

EAP-IG's graph (Hanna et al. 2024, arXiv 2403.17806; MIB: arXiv 2504.13151) is a JSON object with ``cfg`` (sizes of the
model), ``nodes`` (each with ``in_graph``) and ``edges`` (each with ``score`` and ``in_graph``). One name is other than
ours: ``input`` is ``embed``. It has one embedding, no Direct edges, and a k and v input for every query head. So

- a head's input whose Direct edge is gone carries its ablated value, as it does without any incoming edge: on the way
  out its edges count as absent, and Direct edges themselves are left out;
- a key-value head's edge becomes one for each of its query heads, on the way out with an equal share of the score; on
  the way in their scores are added up, and the edge is in the circuit if any of them is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Edge, Graph, ModelShape, build_graph
from pahq.errors import PahqError


@dataclass(frozen=True)
class Foreign:
    """What a foreign graph holds: a circuit, and every edge's score (``values``, in the graph's order)."""

    circuit: Circuit
    values: tuple[float, ...]


def to_eap_ig(circuit: Circuit, values: Sequence[float], d_model: int) -> dict[str, Any]:
    """A circuit and every edge's score as EAP-IG's graph; PahqError for graphs that it has not."""
    graph, shape = circuit.graph, circuit.graph.shape
    if shape.split_embed:
        raise PahqError("EAP-IG's graph has one embedding; a circuit with task.split_embed=true has two")
    if not shape.mlp:
        raise PahqError("EAP-IG's graph has an MLP in every layer; this model has none")
    edges: dict[str, dict[str, Any]] = {}
    for index, edge in enumerate(graph.edges[: graph.n_addition]):
        present = circuit.present[index] and graph.online(edge.receiver, circuit.present)
        names = _theirs(graph, edge)
        for name in names:
            edges[name] = {"score": values[index] / len(names), "in_graph": present}
    ends = [name.split("->") for name, of in edges.items() if of["in_graph"]]
    touched = {end.split("<")[0] for pair in ends for end in pair} | {"input", "logits"}
    nodes = {_node(str(sender)): _node(str(sender)) in touched for sender in graph.senders} | {"logits": True}
    return {
        "cfg": {
            "n_layers": shape.layers,
            "n_heads": shape.heads,
            "parallel_attn_mlp": shape.parallel,
            "d_model": d_model,
        },
        "nodes": {name: {"in_graph": there} for name, there in nodes.items()},
        "edges": edges,
    }


def from_eap_ig(values: Any, *, kv_heads: int | None = None, coupled: bool = False) -> Foreign:
    """A circuit and scores from EAP-IG's graph, which does not say of its model how many ``kv_heads`` there are, where
    they are fewer than its heads, nor whether a norm behind the heads makes them ``coupled``.

    Raises PahqError in one sentence for what is no such graph, naming what is missing or not known.
    """
    try:
        cfg, named = values["cfg"], values["edges"]
        layers, heads, parallel = (cfg[key] for key in ("n_layers", "n_heads", "parallel_attn_mlp"))
        known = {str(name): (float(of["score"]), of["in_graph"]) for name, of in named.items()}
        if type(layers) is not int or type(heads) is not int or not isinstance(parallel, bool):
            raise TypeError("n_layers and n_heads are whole numbers, parallel_attn_mlp is true or false")
        if not all(isinstance(present, bool) for _, present in known.values()):
            raise TypeError("in_graph is true or false")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wanted = "cfg, nodes and edges with score and in_graph are needed"
        raise PahqError(f"no graph of EAP-IG: {wanted} ({error})") from None
    if min(layers, heads) < 1 or 3 * layers * heads > len(known):
        raise PahqError(f"no graph of EAP-IG of {layers} layers and {heads} heads has {len(known)} edges")
    mlp = any(name.startswith("m") for name in known)
    shape = ModelShape(layers, heads, kv_heads or heads, mlp=mlp, parallel=parallel and mlp, coupled=coupled)
    graph = build_graph(shape, direct_edges=False)
    places = {name: index for index, edge in enumerate(graph.edges) for name in _theirs(graph, edge)}
    for name, (score, _) in known.items():
        if name not in places:
            raise PahqError(f"no graph of EAP-IG of {layers} layers and {heads} heads has an edge {name!r}")
        if not math.isfinite(score):
            raise PahqError(f"the score of {name} is {score}, which is no finite number")
    missing = next((name for name in places if name not in known), None)
    if missing is not None:
        raise PahqError(f"the graph lacks the edge {missing!r}")
    scores, present = [0.0] * len(graph.edges), [False] * len(graph.edges)
    for name, index in places.items():
        scores[index] += known[name][0]
        present[index] |= known[name][1]
    return Foreign(Circuit(graph, tuple(present)), tuple(scores))


def to_networkx(circuit: Circuit, values: Sequence[float]) -> dict[str, Any]:
    """The circuit's edges as node-link data: what ``networkx.node_link_graph(data, edges="edges")`` reads.

    A directed graph with several edges between two heads (q, k, v), each with its ``score``. A Direct edge is a loop.
    """
    links = [_row(circuit.graph.edges[index], values[index]) for index in circuit.indices]
    names = dict.fromkeys(end for link in links for end in (link["source"], link["target"]))
    for link in links:
        link["key"] = f"{link['letter'] or ''}{' direct' if link['direct'] else ''}".strip()
    nodes = [{"id": name} for name in names]
    return {"directed": True, "multigraph": True, "graph": {}, "nodes": nodes, "edges": links}


def rows(circuit: Circuit, values: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Every edge of the graph as a row of a table: edge, source, target, letter, direct, score, in_circuit."""
    for index, edge in enumerate(circuit.graph.edges):
        yield {"edge": str(edge)} | _row(edge, values[index]) | {"in_circuit": circuit.present[index]}


def _row(edge: Edge, score: float) -> dict[str, Any]:
    target, letter = _plain(str(edge.receiver)), edge.receiver.letter or None
    source = target if edge.sender is None else str(edge.sender)
    return {"source": source, "target": target, "letter": letter, "direct": edge.direct, "score": score}


def _plain(receiver: str) -> str:
    return receiver.split("<")[0]


def _node(name: str) -> str:
    return "input" if name == "embed" else name


def _theirs(graph: Graph, edge: Edge) -> list[str]:
    """An Addition edge's names in EAP-IG's graph: several for a key-value head that serves several query heads."""
    receiver, sender = edge.receiver, _node(str(edge.sender))
    if receiver.kind != "head":
        return [f"{sender}->{receiver}"]
    heads = graph.shape.query_heads(receiver.letter, receiver.head)
    return [f"{sender}->a{receiver.layer}.h{head}<{receiver.letter}>" for head in heads]
