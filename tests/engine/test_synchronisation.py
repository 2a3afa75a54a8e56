"""On a GPU every transfer of a number to the host waits for all that was queued: one a window, none a test.

Counted on the CPU, where the same operators run: a double listens to every dispatched operator and counts those that
hand a value to Python or whose result's size depends on values; and those that make a tensor of Python's numbers, an
index by a list among them, which would have to be sent to the GPU.
"""

from __future__ import annotations

import pytest
import torch
from support import small_models
from torch.utils._python_dispatch import TorchDispatchMode

from pahq.circuits.order import Order
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.suffix import SuffixEngine
from pahq.search.speculate import speculate

FAMILIES, random_model, random_prompts = small_models.FAMILIES, small_models.random_model, small_models.random_prompts
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")


class Listener(TorchDispatchMode):
    """Counts operators that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.sent = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if any(word in name for word in WAITING):
            self.waits.append(name)
        self.sent += "lift_fresh" in name
        return func(*args, **(kwargs or {}))


def test_the_listener_hears():
    with Listener() as listener:
        float(torch.ones(1).sum())
        torch.ones(3).nonzero()
        torch.ones(3)[[0, 2]]
        torch.ones(3)[0:2]
    assert len(listener.waits) == 2
    assert listener.sent == 1


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("metric", ["kl", "logit_diff", "mse"])
def test_a_search_never_waits_between_windows(family: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(family)
    problem = build_problem(model, random_prompts(model), metric=metric)
    engine = SuffixEngine(problem)
    # tolist() is the one transfer of a window and no operator: its number is the number of calls
    with Listener() as listener:
        tests = len(list(speculate(engine, Order(), 0.1 if model.config.post_norms else 0.3)))
    assert tests > 10
    assert listener.waits == []
    assert listener.sent < tests  # which trials take a Direct edge, and states that trials share; never which heads


def test_one_transfer_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gpt2")
    problem = build_problem(model, random_prompts(model), metric="kl")
    engine, transfers = SuffixEngine(problem), []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(1) or original(self))
    edges = [problem.graph.offsets[-2] + sender for sender in (6, 5, 4)]  # into the logits
    engine.measure([Trial(edge, tuple(edges[: i + 1])) for i, edge in enumerate(edges)])
    assert len(transfers) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_gpu_takes_the_same_decisions(family: str) -> None:
    model = random_model(family)
    prompts = random_prompts(model)
    found = []
    for device in ("cpu", "cuda"):
        problem = build_problem(model.to(device=device), prompts, metric="kl")
        found.append([(d.edge, d.removed) for d in speculate(SuffixEngine(problem), Order(), 0.1)])
    assert found[0] == found[1]
