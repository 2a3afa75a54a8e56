"""``pahq verify DIR``: run a recorded search or a stored cell again on this machine and compare test by test.

A stored cell's files are checked first: a damaged one is named, and nothing is run again. Recorded scores are computed
again and compared edge by edge, with the circuits that were made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError

from pahq.cell.files import read_cell
from pahq.cell.journal import read_journal
from pahq.cell.provenance import check_weights
from pahq.cell.run import rerun
from pahq.cell.story import check_cell, damaged_beside
from pahq.config.cell import CellConfig
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.files.text import read_json
from pahq.model.sources.find import check_device
from pahq.precision.levels import levels_digest
from pahq.search.acdc import Decision, margin
from pahq.search.start import ENGINES, start_search
from pahq.sentences import one_sentence
from pahq.verify.recorded import RecordedRun, RecordedTest, check_edges, read_recorded
from pahq.verify.recordedscores import ScoresComparison, has_scores, read_recorded_scores, replay_scores
from pahq.verify.scoredcell import replay_scores_of

TOLERANCE = 1e-5  # of an effect, in the metric's units; what float32 engines differ by is a hundredth of it


@dataclass(frozen=True)
class Comparison:
    """What a replay found. ``first`` describes the first disagreement, None if there is none.

    ``settled``: tests of the replay that float noise could have decided, and float64 did.
    """

    name: str
    tests: int
    equal: int
    worst: float
    margin: float
    first: str | None
    settled: int = 0

    def __str__(self) -> str:
        verdict = "agrees" if self.first is None else f"DISAGREES: {self.first}"
        settled = f", {self.settled} settled in float64" if self.settled else ""
        return (
            f"{self.name}: {self.equal} of {self.tests} tests equal{settled}, worst difference of effect "
            f"{self.worst:.1e}, smallest margin to the threshold {self.margin:.1e}: {verdict}"
        )


def compare(
    name: str,
    recorded: Sequence[RecordedTest],
    replayed: Iterator[Decision],
    edge_name: Callable[[int], str],
    threshold: float,
    *,
    absolute: bool = False,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Hold a replay against the record: same edges in the same order, same decisions, effects within ``tolerance``."""
    decisions = list(replayed)
    equal, worst, first = 0, 0.0, None
    for i, (old, new) in enumerate(zip(recorded, decisions, strict=False)):
        edge, difference = edge_name(new.edge), abs(new.effect - old.effect)
        if edge != old.edge:
            fault = f"test {i} is of {edge}, recorded {old.edge}"
        elif new.removed == old.kept:
            fault = (
                f"test {i} of {edge} {'removed' if new.removed else 'kept'} it (effect {new.effect:.6g}), "
                f"recorded {'kept' if old.kept else 'removed'} ({old.effect:.6g})"
            )
        else:
            worst = max(worst, difference)
            fault = f"test {i} of {edge} has effect {new.effect:.6g}, recorded {old.effect:.6g}"
            if difference <= tolerance:
                equal += 1
                continue
        first = first or fault
    if first is None and len(recorded) != len(decisions):
        first = f"{len(decisions)} tests, recorded {len(recorded)}"
    smallest = min((margin(test.effect, threshold, absolute=absolute) for test in recorded), default=float("inf"))
    settled = sum(decision.rough is not None for decision in decisions)
    return Comparison(name, max(len(recorded), len(decisions)), equal, worst, smallest, first, settled)


def replay(run: RecordedRun, *, engine: str, dtype: str, device: str) -> Comparison:
    """Run a recorded search again."""
    problem = build_problem(
        run.model.to(dtype=getattr(torch, dtype), device=device),
        run.prompts,
        metric=run.metric,
        ablation=run.ablation,
        split_embed=run.split_embed,
        direct_edges=run.direct_edges,
    )
    check_edges(run, problem.graph)
    search = start_search(engine, problem, run.order, run.threshold, absolute=run.absolute)

    def name(edge: int) -> str:
        return str(problem.graph.edges[edge])

    return compare(run.name, run.tests, search, name, run.threshold, absolute=run.absolute)


def replay_cell(folder: Path, *, engine: str | None, dtype: str | None, device: str) -> Comparison | ScoresComparison:
    """Run a stored cell's search again, audits and doubts as it had them, and compare with its journal.

    Where the cell's method scores edges, its scores are computed again.

    ``engine`` and ``dtype`` are the cell's own unless given. Raises PahqError for a cell that is not finished or whose
    files are damaged, for other weights than its own, and for an engine that cannot search it.
    """
    result = check_cell(folder)
    for damage in damaged_beside(folder):
        raise damage
    cell = read_cell(folder / "config.json")
    check_weights(folder, cell, result)
    if cell.method.scores:
        if engine is not None:
            raise PahqError(f"{cell.id} has scores, which no search's engine computes: leave --engine out")
        return replay_scores_of(folder, cell, _on(cell, None, dtype), device)
    lines = read_journal(folder / "decisions.jsonl")
    recorded = [RecordedTest(line.edge, line.after - line.before, not line.removed) for line in lines]
    problem, search = rerun(_on(cell, engine, dtype), device)

    def name(edge: int) -> str:
        return str(problem.graph.edges[edge])

    found = compare(cell.id, recorded, search, name, cell.search_threshold, absolute=cell.method.absolute)
    own = dtype in (None, cell.engine.dtype)
    levels = read_json(folder / "provenance.json").get("levels") if own else None
    if found.first and levels and levels != levels_digest(problem.changes or problem.store):
        return replace(found, first=f"calibrated rounding chose other levels here; {found.first}")
    return found


def _on(cell: CellConfig, engine: str | None, dtype: str | None) -> CellConfig:
    """The same cell on another engine or in another dtype, where one is given."""
    typed = {key: value for key, value in (("name", engine), ("dtype", dtype)) if value is not None}
    values = cell.model_dump(mode="json")
    try:
        return CellConfig.model_validate(values | {"engine": values["engine"] | typed})
    except ValidationError as error:
        raise PahqError(one_sentence(error, CellConfig)) from None


_OF_A_CELL = ("decisions.jsonl", "circuit.json", "provenance.json")  # which recorded runs have none of


def verify(
    folder: Path, *, engine: str | None = None, dtype: str | None = None, device: str = "cpu"
) -> Sequence[Comparison | ScoresComparison]:
    """Replay everything recorded in ``folder``: original runs (by default suffix, float32), scores (by default float64)
    or a cell of this project.

    Raises PahqError for what cannot be replayed, a damaged cell among it.
    """
    check_device(device)
    if any((folder / name).exists() for name in _OF_A_CELL):
        return [replay_cell(folder, engine=engine, dtype=dtype, device=device)]
    if has_scores(folder):
        if engine is not None:
            raise PahqError(f"{folder} records scores, which no search's engine computes: leave --engine out")
        return list(replay_scores(read_recorded_scores(folder), dtype=dtype or "float64", device=device))
    runs = read_recorded(folder)
    return [replay(run, engine=engine or ENGINES[0], dtype=dtype or "float32", device=device) for run in runs]
