"""``benchmarks/spread.py``: a search divided among processes takes the decisions of one. Here they are threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local
from typing import Any

import pytest
import spread
import torch
from synthetic import Shape, make_model, make_prompts

from pahq.engine.problem import build_problem


class Threads:
    """The two calls of ``torch.distributed`` that the benchmark needs, among threads that have set their ``rank``."""

    def __init__(self, count: int) -> None:
        self.own = local()
        self._sent = [torch.empty(0)] * count
        self._everyone = Barrier(count, timeout=60)

    def barrier(self) -> None:
        self._everyone.wait()

    def all_gather(self, into: list[torch.Tensor], mine: torch.Tensor) -> None:
        self._sent[self.own.rank] = mine
        self._everyone.wait()
        for place, sent in zip(into, self._sent, strict=True):
            place.copy_(sent)
        self._everyone.wait()


def searched(processes: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    shape = Shape(layers=2, heads=2, d_model=16, d_head=8, vocabulary=40, positions=5)
    problem = build_problem(make_model(shape), make_prompts(shape, 4), metric="kl")
    threads = Threads(processes)
    monkeypatch.setattr(spread, "distributed", threads)

    def take_part(rank: int) -> dict[str, Any]:
        threads.own.rank = rank
        with torch.no_grad():
            return spread.search(problem, 0.01, rank, processes, 2.0)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(take_part, range(processes)))


def test_a_search_on_two_processes_decides_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[float] = []
    asked = spread.SpreadEngine.overhead

    def noted(engine: spread.SpreadEngine, edge: int) -> float:
        costs.append(asked(engine, edge))
        return costs[-1]

    monkeypatch.setattr(spread.SpreadEngine, "overhead", noted)
    [alone] = searched(1, monkeypatch)
    assert set(costs) == {2.0}
    costs.clear()
    both = searched(2, monkeypatch)
    assert set(costs) == {4.0}  # trials of both: the search asks the engine what a window costs
    assert [one["decided"] for one in both] == [alone["decided"]] * 2
    assert 0 < sum(removed for _, removed in alone["decided"]) < len(alone["decided"])
    assert 0 < both[0]["rounds"] == both[1]["rounds"]
    assert spread.row([[one] for one in both], alone, spread=True)["worst_loss_difference"] < 1e-6
