"""Full-precision weights of the focus group: two slots in the search's memory, filled from the master away from it.

While one slot is in use the other takes the next focus. A slot is filled with NaN before it is loaded and each load has
a number, so a reader that comes too early or too late is told, and never computes with another head's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model, ModelConfig
from pahq.precision.schedule import Wait

Group = tuple[int, int]  # layer, key-value head
Starter = Callable[[Callable[[], None]], Wait]  # begins a piece of work; what it returns waits for its end


class StaleWeights(RuntimeError):
    """A focus slot was read that does not, or no longer, hold what the reader asked for: a fault of this program."""


class Master(Protocol):
    """Where all full-precision weights are."""

    def read_heads(self, layer: int, field: str, out: Float[Tensor, "count in out"], first: int) -> None:
        """Fill ``out`` with heads ``first`` .. of a layer's ``field`` (``W_Q`` ..)."""


class PinnedMaster:
    """Weights of a model in page-locked host memory, from where a GPU copies without waiting.

    ``fields``: which of a layer's; those of attention are what a focus takes.
    """

    def __init__(
        self,
        model: Model | ModelFile,
        pin: Callable[[Tensor], Tensor] = Tensor.pin_memory,
        fields: Sequence[str] = ("W_Q", "W_K", "W_V", "W_O"),
    ) -> None:
        layers = range(model.config.layers)
        self._layers = [{name: pin(_host_copy(model, index, name)) for name in fields} for index in layers]

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        return sum(weight.nbytes for layer in self._layers for weight in layer.values())

    def read_heads(self, layer: int, field: str, out: Tensor, first: int) -> None:
        out.copy_(self._layers[layer][field][first : first + out.shape[0]], non_blocking=True)
        if out.is_cuda:  # freed while the copy is on its way, the memory must not be given to anyone before it ends
            out.record_stream(torch.cuda.current_stream(out.device))


def _host_copy(model: Model | ModelFile, layer: int, field: str) -> Tensor:
    if isinstance(model, ModelFile):
        return model.host(layer, field)
    weight: Tensor = getattr(model.layers[layer], field)
    return weight.detach().cpu()


@dataclass
class _Slot:
    tensors: Mapping[str, Tensor]
    group: Group | None = None
    number: int = 0  # of the load
    wait: Wait | None = None  # None: loaded
    used: int = 0


@dataclass(frozen=True)
class Ticket:
    """The right to read one load of a slot; ``ticket["W_Q"]`` is [heads of the group, in, out]."""

    group: Group
    number: int
    _slot: _Slot = field(repr=False)

    def __getitem__(self, name: str) -> Float[Tensor, "count in out"]:
        """Raises StaleWeights if the slot was loaded anew, or holds what no master has (NaN)."""
        slot = self._slot
        if (slot.group, slot.number, slot.wait) != (self.group, self.number, None):
            raise StaleWeights(f"load {self.number} of focus {self.group} was read after slot took {slot.group}")
        weight = slot.tensors[name]
        if weight.device.type == "cpu" and not torch.isfinite(weight).all():  # on a GPU the look would cost a wait
            raise StaleWeights(f"{name} of focus {self.group} was read, but its slot is poisoned")
        return weight


class FocusSlots:
    """``count`` slots. ``start`` is how loads are begun (``Schedule.load``)."""

    def __init__(
        self,
        config: ModelConfig,
        master: Master,
        start: Starter,
        *,
        dtype: torch.dtype,
        device: torch.device,
        count: int = 2,
    ) -> None:
        self._master, self._start = master, start
        self._size = config.heads // config.kv_heads
        d, e = config.d_model, config.d_head
        shapes = {"W_Q": (self._size, d, e), "W_K": (1, d, e), "W_V": (1, d, e), "W_O": (self._size, e, d)}

        def poisoned() -> dict[str, Tensor]:
            return {n: torch.full(shape, float("nan"), dtype=dtype, device=device) for n, shape in shapes.items()}

        self._slots = [_Slot(poisoned()) for _ in range(count)]
        self._clock = 0
        self.loads = self.hits = 0

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for slot in self._slots for weight in slot.tensors.values())

    def prefetch(self, group: Group) -> None:
        """Begin to load a group, unless it is here or every slot but the one read last is being loaded."""
        if self._holder(group) is None:
            slot = self._oldest()
            if slot.wait is None:
                self._load(slot, group)

    def take(self, group: Group) -> Ticket:
        """The group's weights, waited for. What loading raised is raised here, and the group is not here then."""
        slot = self._holder(group)
        self.hits += slot is not None
        if slot is None:
            slot = self._oldest()
            self._settle(slot)  # a load under way is never written over
            self._load(slot, group)
        self._settle(slot)
        self._clock += 1
        slot.used = self._clock
        return Ticket(group, slot.number, slot)

    def _holder(self, group: Group) -> _Slot | None:
        return next((slot for slot in self._slots if slot.group == group), None)

    def _oldest(self) -> _Slot:
        return min(self._slots, key=lambda slot: slot.used)

    def _load(self, slot: _Slot, group: Group) -> None:
        slot.group, slot.number = group, slot.number + 1
        for weight in slot.tensors.values():
            weight.fill_(float("nan"))
        layer, head = group

        def work() -> None:
            for name, weight in slot.tensors.items():
                self._master.read_heads(layer, name, weight, head * weight.shape[0])

        self.loads += 1
        slot.wait = self._start(work)

    @staticmethod
    def _settle(slot: _Slot) -> None:
        """Wait for the slot's load; if it failed the slot is empty."""
        if slot.wait is not None:
            wait, slot.wait = slot.wait, None
            try:
                wait()
            except BaseException:
                slot.group = None
                raise
