"""The network under test in the bits it claims: packed weights of all heads here, the full-precision master elsewhere.

A layer is unpacked when an engine touches it, matrix by matrix, into few reused buffers; only the groups in focus come
in from the master. What engines get equals, bit for bit, what ``PrecisionStore`` gives them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError
from pahq.model.buffers import Buffers
from pahq.model.codes import Coded, check_card
from pahq.model.fused import Fused, check_fused
from pahq.model.layers import SmallWeights
from pahq.model.layerweights import LayerWeights
from pahq.model.products import rounded
from pahq.model.rows import take
from pahq.model.sources.modelfile import ModelFile, spill
from pahq.model.streamed import EndWeights
from pahq.model.weights import Ends, Model, ModelConfig, Network
from pahq.precision.calibrated import Grams
from pahq.precision.formats import Format
from pahq.precision.masterstore import MasterStore
from pahq.precision.packed import Packed, unpack
from pahq.precision.packedlayer import PackedLayer
from pahq.precision.packing import by_output, codes_of, pack_attention, pack_matrix, small_weights
from pahq.precision.schedule import Schedule, schedule_of
from pahq.precision.slots import FocusSlots, Group, Master, PinnedMaster
from pahq.precision.store import ATTENTION, MLP, NO_FOCUS, Focus, by_layer, products_of, streamed

Groups = tuple[int, ...]  # key-value heads of one layer in focus
_PART, _CARD_PART = 1 << 18, 1 << 22  # numbers that are rounded at a time


class PackedStore:
    """See ``WeightStore``. ``cached_layers``: how many layers' unpacked matrices of each kind are kept."""

    def __init__(
        self,
        ends: Ends,
        packed: Sequence[dict[str, Packed]],
        small: Sequence[SmallWeights],
        master: Master,
        schedule: Schedule,
        *,
        cached_layers: int = 2,
        kernel: str = "unpack",
        products: str = "float32",
    ) -> None:
        """``packed[layer]`` holds W_Q .. W_out, ``small[layer]`` all else.

        ``kernel`` and ``products``: how q, k and v weights out of focus are multiplied.
        """
        if cached_layers < 1:
            raise PahqError(f"cached_layers must be at least 1, got {cached_layers}")
        self.ends, self._packed, self._small = ends, tuple(packed), tuple(small)
        self._cached, self.schedule, self.master = cached_layers, schedule, master
        self.by_codes, self.products = kernel != "unpack", products
        coded = packed if self.by_codes else ()
        self._coded = [{letter: codes_of(layer, letter, kernel) for letter in "qkv"} for layer in coded]
        first = self._packed[0]
        device, dtype = ends.W_E.device, ends.W_E.dtype
        self.slots = FocusSlots(ends.config, master, schedule.load, dtype=dtype, device=device)
        self._buffers = {name: Buffers(weight.shape, dtype, device) for name, weight in first.items()}
        self._unpacked: dict[str, OrderedDict[tuple[int, Groups], Tensor]] = {name: OrderedDict() for name in first}
        self._last: Group | None = None

    @classmethod
    def build(
        cls,
        model: Model | ModelFile,
        precision: PrecisionConfig,
        inputs: Iterable[Grams] | None = None,
        *,
        schedule: str = "overlapped",
        cached_layers: int = 2,
        whole_master: bool = False,
    ) -> PackedStore:
        """Pack a model, one matrix at a time. The model's own layers are not kept.

        Its master is the file (a temporary one for a model that is loaded), or on a GPU pinned memory of the host.
        ``inputs``, by layer, are what calibrated rounding needs; it takes a layer's attention in full precision at a
        time. ``whole_master``: on a GPU it has the MLPs' weights as well, which ``beside`` needs. Raises PahqError if a
        weight does not fit its format, and for an unknown ``schedule``.
        """
        heads, mlp = Format(precision.format, precision.scales), Format(precision.mlp)
        device = model.device if isinstance(model, ModelFile) else model.W_E.device
        order = schedule_of(schedule, device)
        kernel = precision.kernel
        if kernel == "codes":
            check_card(device, precision.compute, model.config.d_model, model.config.d_head)
        elif kernel == "fused":
            check_fused(device)
        packed, small, given = [], [], by_layer(inputs, precision)
        for index in range(model.config.layers):
            attention = pack_attention(model, index, heads, next(given))
            weights = attention | {name: pack_matrix(model, index, name, mlp) for name in MLP}
            held = {name: weight for name, weight in weights.items() if weight is not None}
            packed.append(by_output(held) if kernel == "codes" else held)
            small.append(small_weights(model, index))
        ends = model.ends if isinstance(model, ModelFile) else EndWeights.of(model)
        master: Master
        if device.type == "cuda":
            master = PinnedMaster(model, fields=tuple(packed[0]) if whole_master else ATTENTION)
        else:
            master = model if isinstance(model, ModelFile) else spill(model, device="cpu")
        return cls(
            ends, packed, small, master, order, cached_layers=cached_layers, kernel=kernel, products=precision.compute
        )

    @property
    def config(self) -> ModelConfig:
        return self.ends.config

    @property
    def uniform(self) -> bool:
        formats = {layer[name].form.name for layer in self._packed for name in ATTENTION}
        return (formats, self.products) == ({"float32"}, "float32")

    @property
    def nbytes(self) -> int:
        """Packed weights, ends, biases, norms, slots, and room for unpacked matrices.

        Of that a CPU counts what it holds now, a GPU what is held once so many layers were read as are kept.
        """
        held: list[Any] = [
            getattr(self.ends, name) for name in ("W_E", "W_pos", "ln_final_w", "ln_final_b", "W_U", "b_U")
        ]
        held += [value for layer in self._small for value in vars(layer).values()]
        storage = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if isinstance(t, Tensor)}
        working = self.slots.nbytes + sum(buffers.nbytes for buffers in self._buffers.values())
        if self.ends.W_E.device.type != "cpu":
            unpacked = [weight for name, weight in self._packed[0].items() if not self._exact_at_rest(name)]
            numbers = sum(math.prod(weight.shape) for weight in unpacked)
            working += min(self._cached, len(self._packed)) * numbers * self.ends.W_E.dtype.itemsize
        return sum(storage.values()) + self.packed_nbytes + working

    @property
    def packed_nbytes(self) -> int:
        """Bytes of attention and MLP weights at rest."""
        return sum(weight.nbytes for layer in self._packed for weight in layer.values())

    def beside(self) -> MasterStore:
        """The full-precision network beside this one, its weights read from the master as they are needed."""
        for index in range(min(self._cached, len(self._packed))):  # nbytes counts what was read
            for name in self._packed[index]:
                self.matrix(index, name, NO_FOCUS)
        return MasterStore(
            self.ends, self._small, self.master, {name: weight.shape for name, weight in self._packed[0].items()}
        )

    def network(self) -> Network:
        return streamed(self)

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        """A layer under a focus; its matrices are unpacked when they are first read."""
        return PackedLayer(**vars(self._small[index]), store=self, index=index, focus=focus, products=self.products)

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]:
        """The weights of some heads, and no others unpacked."""
        name, groups = f"W_{letter.upper()}", _groups(index, focus)
        whole = self._unpacked[name].get((index, groups))
        if whole is not None:
            return take(whole, heads)
        packed = self._packed[index][name]
        if self._exact_at_rest(name):
            return take(packed.codes, heads)
        size = packed.shape[0] // self.config.kv_heads
        out = rounded(unpack(packed, rows=heads), products_of(name, self.products))
        for place, head in enumerate(heads):
            if head // size in groups:
                out[place] = self._exact((index, head // size), name)[head % size]
        return out

    def coded(self, index: int, letter: str, heads: Sequence[int] | None) -> Coded | Fused:
        """The codes of a letter's weights out of focus, where the kernel multiplies these."""
        whole = self._coded[index][letter]
        return whole if heads is None else whole.rows(list(heads))

    def matrix(self, index: int, name: str, focus: Focus) -> Tensor | None:
        """One matrix of a layer by its field's name; None if the model has none. Read-only: it may be kept."""
        packed = self._packed[index].get(name)
        if packed is None or self._exact_at_rest(name):
            return None if packed is None else packed.codes
        key = index, _groups(index, focus) if name in ATTENTION else ()
        kept = self._unpacked[name]
        if key not in kept:
            while len(kept) >= self._cached:
                kept.popitem(last=False)
            kept[key] = self._unpack(index, name, key[1])
        kept.move_to_end(key)
        return kept[key]

    def _exact_at_rest(self, name: str) -> bool:
        """Whether what is packed is what any focus asks for."""
        form = self._packed[0][name].form.name
        return form == "float32" and products_of(name, self.products) == "float32"

    def prefetch(self, focus: Focus) -> None:
        if self.schedule.name != "serial":
            for group in sorted(focus):
                self.slots.prefetch(group)

    def _unpack(self, index: int, name: str, groups: Groups) -> Tensor:
        packed = self._packed[index][name]
        out = unpack(packed, out=self._buffers[name].lend())
        products = products_of(name, self.products)
        if not _read_as_it_is(packed.form.name, products):
            for part in _parts(out):  # rounding takes several times the memory that it rounds
                part.copy_(rounded(part, products))
        size = packed.shape[0] // self.config.kv_heads
        for group in groups:
            out[group * size : (group + 1) * size] = self._exact((index, group), name)
        return out

    def _exact(self, group: Group, name: str) -> Float[Tensor, "count in out"]:
        """A group's weights from the master, to be copied at once: the next focus is on its way into the other slot."""
        weight = self.slots.take(group)[name]
        if self._last is not None and self._last[0] == group[0] and self._last[1] != group[1]:
            step = group[1] - self._last[1]  # searches go through the heads of a layer, letter by letter
            self.prefetch(frozenset({(group[0], (group[1] + step) % self.config.kv_heads)}))
        self._last = group
        return weight


def _read_as_it_is(form: str, products: str) -> bool:
    """Whether products in ``products`` read every number of a format as it is: none of its bits is beyond theirs."""
    return products == "float32" or (form, products) in {("bf16", "tf32"), ("bf16", "bf16"), ("fp16", "tf32")}


def _parts(weight: Tensor) -> list[Tensor]:
    """Views of it along its leading axis, each of about so many numbers that their count and their size are no burden.

    On a GPU every part is a handful of launches, so that there must be few.
    """
    numbers = _CARD_PART if weight.is_cuda else _PART
    step = max(1, numbers * weight.shape[0] // max(1, weight.numel()))
    return [weight[first : first + step] for first in range(0, weight.shape[0], step)]


def _groups(index: int, focus: Focus) -> Groups:
    return tuple(sorted(group for layer, group in focus if layer == index))
