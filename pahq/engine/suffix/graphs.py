"""How operations are recorded: as CUDA graphs, of searches whose weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Protocol, TypeVar

import torch

from pahq.engine.problem import Problem
from pahq.precision.store import PrecisionStore

Result = TypeVar("Result")


def recordable(problem: Problem) -> bool:
    """Whether weights are tensors that stay as they are throughout a search, and no focus moves among them.

    A layer in focus is put together anew for every wave, in full precision everywhere too.
    """
    return isinstance(problem.store, PrecisionStore) and problem.focus == "none" and problem.changes is None


def recorder(problem: Problem, asked: Recorder | Literal[False] | None) -> Recorder | None:
    """How a search of the problem records: as it was ``asked``; by default CUDA graphs on a GPU, elsewhere nothing."""
    if asked is False or not recordable(problem):
        return None
    device = problem.corrupted.final.device
    return CudaGraphs(device) if asked is None and device.type == "cuda" else asked


class Recorder(Protocol):
    """Records the operations of ``work`` on tensors: without running it, as a CUDA graph is recorded, or running it."""

    def __call__(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """What ``work`` returned, whose tensors every call of the second result fills anew."""


class CudaGraphs:
    """Records CUDA graphs. All share one pool of memory: a replay may overwrite what another one left."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # a pool ends with its last graph, and these come and go
        self._holds_the_pool = self._recorded(lambda: torch.zeros(1, device=device))

    def __call__(self, work: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        result, graph = self._recorded(work)
        return result, graph.replay

    def _recorded(self, work: Callable[[], Result]) -> tuple[Result, torch.cuda.CUDAGraph]:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            except BaseException:
                with suppress(RuntimeError):  # of what could not be recorded, which is told by the error itself
                    graph.capture_end()
                raise
            graph.capture_end()
        here.wait_stream(self._stream)
        return result, graph
