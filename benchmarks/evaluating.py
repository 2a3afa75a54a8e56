"""What `pahq evaluate` and `pahq tables` take, in time and memory, of how many cells: made ones, for want of time.

    python benchmarks/evaluating.py --cells 500 5000 --json FILE

Cells of each count are written below a temporary folder as finished searches leave them (tests/support/made_cells.py):
ACDC and PAHQ in four formats on the graphs of two compiled programs, ten seeds, and as many thresholds as that takes,
as in benchmarks/grid.py. Each edge has an effect drawn by the seed, seen with noise by the format, and stays where that
is at least the threshold. Each step is a process of its own; ``import_mib`` is its peak before it begins.
``--program`` takes a folder with another version's package.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from output import publish

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 10
STEPS = ("evaluate", "tables")
SERIES = 10 * SEEDS  # two programs, five series of each, every seed
STEP = """
import json, resource, sys, time
from pathlib import Path
from pahq.analysis.evaluate import evaluate
from pahq.analysis.tables import write_tables
peak = lambda: round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
root, before, start = Path(sys.argv[1]), peak(), time.process_time()
if sys.argv[2] == "evaluate":
    evaluate(root, "made", (root / "ids").read_text().split())
else:
    write_tables(root, "made")
print(json.dumps({"cpu_seconds": round(time.process_time() - start, 2), "import_mib": before, "peak_mib": peak()}))
"""


def made(root: Path, thresholds: int) -> None:
    """The cells, and a file of their ids."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support import made_cells  # type: ignore[import-not-found]

    made_cells.TASKS["tracr-proportion"] = ("tracr-proportion", "mse", "mse", "corrupted")
    searches = [("acdc", "float32"), *(("pahq", form) for form in ("fp8", "int8", "int4", "bf16"))]
    ids = []
    for task in ("tracr-reverse", "tracr-proportion"):
        for seed in range(SEEDS):
            draw = random.Random(f"{task}{seed}")
            effects = {name: 10 ** draw.uniform(-6, 0) for name in made_cells.graph_of(task).edge_index}
            for method, form in searches:
                noise = made_cells.NOISE[form]
                seen = {name: effect * 10 ** draw.gauss(0, noise) for name, effect in effects.items()}
                for step in range(thresholds):
                    at = 10 ** (-5 + 4 * step / (thresholds - 1))
                    config = made_cells.make_config(task, method, form, at, seed)
                    ids.append(made_cells.make_cell(root, config, [name for name in seen if seen[name] >= at]))
    (root / "ids").write_text("\n".join(ids))


def taken(step: str, root: Path, program: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(program), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", STEP, str(root), step]
    found: dict[str, float] = json.loads(subprocess.run(words, env=environment, check=True, stdout=-1).stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[500, 5000], help=f"multiples of {SERIES}")
    parser.add_argument("--program", type=Path, default=ROOT)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if any(count % SERIES or count < 2 * SERIES for count in options.cells):
        parser.error(f"multiples of {SERIES} from {2 * SERIES} on were expected, got {options.cells}")
    report: dict[str, Any] = {step: [] for step in STEPS}
    for count in options.cells:
        with tempfile.TemporaryDirectory() as place:
            made(Path(place), count // SERIES)
            for step in STEPS:
                report[step].append({"cells": count, **taken(step, Path(place), options.program)})
    from pahq.cell.provenance import versions  # not before: a process counts the memory of the one that started it

    publish(report | {"versions": versions()}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
