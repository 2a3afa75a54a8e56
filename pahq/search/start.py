"""A search by its names: the engine, the order and the judge that a configuration asks for, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pahq.circuits.order import Order
from pahq.config.cell import CellConfig
from pahq.engine.base import Engine, Resettable, WindowEngine, takes_windows
from pahq.engine.changereference import ChangeReference
from pahq.engine.problem import Problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import ChangeEngine, SuffixEngine
from pahq.engine.suffix.budget import least_bytes
from pahq.errors import PahqError, unknown
from pahq.precision.store import Focus, focus_of
from pahq.search.acdc import Decision, Judge, acdc, as_measured
from pahq.search.audited import audited_search
from pahq.search.doubt import Doubts
from pahq.search.speculate import speculate
from pahq.search.twin import doubts_for, twin_bytes

ENGINES = ("suffix", "reference")


def focus_on(problem: Problem) -> Callable[[int], Focus]:
    """What runs in full precision while an edge (an index) is under test."""
    graph = problem.graph
    return lambda edge: focus_of(graph, graph.edges[edge], problem.focus)


def start_search(
    engine: str,
    problem: Problem,
    order: Order,
    threshold: float,
    *,
    absolute: bool = False,
    done: Sequence[Decision] = (),
    memory_gb: float | None = None,
    share: float = 1.0,
    beside: int = 0,
    judge: Judge = as_measured,
    guesses: Mapping[int, bool] | None = None,
) -> Iterator[Decision]:
    """ACDC on a problem by the engine of that name: ``reference`` one test at a time, ``suffix`` in windows."""
    built = build_engine(engine, problem, memory_gb, share, beside)
    return search_by(built, problem, order, threshold, absolute=absolute, done=done, judge=judge, guesses=guesses)


def search_by(
    engine: Engine,
    problem: Problem,
    order: Order,
    threshold: float,
    *,
    absolute: bool = False,
    done: Sequence[Decision] = (),
    judge: Judge = as_measured,
    guesses: Mapping[int, bool] | None = None,
) -> Iterator[Decision]:
    """ACDC by the problem's ``engine``, which stands at the whole graph: in windows if it takes them.

    ``guesses``: whether edges will be removed, as far as another search tells, for windows alone (``speculate``).
    """
    asked: dict[str, Any] = {"absolute": absolute, "focus": focus_on(problem), "done": done, "judge": judge}
    asked["round_size"] = problem.round_size
    if takes_windows(engine):
        windows: WindowEngine = engine
        return speculate(windows, order, threshold, drift=lambda: windows.drift, guesses=guesses, **asked)
    return acdc(engine, order, threshold, **asked)


def build_engine(
    name: str, problem: Problem, memory_gb: float | None = None, share: float = 1.0, beside: int = 0
) -> Resettable:
    """The engine of that name; PahqError for an unknown one, and for a ceiling of which its part is too little."""
    if name == "suffix":
        ceiling = None if memory_gb is None else int(memory_gb * 2**30)
        kind = SuffixEngine if problem.changes is None else ChangeEngine
        return kind(problem, memory_bytes=ceiling, share=share, beside=beside)
    if name != "reference":
        raise unknown("engine", name, ENGINES)
    if memory_gb is not None:
        raise PahqError("memory_gb is a setting of engine=suffix; engine=reference takes what it takes")
    return ReferenceEngine(problem) if problem.changes is None else ChangeReference(problem)


def search(
    cell: CellConfig,
    problem: Problem,
    done: Sequence[Decision],
    memory_gb: float | None = None,
    full: Problem | None = None,
    doubts: Doubts | None = None,
    guesses: Mapping[int, bool] | None = None,
) -> Iterator[Decision]:
    """The cell's search, going on after the decisions ``done``; ``audit=band`` needs the ``full`` problem.

    ``doubts`` (by default the cell's own, see ``cell_doubts``) judge what float noise could decide. ``guesses``: see
    ``search_by``.
    """
    method, beside = cell.method, 0
    doubts = doubts or cell_doubts(cell, problem, full, memory_gb)
    if memory_gb is not None and _settles(cell):
        beside = twin_bytes(problem if full is None else full)
    least = {id(on): least_bytes(on) for on in (problem, full) if on is not None}

    def part(on: Problem) -> dict[str, Any]:
        """What an engine may take of the ceiling: with an audit there are two, which share it as they need it."""
        return {"memory_gb": memory_gb, "share": least[id(on)] / sum(least.values()), "beside": beside}

    def build(on: Problem) -> Resettable:
        return build_engine(cell.engine.name, on, **part(on))

    def start(on: Problem, judge: Judge, done: Sequence[Decision], engine: Engine | None = None) -> Iterator[Decision]:
        order = Order(method.order, method.senders)
        engine = build(on) if engine is None else engine
        asked: dict[str, Any] = {"absolute": method.absolute, "done": done, "judge": judge, "guesses": guesses}
        return search_by(engine, on, order, cell.search_threshold, **asked)

    if cell.audit != "band":
        for decision in done:
            doubts.repeat(decision)
        return start(problem, doubts, done)
    if full is None:
        raise PahqError("audit=band needs the full-precision network beside the other, which is not at hand here")
    if problem.changes is None:
        return audited_search(cell, build(full), partial(start, problem), partial(start, full), done, doubts)
    engine = build(problem)  # whose state is in full precision, so that it audits itself
    assert isinstance(engine, ChangeEngine | ChangeReference)
    low = partial(start, problem, engine=engine)
    unit, size = problem.format_error, problem.round_size
    return audited_search(cell, engine.exactly, low, partial(start, full), done, doubts, unit=unit, round_size=size)


def cell_doubts(
    cell: CellConfig, problem: Problem, full: Problem | None = None, memory_gb: float | None = None
) -> Doubts:
    """The judge of what float noise could decide, of the network whose effects decide: with an audit the full one."""
    decides = problem if full is None else full
    settle, tight = _settles(cell), memory_gb is not None  # where nothing is settled the twin comes after the search
    return doubts_for(
        decides, cell.search_threshold, absolute=cell.method.absolute, settle=settle, tight=tight and settle
    )


def _settles(cell: CellConfig) -> bool:
    return cell.engine.doubts == "float64" and cell.engine.dtype == "float32"
