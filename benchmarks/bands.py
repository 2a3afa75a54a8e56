"""What other settings of audit=band would have done, on searches whose every test was measured in both precisions.

    python benchmarks/bands.py --root FOLDER --json FILE       # nano: four tasks, four thresholds, PAHQ
    python benchmarks/bands.py --shape --json FILE             # GPT-2 small's shape, four synthetic models
    ... --rounding calibrated                                  # both with precision.rounding=calibrated

Such a search walks ACDC's own path, so that an audit can be replayed on it, test by test, until a test that it leaves
alone would have fallen otherwise: ``missed`` counts these (the search would have left the path at the first). Replayed
with ``--draws`` seeds of the sample each. Shares are of all tests together; ``worst`` is the largest share of a search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from audit import TASKS
from output import publish
from synthetic import Shape, make_model, make_prompts

from pahq.cell.journal import read_journal
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.band import BandConfig
from pahq.config.cell import RunConfig
from pahq.engine.problem import build_problem
from pahq.experiments.compose import compose_runs
from pahq.search.acdc import Decision, is_removed
from pahq.search.band import Calibration, layers_of
from pahq.search.start import search

WHOLE = ("method=pahq", "audit=band", "band.share=1", "band.hopeless=1")


@dataclass(frozen=True)
class Measured:
    """A search's decisions, each with the losses of both precisions."""

    name: str
    precision: str
    threshold: float
    decisions: Sequence[Decision]
    layer_of: Callable[[int], Hashable]


def nano(root: Path, precisions: Sequence[str], thresholds: Sequence[str], also: Sequence[str]) -> Iterator[Measured]:
    for precision, task, threshold in product(precisions, TASKS, thresholds):
        overrides = (f"task={task}", f"precision={precision}", f"threshold={threshold}", *WHOLE, *also)
        ((cell, _),) = compose_runs(overrides)
        folder = run_cell(cell, RunConfig(root=str(root), wandb="disabled", progress=False)).folder
        lines = read_journal(folder / "decisions.jsonl")
        graph = Circuit.read(folder / "circuit.json").graph
        edges = {str(edge): index for index, edge in enumerate(graph.edges)}
        decisions = [Decision(x.i, edges[x.edge], x.before, x.after, x.removed, audited=True, low=x.low) for x in lines]
        yield Measured(task, precision, float(threshold), decisions, layers_of(graph))


def shapes(
    precisions: Sequence[str], seeds: int, threshold: float, prompts: int, also: Sequence[str]
) -> Iterator[Measured]:
    shape = Shape()
    for precision, seed in product(precisions, range(seeds)):
        ((cell, _),) = compose_runs((f"precision={precision}", f"threshold={threshold}", *WHOLE, *also))
        model, made = make_model(shape, seed=seed), make_prompts(shape, prompts, seed=seed + 1)
        full = build_problem(model, made, metric="kl")
        low = build_problem(model, made, metric="kl", precision=cell.precision, focus="receiver")
        yield Measured(
            f"shape {seed}", precision, threshold, list(search(cell, low, [], full=full)), layers_of(full.graph)
        )


def replay(found: Measured, settings: BandConfig, seed: int) -> tuple[int, int]:
    """Tests audited, and tests missed; a format that is given up has the rest audited. ``seed``: of the sample."""
    known, audited, missed = Calibration(settings, found.threshold, layer_of=found.layer_of, seed=seed), 0, 0
    for decision in found.decisions:
        assert decision.low is not None
        before, after = decision.low
        removed = is_removed(after - before, found.threshold)
        unaudited = Decision(decision.index, decision.edge, before, after, removed)
        if known.hopeless or known.wants(unaudited):
            audited += 1
            known.note(decision)
        else:
            missed += removed != decision.removed
            known.note(replace(unaudited, removed=decision.removed))
    return audited, missed


def errors(searches: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """|effect - full-precision effect| of all tests of a search, and how many fell the other way."""
    for found in searches:
        low = torch.tensor([d.low for d in found.decisions], dtype=torch.float64)  # [test, before and after]
        full = torch.tensor([d.effect for d in found.decisions], dtype=torch.float64)
        off = (low[:, 1] - low[:, 0] - full).abs()
        quantiles = torch.quantile(off, torch.tensor([0.5, 0.99], dtype=torch.float64)).tolist()
        removed = [is_removed(effect, found.threshold) for effect in (low[:, 1] - low[:, 0]).tolist()]
        flipped = sum(one != d.removed for one, d in zip(removed, found.decisions, strict=True))
        yield {
            **{"search": found.name, "precision": found.precision, "threshold": found.threshold, "tests": len(full)},
            **{"median": quantiles[0], "q99": quantiles[1], "largest": float(off.max()), "flipped": flipped},
        }


def rows(searches: Sequence[Measured], draws: int) -> Iterator[dict[str, Any]]:
    usual = BandConfig()
    changes: list[dict[str, Any]] = [{}]
    changes += [{"safety": value} for value in (1.5, 2.0, 3.0, 4.0)]
    changes += [{"near": value} for value in (0.1, 0.15, 0.3)]
    changes += [{"enough": value} for value in (0, 2, 6)]
    changes += [{"least": value} for value in (0.0, 0.1)]
    changes += [{"share": value} for value in (0.0, 0.05)]
    for change in changes:
        settings = usual.model_copy(update=change)
        for precision in dict.fromkeys(found.precision for found in searches):
            chosen = [found for found in searches if found.precision == precision]
            runs = [(found, *replay(found, settings, seed)) for found in chosen for seed in range(draws)]
            tests = sum(len(found.decisions) for found, _, _ in runs)
            yield {
                "precision": precision,
                "change": change,
                "audited": sum(audited for _, audited, _ in runs) / tests,
                "worst": max(audited / len(found.decisions) for found, audited, _ in runs),
                "searches": len(runs),
                "searches_that_miss": sum(missed > 0 for _, _, missed in runs),
                "missed": sum(missed for _, _, missed in runs),
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="where nano's cells are")
    parser.add_argument("--shape", action="store_true", help="GPT-2 small's shape in place of nano")
    parser.add_argument("--precisions", default="int8,fp8")
    parser.add_argument("--thresholds", default="0.003,0.01,0.03,0.1")
    parser.add_argument("--rounding", default="nearest", choices=("nearest", "calibrated"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    precisions = options.precisions.split(",")
    also = (f"precision.rounding={options.rounding}",)
    if options.shape:
        searches = list(shapes(precisions, 4, 0.004, 16, also))
    elif options.root is None:
        parser.error("--root is needed, or --shape")
    else:
        searches = list(nano(options.root, precisions, options.thresholds.split(","), also))
    values = {"torch": torch.__version__, "rounding": options.rounding, "settings": BandConfig().model_dump()}
    publish({**values, "rows": list(rows(searches, options.draws)), "errors": list(errors(searches))}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
