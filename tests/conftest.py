"""What holds for every test: one thread, nothing sent anywhere, GPU tests only where there is one."""

from __future__ import annotations

import importlib.util
import os

import pytest

# Before torch is imported anywhere: two spinning threads beside another worker are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["WANDB_MODE"] = "disabled"  # what wandb=auto means here; tests of tracking say otherwise themselves
if importlib.util.find_spec("triton"):  # which reads this when it is first imported
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
