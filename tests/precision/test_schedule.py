"""Schedules: side by side gives what one after the other gives, and no piece of work reads what is not there yet.

Without a GPU the streams are doubles that keep vector clocks. Every operation on a tensor is booked on the stream that
would run it. One that is not ordered behind the writer of what it reads, or the readers of what it writes, is a race.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support import small_models
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Stream:
    """``clock``: by stream, how many of its operations have surely ended when the next one of this stream begins."""

    def __init__(self, name: str, deaf: bool) -> None:
        self.name, self.deaf, self.clock = name, deaf, dict[str, int]()

    def tick(self) -> int:
        self.clock[self.name] = self.clock.get(self.name, 0) + 1
        return self.clock[self.name]

    def record_event(self) -> dict[str, int]:
        return dict(self.clock)

    def wait_event(self, event: dict[str, int]) -> None:
        if not self.deaf:
            self.clock |= {name: max(count, self.clock.get(name, 0)) for name, count in event.items()}

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())


class Cuda:
    """What ``Streams`` needs of torch.cuda; streams named in ``deaf`` do not wait when they are told to."""

    def __init__(self, deaf: Sequence[str] = ()) -> None:
        self._names, self._deaf = iter(("copies", "high")), deaf
        self.now = Stream("low", "low" in deaf)

    def Stream(self, device: torch.device) -> Stream:
        name = next(self._names)
        return Stream(name, name in self._deaf)

    def current_stream(self, device: torch.device) -> Stream:
        return self.now

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before


@dataclass(frozen=True)
class Access:
    stream: str
    number: int
    clock: dict[str, int]

    def ended_before(self, later: Access) -> bool:
        return later.clock.get(self.stream, 0) >= self.number


class Races(TorchDispatchMode):
    """Books every operation within. Storages stay alive, so that an address means one of them."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self._cuda = cuda
        self._written: dict[int, Access] = {}
        self._read: dict[int, list[Access]] = {}
        self._alive: list[Any] = []
        self.accesses: list[Access] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = self._places((args, kwargs))
        out = func(*args, **(kwargs or {}))
        declared = zip(args, func._schema.arguments, strict=False)
        changed = [value for value, about in declared if about.alias_info and about.alias_info.is_write]
        changed += [value for key, value in (kwargs or {}).items() if key == "out"]
        written = self._places(changed) | (self._places(out) - given)
        now = Access(self._cuda.now.name, self._cuda.now.tick(), {})
        now.clock.update(self._cuda.now.clock)
        self.accesses.append(now)
        for place in given | written:
            before = [self._written[place]] if place in self._written else []
            before += self._read.get(place, []) if place in written else []
            late = [access.stream for access in before if not access.ended_before(now)]
            assert not late, f"race: {func} on stream {now.stream} does not wait for stream {late[0]}"
        self._written |= dict.fromkeys(written, now)
        for place in given - written:
            self._read.setdefault(place, []).append(now)
        return out

    def _places(self, values: Any) -> set[int]:
        storages = [x.untyped_storage() for x in tree_leaves(values) if isinstance(x, Tensor)]
        self._alive += storages
        return {storage.data_ptr() for storage in storages if storage.nbytes()}

    def concurrent(self, one: str, other: str) -> bool:
        """Whether some operations of the two streams may run at the same time."""
        mine, theirs = ([a for a in self.accesses if a.stream == name] for name in (one, other))
        return any(not a.ended_before(b) and not b.ended_before(a) for a in mine for b in theirs)


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


@pytest.mark.gpu
@FAMILY
@pytest.mark.parametrize("focus", ["receiver", "both"])
def test_on_a_gpu_both_schedules_give_the_same_numbers(family: str, focus: str) -> None:
    model = random_model(family, layers=2, dtype=torch.float32).to(device="cuda")
    prompts = random_prompts(model, batch=2, length=4)
    setting = {"metric": "kl", "precision": INT8, "focus": focus, "store": "packed"}
    found = [losses(build_problem(model, prompts, schedule=name, **setting)) for name in ("overlapped", "serial")]
    assert found[0] == found[1]
