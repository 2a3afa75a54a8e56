"""Schedules: side by side gives what one after the other gives, and no piece of work reads what is not there yet.

Without a GPU the streams are doubles (``support.streams``).
"""

from __future__ import annotations

from dataclasses import replace
from threading import Event, current_thread, main_thread
from threading import enumerate as enumerate_threads
from typing import Any

import pytest
import torch
from support import small_models
from support.streams import Cuda, Races
from torch import Tensor

from pahq.circuits.order import Order
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError
from pahq.model.buffers import Buffers
from pahq.model.weights import Model
from pahq.precision.packedstore import PackedStore
from pahq.precision.schedule import Serial, Streams, Threaded, schedule_of
from pahq.precision.slots import PinnedMaster
from pahq.precision.store import focus_of
from pahq.search.speculate import speculate

random_model, random_prompts = small_models.random_model, small_models.random_prompts
INT8 = PrecisionConfig(name="int8", format="int8", scales="row", mlp="bf16")
FAMILY = pytest.mark.parametrize("family", ["gpt2", "llama"])
CPU = torch.device("cpu")


def packed(model: Model, schedule: Any) -> PackedStore:
    """A store as on a GPU: a pinned master, and the schedule given."""
    built = PackedStore.build(model, INT8)
    master = PinnedMaster(model, pin=Tensor.clone)
    return PackedStore(built.ends, built._packed, built._small, master, schedule, cached_layers=1)


def problem_on(family: str, focus: str) -> tuple[Model, Problem]:
    groups = {"llama": {"heads": 6, "kv_heads": 3}}  # more than there are slots, so that some must be brought in
    model = random_model(family, layers=2, dtype=torch.float32, **groups.get(family, {}))
    prompts = random_prompts(model, batch=2, length=4)
    return model, build_problem(model, prompts, metric="kl", precision=INT8, focus=focus, store="packed")


def losses(problem: Problem) -> list[float]:
    """Of every third edge, by the reference engine, whose layers have heads of both kinds."""
    edges = range(0, len(problem.graph.edges), 3)
    return ReferenceEngine(problem).measure([Trial(edge, (edge,)) for edge in edges])


def search(problem: Problem) -> list[tuple[int, float, bool]]:
    """A whole search by the suffix engine."""
    graph = problem.graph
    found = speculate(
        SuffixEngine(problem), Order(), 0.01, focus=lambda edge: focus_of(graph, graph.edges[edge], problem.focus)
    )
    return [(decision.edge, decision.after, decision.removed) for decision in found]


def fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where torch's allocator keeps a pool for each stream: no place is lent out again."""
    monkeypatch.setattr(Buffers, "lend", lambda self: torch.empty(self._shape, dtype=self._dtype))


