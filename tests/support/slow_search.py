"""A cell searched slowly enough to be killed in the middle; in a module of its own, for processes to import."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pahq.cell.run import run_cell
from pahq.config.cell import parse_config
from pahq.engine.suffix import SuffixEngine


def run_slowly(values: Mapping[str, Any]) -> None:
    """Run the cell with a pause before whatever the suffix engine measures; for a process that does nothing else."""
    measure = SuffixEngine.measure

    def slow(engine: SuffixEngine, trials: Any) -> list[float]:
        time.sleep(0.03)
        return measure(engine, trials)

    SuffixEngine.measure = slow  # type: ignore[method-assign]
    run_cell(*parse_config(values))
