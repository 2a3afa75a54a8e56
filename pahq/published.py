"""Circuits that others published: readable tables (``data/circuits/*.yaml``), expanded to edge names.

A table says what each receiver receives. One rule completes it: a head input that receives anything has its
Direct edge too (as in ACDC's own ground truths). A published circuit belongs to one model shape; a task of
the same kind on another model has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pahq.errors import PahqError
from pahq.graph import Graph, ModelShape

TABLES: dict[str, str] = {"tracr-reverse": "tracr-reverse.yaml", "tracr-proportion": "tracr-proportion.yaml"}


@dataclass(frozen=True)
class PublishedCircuit:
    """A published circuit before expansion: its model's shape, who says so, senders by receiver."""

    shape: ModelShape
    citation: tuple[str, ...]
    receivers: Mapping[str, tuple[str, ...]]

    def edges(self, graph: Graph) -> frozenset[str]:
        """Names of the circuit's edges in ``graph``; PahqError if the graph lacks one of them.

        A graph without Direct edges gets the Addition edges alone.
        """
        names = [f"{sender}->{receiver}" for receiver, senders in self.receivers.items() for sender in senders]
        if graph.n_direct:
            names += [receiver for receiver, senders in self.receivers.items() if senders and "<" in receiver]
        for name in names:
            graph.index_of(name)
        return frozenset(names)


def parse_table(table: Mapping[str, Any]) -> PublishedCircuit:
    """The circuit that a table states; PahqError if an entry is missing or of another form."""
    try:
        receivers: Mapping[str, Sequence[str]] = table["receivers"]
        return PublishedCircuit(
            ModelShape(**table["model"]),
            tuple(table["citation"]),
            {str(receiver): tuple(senders) for receiver, senders in receivers.items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PahqError(
            f"a published circuit needs model, citation and receivers (receiver: [senders]), not {error!r}"
        ) from None


@cache
def read_published(task_kind: str) -> PublishedCircuit | None:
    """The published circuit of a task kind, or None where this project ships none."""
    if task_kind not in TABLES:
        return None
    text = (files("pahq.data") / "circuits" / TABLES[task_kind]).read_text(encoding="utf-8")
    return parse_table(yaml.safe_load(text))


def published_circuit(task_kind: str, graph: Graph) -> frozenset[str] | None:
    """Edge names of the published circuit of ``task_kind`` for this graph's model shape, or None."""
    published = read_published(task_kind)
    if published is None or published.shape != graph.shape:
        return None
    return published.edges(graph)
