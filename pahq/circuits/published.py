"""Circuits that others published: readable tables (``data/circuits/*.yaml``), expanded to edge names.

A table says which node sends to which, in one of two forms or both:

- ``receivers`` lists the senders of single receivers.
- ``rules`` connect whole classes of nodes, as papers do: every node of ``from`` to every node of ``to`` that lies
  downstream of it. For heads ``into`` says which of the inputs q, k and v are meant.

A head input that receives anything also has its Direct edge (as in ACDC's own ground truths), so tables do not list
those. A published circuit belongs to one model shape; a task of the same kind on another model has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pahq.circuits.graph import LETTERS, Graph, ModelShape
from pahq.errors import PahqError, unknown

TABLES: dict[str, str] = {
    "ioi": "ioi.yaml",
    "greaterthan": "greaterthan.yaml",
    "docstring": "docstring.yaml",
    "tracr-reverse": "tracr-reverse.yaml",
    "tracr-proportion": "tracr-proportion.yaml",
}
_FORM = "model, citation and receivers (receiver: [senders]) or rules (from, to, into: letters of q, k, v)"


@dataclass(frozen=True)
class Rule:
    """All of ``senders`` to all of ``receivers`` downstream of them; both name classes or nodes.

    ``into``: which inputs of heads, as letters; empty for MLPs and logits.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    into: str = ""

    def __str__(self) -> str:
        return f"{', '.join(self.senders)} -> {', '.join(self.receivers)}" + (f" <{self.into}>" if self.into else "")


@dataclass(frozen=True)
class PublishedCircuit:
    """A published circuit before expansion: its model's shape, who says so, and what is connected.

    ``receivers`` maps a receiver to its senders, ``classes`` a class's name to its nodes.
    """

    shape: ModelShape
    citation: tuple[str, ...]
    receivers: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, tuple[str, ...]]
    rules: tuple[Rule, ...]

    def edges(self, graph: Graph) -> frozenset[str]:
        """Names of the circuit's edges in ``graph``; PahqError if the graph lacks one of them.

        A graph without Direct edges gets the Addition edges alone.
        """
        pairs = [(sender, receiver) for receiver, senders in self.receivers.items() for sender in senders]
        for rule in self.rules:
            pairs += self._connected(rule, graph)
        names = [f"{sender}->{receiver}" for sender, receiver in pairs]
        if graph.n_direct:
            names += [receiver for _, receiver in pairs if "<" in receiver]
        for name in names:
            graph.index_of(name)
        return frozenset(names)

    def _connected(self, rule: Rule, graph: Graph) -> list[tuple[str, str]]:
        """The (sender, receiver) pairs of a rule that are edges; PahqError for an unknown name or no pair at all."""
        senders = self._nodes(rule.senders, {str(node) for node in graph.senders})
        receivers = {str(receiver) for receiver in graph.receivers}
        nodes = self._nodes(rule.receivers, {name.split("<")[0] for name in receivers})
        ends = [f"{node}<{letter}>" for node in nodes for letter in rule.into] if rule.into else nodes
        for end in ends:
            if end not in receivers:
                why = "heads need it, MLPs and logits have none"
                raise PahqError(f"rule {rule} of a published circuit has a wrong 'into' for {end} ({why})")
        pairs = [(sender, end) for end in ends for sender in senders if f"{sender}->{end}" in graph.edge_index]
        if not pairs:
            raise PahqError(f"rule {rule} of a published circuit connects nothing: no receiver lies downstream")
        return pairs

    def _nodes(self, names: Iterable[str], known: set[str]) -> list[str]:
        nodes = [node for name in names for node in self.classes.get(name, (name,))]
        for node in nodes:
            if node not in known:
                raise unknown("class or node of a published circuit:", node, [*self.classes, "nodes such as a1.h0, m0"])
        return nodes


def parse_table(table: Mapping[str, Any]) -> PublishedCircuit:
    """The circuit that a table states; PahqError if an entry is missing or of another form."""
    try:
        receivers: Mapping[str, Sequence[str]] = table.get("receivers", {})
        circuit = PublishedCircuit(
            ModelShape(**table["model"]),
            tuple(table["citation"]),
            {str(receiver): tuple(senders) for receiver, senders in receivers.items()},
            {str(name): tuple(nodes) for name, nodes in table.get("classes", {}).items()},
            tuple(_rule(rule) for rule in table.get("rules", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise PahqError(f"a published circuit needs {_FORM}, not {error!r}") from None
    if not (circuit.receivers or circuit.rules):
        raise PahqError(f"a published circuit needs {_FORM}; this one connects nothing")
    return circuit


def _rule(values: Mapping[str, Any]) -> Rule:
    rule = Rule(tuple(values["from"]), tuple(values["to"]), values.get("into", ""))
    surplus = sorted(set(values) - {"from", "to", "into"})
    if surplus:
        raise unknown("key in a rule of a published circuit:", surplus[0], ("from", "to", "into"))
    if not set(rule.into) <= set(LETTERS):
        raise PahqError(f"rule {rule} of a published circuit: 'into' holds letters of q, k and v, not {rule.into!r}")
    return rule


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
