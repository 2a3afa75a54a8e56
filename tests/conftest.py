"""What holds for every test: one thread, nothing sent anywhere, GPU tests only where there is one.

``SLOW`` names what takes seconds: ``make check`` leaves it out, and ``make test`` begins with it, so that no worker
ends long after the other.
"""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import pytest
from support.forks import Forks

# Before torch is imported anywhere: two spinning threads beside another worker are many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["WANDB_MODE"] = "disabled"  # what wandb=auto means here; tests of tracking say otherwise themselves
if importlib.util.find_spec("triton"):  # which reads this when it is first imported
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")

SLOW = (  # beginnings of test ids, the longest first; ``pytest --durations=60`` shows what belongs here
    "tests/test_snakemake.py",
    "tests/model/test_fused.py",
    "tests/engine/test_suffix.py",
    "tests/engine/test_stores.py",
    "tests/commandline/test_launching.py::test_a_sweep",
    "tests/commandline/test_json.py",
    "tests/commandline/test_terminal.py",
    "tests/commandline/test_completion.py",
    "tests/test_docs.py",
    "tests/test_bad_input.py",
    "tests/experiments/test_paper.py",
    "tests/test_oracle.py::TestRandomSearches",
    "tests/resamples/",
    "tests/search/test_certainty.py",
    "tests/verify/",
    "tests/model/test_smollm2.py",
    "tests/experiments/test_compose.py",
    "tests/test_notebook.py",
    "tests/test_fuzz.py",
    "tests/experiments/test_conf.py",
    "tests/tasks/test_ability.py",
    "tests/precision/test_schedule.py::test_streams_never_race",
    "tests/precision/test_schedule.py::test_a_whole_search",
    "tests/precision/test_schedule.py::test_the_cpus_thread",
    "tests/test_packaging.py",
    "tests/test_kubernetes.py",
    "tests/cell/test_run.py::test_a_search_killed_again_and_again",
    "tests/search/test_audited.py::test_a_cut_journal",
    "tests/search/test_band.py::test_what_the_band_missed",
)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Commands in processes of their own that need not wait for torch's import."""
    with Forks(tmp_path_factory.mktemp("forks")) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Hydra takes a sixth of a second for words that hundreds of tests compose alike: the same words and the same files
    are composed once a process."""
    from pahq.experiments import compose

    hydras, known = compose._compose, dict[tuple[Any, ...], dict[str, Any]]()

    def remembered(overrides: Sequence[str]) -> dict[str, Any]:
        files = sorted(compose.configuration_folder().rglob("*.yaml"))
        key = (*overrides, *((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))
        if key not in known:
            known[key] = hydras(overrides)
        return deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_compose", remembered)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _rank(item) < len(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_rank)  # a stable sort: a module's tests stay together
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def pytest_collection_finish() -> None:
    """What imports and collection have made stays: looking through it again and again took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries complain at the end of what is never given back


def _rank(item: pytest.Item) -> int:
    """Where in ``SLOW`` a test stands; behind its end, if it is not there."""
    return next((rank for rank, name in enumerate(SLOW) if item.nodeid.startswith(name)), len(SLOW))
