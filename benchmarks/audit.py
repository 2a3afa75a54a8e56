"""What audit=band does: edges differing from ACDC without and with it, tests audited, time.

    python benchmarks/audit.py --root FOLDER --json FILE          # on the embedded model nano
    python benchmarks/audit.py --shape --json FILE                # on GPT-2 small's shape, synthetic weights
    ... --roundings nearest,calibrated                            # both ways of rounding (default)

Nano's cells are run (or read, if they are finished) below FOLDER. Memory is no part of it: searches share a process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from output import publish
from synthetic import Shape, make_model, make_prompts

from pahq.cell.result import Result
from pahq.cell.run import run_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.config.cell import RunConfig
from pahq.engine.problem import build_problem
from pahq.experiments.compose import compose_runs
from pahq.search.acdc import Decision, circuit_of
from pahq.search.audited import audit_record
from pahq.search.start import search, start_search

TASKS = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")


def circuit(root: Path, *overrides: str) -> tuple[frozenset[str], Result]:
    """Edges and result of the cell so typed."""
    ((cell, _),) = compose_runs(overrides)
    found = run_cell(cell, RunConfig(root=str(root), wandb="disabled", progress=False))
    return frozenset(Circuit.read(found.folder / "circuit.json").edges), found.result


def measure(root: Path, task: str, threshold: str, method: str, precision: str, rounding: str) -> dict[str, Any]:
    base = (f"task={task}", f"threshold={threshold}")
    low = (*base, f"method={method}", f"precision={precision}", f"precision.rounding={rounding}")
    acdc, exact = circuit(root, *base, "method=acdc")
    unaudited, plain = circuit(root, *low)
    audited, found = circuit(root, *low, "audit=band")
    return {
        **{"task": task, "threshold": float(threshold), "method": method, "precision": precision, "rounding": rounding},
        **{"tests": found.tests, "differing_unaudited": len(unaudited ^ acdc), "differing": len(audited ^ acdc)},
        "audit": found.band and found.band.model_dump(mode="json"),
        "seconds": {"acdc": exact.seconds, "unaudited": plain.seconds, "audited": found.seconds},
    }


def measure_shape(
    precision: str, rounding: str, threshold: float, prompts: int, seed: int, band: list[str]
) -> dict[str, Any]:
    """One format on a synthetic model of GPT-2 small's shape, 15 tokens a prompt, KL."""
    policy = (f"precision={precision}", f"precision.rounding={rounding}")
    ((cell, _),) = compose_runs([*policy, "method=pahq", f"threshold={threshold}", "audit=band", *band])
    shape = Shape()
    model, made = make_model(shape, seed=seed), make_prompts(shape, prompts, seed=seed + 1)
    full = build_problem(model, made, metric="kl")
    clock = time.perf_counter()
    low = build_problem(model, made, metric="kl", precision=cell.precision, focus="receiver")
    found: dict[str, list[Decision]] = {}
    seconds = {"set-up": time.perf_counter() - clock}
    starts: dict[str, Callable[[], Iterator[Decision]]] = {
        "acdc": lambda: start_search("suffix", full, Order(), threshold),
        "unaudited": lambda: start_search("suffix", low, Order(), threshold),
        "audited": lambda: search(cell, low, [], full=full),
    }
    for name, start in starts.items():
        clock = time.perf_counter()
        found[name] = list(start())
        seconds[name] = time.perf_counter() - clock
    kept = {name: frozenset(circuit_of(full.graph, decisions).edges) for name, decisions in found.items()}
    return {
        **{"shape": "GPT-2 small", "seed": seed, "prompts": prompts, "threshold": threshold, "precision": precision},
        "rounding": rounding,
        **{"tests": len(found["audited"]), "kept": len(kept["acdc"])},
        "differing_unaudited": len(kept["unaudited"] ^ kept["acdc"]),
        "differing": len(kept["audited"] ^ kept["acdc"]),
        "audit": audit_record(cell, model, full, found["audited"]),
        "seconds": seconds,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="where nano's cells are")
    parser.add_argument("--shape", action="store_true", help="GPT-2 small's shape in place of nano")
    parser.add_argument("--prompts", type=int, default=16, help="with --shape")
    parser.add_argument("--seeds", type=int, default=4, help="with --shape: how many models and prompt sets")
    parser.add_argument("--band", nargs="*", default=[], help="with --shape: settings such as band.safety=2")
    parser.add_argument("--thresholds", default="0.003,0.01,0.03,0.1")
    parser.add_argument("--precisions", default="int8,fp8,int4")
    parser.add_argument("--roundings", default="nearest,calibrated")
    parser.add_argument("--methods", default="pahq")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.shape:
        models = product(options.precisions.split(","), options.roundings.split(","), range(options.seeds))
        rows = [measure_shape(name, by, 0.004, options.prompts, seed, options.band) for name, by, seed in models]
        publish({"torch": torch.__version__, "threads": 1, "rows": rows}, options.json)
        return 0
    if options.root is None:
        parser.error("--root is needed, or --shape")
    grid = (options.thresholds, options.methods, options.precisions, options.roundings)
    rows = [measure(options.root, *cell) for cell in product(TASKS, *(words.split(",") for words in grid))]
    publish({"torch": torch.__version__, "threads": 1, "rows": rows}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
