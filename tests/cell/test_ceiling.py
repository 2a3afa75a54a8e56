"""A ceiling for memory that is too low says how high it has to be in all, for every engine of the cell together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pahq.cell.run import run_cell
from pahq.config.cell import RunConfig
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs

TYPED = ["task=nano-ioi", "task.examples=2", "threshold=0.3"]


@pytest.mark.parametrize(
    "more",
    [
        ["method=acdc"],
        ["method=acdc", "engine.doubts=leave"],
        ["method=rtn-q", "precision=int8", "audit=band"],
        ["method=rtn-q", "precision=int8", "audit=band", "engine.doubts=leave"],
    ],
    ids=" ".join,
)
def test_what_is_named_is_enough(tmp_path: Path, more: list[str]) -> None:
    ((cell, _),) = compose_runs([*TYPED, *more])

    def run(memory_gb: float) -> None:
        run_cell(cell, RunConfig(root=str(tmp_path), wandb="disabled", progress=False, memory_gb=memory_gb))

    with pytest.raises(PahqError, match=r"is too little: this search needs at least .* in all") as caught:
        run(0.01)
    found = re.search(r"at least (\S+) in all", str(caught.value))
    assert found is not None
    needed = float(found[1])
    with pytest.raises(PahqError, match="is too little"):
        run(needed * 0.98)
    run(needed)
    assert list(tmp_path.rglob("result.json"))
