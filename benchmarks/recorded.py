"""Time per test on the recorded runs' models, beside the seconds the original code took (on another machine).

    python benchmarks/recorded.py [DIR ...] [--json FILE]

The recorded seconds come from the machine of the recording, so their ratio mixes machines: it is printed as such.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from output import publish

from pahq.engine.problem import build_problem
from pahq.files.text import read_json
from pahq.search.start import start_search
from pahq.verify.recorded import read_recorded

DEFAULT = Path(__file__).resolve().parents[1] / "tests" / "golden" / "attn2l_t0.008"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[DEFAULT])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = {}
    for folder in options.folders:
        recorded = read_json(folder / "result.json") if (folder / "result.json").exists() else {}
        for run in read_recorded(folder):
            row: dict[str, float] = {"tests": len(run.tests)}
            for engine in ("suffix", "reference"):
                times = []
                for _ in range(5):
                    start = time.perf_counter()
                    with torch.no_grad():
                        problem = build_problem(
                            run.model,
                            run.prompts,
                            metric=run.metric,
                            ablation=run.ablation,
                            split_embed=run.split_embed,
                            direct_edges=run.direct_edges,
                        )
                    list(start_search(engine, problem, run.order, run.threshold, absolute=run.absolute))
                    times.append(time.perf_counter() - start)
                row[f"{engine}_ms_per_test"] = 1e3 * sorted(times)[2] / len(run.tests)
            if "wall_s" in recorded:
                row["recorded_ms_per_test"] = 1e3 * recorded["wall_s"] / len(run.tests)
            report[run.name] = row
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