@FAMILY
@pytest.mark.parametrize("focus", ["receiver", "both"])
def test_streams_never_race_and_give_the_serial_numbers_bit_by_bit(
    family: str, focus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_memory(monkeypatch)
    model, problem = problem_on(family, focus)
    cuda = Cuda()
    store = packed(model, Streams(CPU, cuda))
    with Races(cuda) as races:
        found = losses(replace(problem, store=store))
    assert found == losses(replace(problem, store=packed(model, Serial())))
    assert races.concurrent("high", "low")  # heads of both kinds side by side
    assert races.concurrent("copies", "low")  # and the next focus on its way meanwhile
    assert races.concurrent("copies", "high")


@FAMILY
def test_a_whole_search_by_the_suffix_engine_never_races(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_memory(monkeypatch)
    model, problem = problem_on(family, "receiver")
    cuda = Cuda()
    with Races(cuda) as races:
        found = search(replace(problem, store=packed(model, Streams(CPU, cuda))))
    assert found == search(replace(problem, store=packed(model, Serial())))
    assert races.concurrent("copies", "low")


@pytest.mark.parametrize("deaf", ["copies", "high", "low"])
def test_a_stream_that_does_not_wait_is_caught(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_memory(monkeypatch)
    model, problem = problem_on("gpt2", "receiver")
    cuda = Cuda(deaf=[deaf])
    store = packed(model, Streams(CPU, cuda))
    with Races(cuda), pytest.raises(AssertionError, match="race: "):
        losses(replace(problem, store=store))


@FAMILY
@pytest.mark.parametrize("focus", ["receiver", "sender", "both"])
def test_the_cpus_thread_gives_the_serial_numbers_bit_by_bit(family: str, focus: str) -> None:
    model, problem = problem_on(family, focus)
    assert losses(replace(problem, store=packed(model, Threaded()))) == losses(
        replace(problem, store=packed(model, Serial()))
    )


def test_the_serial_schedule_brings_nothing_in_ahead_of_time() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    store = PackedStore.build(model, INT8, schedule="serial")
    store.prefetch(frozenset({(0, 1)}))
    assert store.slots.loads == 0
    for head in (2, 1, 0):
        store.rows(1, "q", [head], frozenset({(1, head)}))
    assert (store.slots.loads, store.slots.hits) == (3, 0)


def test_schedules_have_names() -> None:
    assert isinstance(schedule_of("serial", CPU), Serial)
    assert isinstance(schedule_of("overlapped", CPU), Threaded)
    with pytest.raises(PahqError, match=r"unknown schedule 'fast'; known: overlapped, serial"):
        schedule_of("fast", CPU)


# ---- each schedule on its own


def pieces(streams: Streams, cuda: Cuda) -> Races:
    """A slot is read, loaded anew and read by the heads in focus, beside others; then what both read is written."""
    slot, x = torch.zeros(4), torch.ones(4)

    def fill() -> None:
        slot.fill_(3.0)

    with Races(cuda) as races:
        before = slot + x
        wait = streams.load(fill)
        beside = x * 2
        wait()
        high, low = streams.both(lambda: x * slot, lambda: x + before)
        x.fill_(5.0)
        total = high + low + beside
    assert total.tolist() == [7.0] * 4  # 3 + 2 + 2
    return races


def test_pieces_run_side_by_side_where_they_may_and_wait_where_they_must() -> None:
    cuda = Cuda()
    races = pieces(Streams(CPU, cuda), cuda)
    assert races.concurrent("high", "low")
    assert races.concurrent("copies", "low")


@pytest.mark.parametrize("deaf", ["copies", "high", "low"])
def test_of_these_pieces_each_stream_has_something_to_wait_for(deaf: str) -> None:
    cuda = Cuda(deaf=[deaf])
    with pytest.raises(AssertionError, match="race: "):
        pieces(Streams(CPU, cuda), cuda)


def test_what_fails_beside_the_heads_in_focus_does_not_run_ahead_of_them() -> None:
    cuda, x = Cuda(), torch.ones(4)
    streams = Streams(CPU, cuda)

    def fails() -> Tensor:
        raise PahqError("too little memory")

    with Races(cuda), pytest.raises(PahqError, match="too little memory"):
        streams.both(lambda: x + 1, fails)
    assert cuda.now.clock["high"] == 1  # what comes next may free or write what the heads read


def test_a_thread_brings_in_one_focus_after_the_other_meanwhile() -> None:
    schedule, second, order = Threaded(), Event(), list[object]()

    def first_work() -> None:
        order.append(("first", second.wait(0.02), current_thread() is main_thread()))

    def second_work() -> None:
        second.set()
        order.append("second")

    first = schedule.load(first_work)
    other = schedule.load(second_work)
    other()
    first()
    assert order == [("first", False, False), "second"]
    assert schedule.both(lambda: torch.ones(1), lambda: torch.zeros(1)) == (torch.ones(1), torch.zeros(1))


def test_a_thread_goes_with_its_schedule() -> None:
    schedule = Threaded()
    schedule.load(lambda: None)()
    [thread] = [thread for thread in enumerate_threads() if thread in schedule._pool._threads]
    del schedule
    thread.join(5)
    assert not thread.is_alive()


def test_what_a_thread_could_not_load_is_raised_where_it_is_waited_for() -> None:
    def fails() -> None:
        raise PahqError("the disk is gone")

    wait = Threaded().load(fails)
    with pytest.raises(PahqError, match="the disk is gone"):
        wait()


def test_a_serial_schedule_has_loaded_when_it_is_asked_to() -> None:
    done: list[int] = []
    wait = Serial().load(lambda: done.append(1))
    assert done == [1]
    wait()
    assert done == [1]
    assert Serial().both(lambda: torch.ones(1), lambda: torch.zeros(1)) == (torch.ones(1), torch.zeros(1))


def test_on_a_gpu_pieces_have_streams_unless_one_is_to_come_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pahq.precision.schedule.Streams", lambda device: ("streams on", device))
    card = torch.device("cuda")
    assert schedule_of("overlapped", card) == ("streams on", card)
    assert isinstance(schedule_of("serial", card), Serial)
    assert [kind.name for kind in (Serial, Threaded, Streams)] == ["serial", "overlapped", "overlapped"]


# ---- on a GPU


@pytest.mark.gpu
@FAMILY
@pytest.mark.parametrize("focus", ["receiver", "both"])
def test_on_a_gpu_both_schedules_give_the_same_numbers(family: str, focus: str) -> None:
    model = random_model(family, layers=2, dtype=torch.float32).to(device="cuda")
    prompts = random_prompts(model, batch=2, length=4)
    setting = {"metric": "kl", "precision": INT8, "focus": focus, "store": "packed"}
    found = [losses(build_problem(model, prompts, schedule=name, **setting)) for name in ("overlapped", "serial")]
    assert found[0] == found[1]
