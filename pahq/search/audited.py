"""A cell with ``audit=band``: its search, and what its result says of the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pahq.config.cell import CellConfig
from pahq.engine.base import Engine
from pahq.engine.problem import Problem
from pahq.model.weights import Model
from pahq.precision.bits import bits_share
from pahq.precision.store import focus_of
from pahq.search.acdc import Decision, Judge
from pahq.search.band import Auditor, Calibration, banded, layers_of, record
from pahq.search.doubt import Doubts
from pahq.search.rounds import passes_of, stages_of

Start = Callable[[Judge, Sequence[Decision]], Iterator[Decision]]  # begins a search after decisions that are done


def audited_search(
    cell: CellConfig,
    exact: Engine,
    low: Start,
    full: Start,
    done: Sequence[Decision],
    doubts: Doubts,
    *,
    unit: float = 1.0,
    round_size: int | None = None,
) -> Iterator[Decision]:
    """The cell's search by ``low``, audited by the full-precision engine ``exact``, ended by ``full`` if hopeless.

    ``doubts``, of the full-precision network, settle what float noise could decide. ``unit``: see ``Calibration``;
    ``round_size``: see ``Auditor``.
    """
    calibration = Calibration(cell.band, cell.search_threshold, cell.method.absolute, layers_of(exact.graph), unit)
    return banded(low, full, Auditor(exact, calibration, doubts, round_size=round_size), calibration, done)


def audit_record(
    cell: CellConfig, model: Model, full: Problem, decisions: Sequence[Decision], unit: float = 1.0
) -> dict[str, Any]:
    """What the audit did, how sure it is, and the bits it all took."""
    absolute, edges, layer_of = cell.method.absolute, full.graph.edges, layers_of(full.graph)
    values = record(decisions, cell.search_threshold, cell.band, absolute=absolute, layer_of=layer_of, unit=unit)
    low = [decision for decision in decisions if decision.low or not decision.audited]
    focused = sum(len(focus_of(full.graph, edges[decision.edge], cell.method.focus)) for decision in low)
    passes = 0
    if cell.method.arithmetic == "changes":
        last = len(decisions) if values["hopeless_at"] is None else values["hopeless_at"] + 1
        passes = passes_of(decisions[:last], cell.method.round, stages_of(full.graph))
    values["bits_share"] = bits_share(
        model, cell.precision, low=len(low), focused=focused, full=values["tests"] + passes, tests=len(decisions)
    )
    return values
