"""Low precision for the whole network against low precision for changes alone, on the same searches.

    python benchmarks/changes.py --json FILE                         # nano: four tasks, four thresholds, every format
    python benchmarks/changes.py --shape --json FILE                 # GPT-2 small's shape, synthetic weights
    ... --tasks nano-ioi --thresholds 0.01 --precisions int8,tf32    # a part of it
    ... --tests 2000                                                 # the first 2,000 tests of each search

Each row is one problem, threshold, precision and arithmetic, searched three times. First every test is measured in low
and in full precision and decided by the latter, so that all rows of a problem walk ACDC's own path, and errors are of
the very same tests: errors of effects relative to |effect| (of effects above a third of the threshold) and to |effect|
+ threshold (which is what an audit's band is told in), by layer and by size of the effect, and ``wrong``, the tests
that low precision would have decided otherwise. Then without an audit and with ``audit=band`` as it is by default: kept
edges that differ from ACDC's, and the share of tests that was audited. ``tf32`` and ``bf16-products`` round both
operands of products. Seconds are of the process's own CPU time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import torch
from output import publish
from synthetic import Shape, make_model, make_prompts

from pahq.cell.run import load
from pahq.config.cell import CellConfig
from pahq.engine.problem import Problem, cell_problem, full_problem
from pahq.experiments.compose import compose_runs
from pahq.model.weights import Model
from pahq.search.acdc import Decision, is_removed
from pahq.search.band import layers_of
from pahq.search.start import search
from pahq.tasks.task import Prompts

NANO = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")
PRECISIONS = ("tf32", "bf16", "bf16-products", "int8", "fp8", "int4", "int4s", "nf4")
PRODUCTS = {  # what is no file of conf/precision
    "tf32": ("precision=float32", "precision.compute=tf32"),
    "bf16-products": ("precision=bf16", "precision.compute=bf16"),
}
METHODS = {"network": "pahq", "changes": "pahq-changes"}
WHOLE = ("audit=band", "band.share=1", "band.hopeless=1")
SIZES = (0.0, 0.1, 1 / 3, 1.0, 3.0, 10.0, float("inf"))  # of an effect, in thresholds


@dataclass(frozen=True)
class Ground:
    """What is searched: a model on prompts, by its name."""

    name: str
    model: Model
    prompts: Prompts
    words: tuple[str, ...] = ()


def nano(tasks: Iterable[str]) -> Iterator[Ground]:
    for name in tasks:
        model, task = load(composed(f"task={name}", "method=acdc"), "cpu")
        yield Ground(name, model, task.search, (f"task={name}",))


def shape(prompts: int) -> Iterator[Ground]:
    yield Ground("gpt2-small shape", make_model(Shape()), make_prompts(Shape(), prompts))


def composed(*words: str) -> CellConfig:
    ((cell, _),) = compose_runs(words)
    return cell


def searched(ground: Ground, cell: CellConfig, tests: int | None) -> tuple[Problem, list[Decision], float]:
    """The cell's search on a ground, or its first ``tests``, and the CPU seconds that it took, set-up not counted."""
    problem = cell_problem(cell, ground.model, ground.prompts)
    full = full_problem(cell, ground.model, ground.prompts, problem) if cell.audit == "band" else None
    clock = time.process_time()
    decisions = list(islice(search(cell, problem, [], full=full), tests))
    return problem, decisions, time.process_time() - clock


def kept(decisions: Sequence[Decision]) -> frozenset[int]:
    return frozenset(decision.edge for decision in decisions if not decision.removed)


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    if not values:
        return {"tests": 0, "median": None, "q95": None, "largest": None}
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95)]
    return {"tests": len(ordered), "median": at[0], "q95": at[1], "largest": ordered[-1]}


def errors(decisions: Sequence[Decision], threshold: float, layer_of: Callable[[int], Any]) -> dict[str, Any]:
    """How far effects are off along a search whose every test was measured in both precisions."""
    told = [(decision, d_low[1] - d_low[0]) for decision in decisions if (d_low := decision.low) is not None]
    off = [(d, abs(low - d.effect), abs(low - d.effect) / (abs(low) + threshold)) for d, low in told]
    layers = dict.fromkeys(layer_of(d.edge) for d, *_ in off)
    return {
        "absolute": summary([error for _, error, _ in off]),
        "over_effect": summary([error / abs(d.effect) for d, error, _ in off if abs(d.effect) > threshold / 3]),
        "over_effect_and_threshold": summary([relative for *_, relative in off]),
        "by_layer": {
            str(layer): summary([relative for d, _, relative in off if layer_of(d.edge) == layer]) for layer in layers
        },
        "by_effect_in_thresholds": {
            f"{low:.2g} to {high:.2g}": summary(
                [relative for d, _, relative in off if low * threshold <= abs(d.effect) < high * threshold]
            )
            for low, high in pairwise(SIZES)
        },
        "wrong": sum(is_removed(low, threshold) != d.removed for d, low in told),
    }


def row(
    ground: Ground, threshold: str, precision: str, arithmetic: str, acdc: Sequence[Decision], tests: int | None
) -> dict[str, Any]:
    words = (*ground.words, f"threshold={threshold}", f"method={METHODS[arithmetic]}")
    words += PRODUCTS.get(precision, (f"precision={precision}",))
    problem, every, _ = searched(ground, composed(*words, *WHOLE), tests)
    _, alone, seconds_alone = searched(ground, composed(*words), tests)
    _, audited, seconds_audited = searched(ground, composed(*words, "audit=band"), tests)
    if kept(every) != kept(acdc):
        raise AssertionError(f"{words}: decided in full precision everywhere, and not ACDC's circuit")
    return {
        **{"problem": ground.name, "threshold": float(threshold), "precision": precision, "arithmetic": arithmetic},
        **{"tests": len(every), "kept": len(kept(acdc))},
        "format_error": problem.format_error if arithmetic == "changes" else None,
        **errors(every, float(threshold), layers_of(problem.graph)),
        "differing": len(kept(alone) ^ kept(acdc)),
        "differing_audited": len(kept(audited) ^ kept(acdc)),
        "audited_share": sum(decision.audited for decision in audited) / len(audited),
        "seconds": round(seconds_alone, 2),
        "seconds_audited": round(seconds_audited, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(NANO))
    parser.add_argument("--thresholds", default="0.01,0.001,0.0001,0.00001")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--arithmetics", default=",".join(METHODS))
    parser.add_argument("--shape", action="store_true", help="GPT-2 small's shape in place of nano")
    parser.add_argument("--prompts", type=int, default=16, help="of --shape")
    parser.add_argument("--tests", type=int, help="of each search, from its beginning; without it all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    report = {"torch": torch.__version__, "rows": rows}
    for ground in shape(options.prompts) if options.shape else nano(options.tasks.split(",")):
        for threshold in options.thresholds.split(","):
            words = (*ground.words, f"threshold={threshold}", "method=acdc")
            _, acdc, seconds = searched(ground, composed(*words), options.tests)
            for precision, arithmetic in product(options.precisions.split(","), options.arithmetics.split(",")):
                found = row(ground, threshold, precision, arithmetic, acdc, options.tests)
                found |= {"seconds_acdc": round(seconds, 2)}
                rows.append(found)
                sys.stderr.write(
                    f"{ground.name} {threshold} {precision} {arithmetic}: {found['differing']} of {found['kept']} "
                    f"edges differ, audited {found['differing_audited']} at {found['audited_share']:.1%}\n"
                )
                if options.json is not None:  # what is there already is not lost with the rest
                    publish(report, options.json, quietly=True)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
