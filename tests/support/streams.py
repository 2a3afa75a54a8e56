"""Doubles of a GPU's streams that keep vector clocks, and a watch for races among what runs on them.

Every operation on a tensor is booked on the stream that would run it. One that is not ordered behind the writer of what
it reads, or the readers of what it writes, is a race.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
