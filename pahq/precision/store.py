"""Mixed precision of attention: who is in focus, and the weights that a forward then gets.

PAHQ (arXiv 2510.23264): the head under test runs in full precision, every other head in the low format. The forward
asks ``layer(i, focus)`` and never learns what a format is. A focus unit is a key-value group: for ordinary attention
that is one head; with grouped queries a k or v input belongs to all heads of its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Edge, Graph
from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError
from pahq.model.codes import LARGEST
from pahq.model.layers import PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.model.products import rounded
from pahq.model.streamed import Streamed
from pahq.model.weights import Ends, Model, ModelConfig, Network
from pahq.precision.calibrated import Grams, calibrate
from pahq.precision.formats import Format, dequantise, round_trip
from pahq.precision.schedule import Schedule, Serial

Focus = frozenset[tuple[int, int]]  # (layer, key-value head)
NO_FOCUS: Focus = frozenset()
ATTENTION = ("W_Q", "W_K", "W_V", "W_O")
MLP = ("W_in", "W_gate", "W_out")


class WeightStore(Protocol):
    """The network under test, as engines see it; where its weights lie and in how many bits is the store's affair."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def ends(self) -> Ends:
        """Embedding, final norm and unembedding, which no format touches."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything that the store keeps on the device of the search, buffers included."""

    @property
    def uniform(self) -> bool:
        """Whether a focus changes no weight: heads are in full precision anyway."""

    @property
    def products(self) -> str:
        """How layers multiply out of focus (``pahq.model.products``)."""

    @property
    def schedule(self) -> Schedule:
        """What may run side by side."""

    def network(self) -> Network:
        """All layers without a focus, one after the other."""

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        """A layer's weights with the groups in focus in full precision."""

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]:
        """The weights of some heads of ``letter`` (q, k, v by letter head; o: the output) under a focus."""

    def prefetch(self, focus: Focus) -> None:
        """Say which focus will be asked for next; it may be brought in meanwhile. Never changes a result."""


def streamed(store: WeightStore) -> Network:
    """A store's layers without a focus as a network, each made when it is walked through."""

    class Layers:
        def __iter__(self) -> Iterator[LayerWeights]:
            return (store.layer(index, NO_FOCUS) for index in range(store.config.layers))

    return Streamed.through(store.ends, Layers())


def focus_of(graph: Graph, edge: Edge, rule: str) -> Focus:
    """The groups that run in full precision while ``edge`` is under test.

    ``rule``: receiver | sender | both | none. Edges into an MLP or the logits have no receiver head, edges from an MLP
    or an embedding no sender head. A Direct edge lies within its head.
    """
    shape = graph.shape
    chosen = set()
    receiver, sender = edge.receiver, edge.sender
    if receiver.kind == "head" and (rule in ("receiver", "both") or (rule == "sender" and edge.direct)):
        head = shape.query_heads(receiver.letter, receiver.head).start
        chosen.add((receiver.layer, head * shape.kv_heads // shape.heads))
    if sender is not None and sender.kind == "head" and rule in ("sender", "both"):
        chosen.add((sender.layer, sender.head * shape.kv_heads // shape.heads))
    return frozenset(chosen)


@dataclass(frozen=True, kw_only=True)
class FocusedLayer(PlainLayer):
    """A layer of which some groups are in full precision, and the others multiply in ``multiplied``."""

    multiplied: str = "float32"
    groups: frozenset[int] = frozenset()

    @property
    def products(self) -> str:
        return self.multiplied

    @property
    def exact(self) -> frozenset[int]:
        return self.groups


@dataclass(frozen=True)
class PrecisionStore:
    """The full-precision model and the network under test (``low``: every head and MLP in its low format)."""

    full: Model
    low: Model
    uniform: bool
    products: str = "float32"

    @classmethod
    def build(cls, model: Model, precision: PrecisionConfig, inputs: Iterable[Grams] | None = None) -> PrecisionStore:
        """Round the attention and MLP weights of ``model``; embedding, norms and biases stay as they are.

        ``inputs``, by layer, are what calibrated rounding needs. Raises PahqError where codes are to be multiplied:
        there are none.
        """
        if precision.kernel != "unpack":
            raise PahqError(f"precision.kernel={precision.kernel} needs a packed store: a plain store has no codes")
        given = by_layer(inputs, precision)
        layers = tuple(_rounded(layer, precision, next(given)) for layer in model.layers)
        low = replace(model, layers=layers)
        uniform = (precision.format, precision.compute) == ("float32", "float32")
        return cls(full=model, low=low, uniform=uniform, products=precision.compute)

    @classmethod
    def of(cls, model: Model) -> PrecisionStore:
        """A model in full precision everywhere."""
        return cls(full=model, low=model, uniform=True)

    @property
    def config(self) -> ModelConfig:
        return self.low.config

    @property
    def ends(self) -> Ends:
        return self.low

    @property
    def nbytes(self) -> int:
        """Bytes of both models; tensors that they share count once."""
        return sum((_storage(self.full) | _storage(self.low)).values())

    @property
    def schedule(self) -> Schedule:
        """Nothing has to be brought in."""
        return Serial()

    def network(self) -> Network:
        return self.low

    def rows(self, index: int, letter: str, heads: Sequence[int], focus: Focus) -> Float[Tensor, "chosen in out"]:
        return self.layer(index, focus).rows(letter, heads)

    def prefetch(self, focus: Focus) -> None:
        """Everything is here already."""

    def layer(self, index: int, focus: Focus) -> LayerWeights:
        """A layer's weights with the groups in focus in full precision."""
        groups = tuple(sorted(group for layer, group in focus if layer == index))
        return self._spliced(index, groups) if groups else self.low.layers[index]

    def _spliced(self, index: int, groups: tuple[int, ...]) -> LayerWeights:
        low, full = self.low.layers[index], self.full.layers[index]
        per_group = self.full.config.heads // self.full.config.kv_heads
        heads = [group * per_group + i for group in groups for i in range(per_group)]

        def splice(name: str, rows: list[int]) -> Tensor:
            weight: Tensor = getattr(low, name).clone()
            weight[rows] = getattr(full, name)[rows]
            return weight

        rows = {"W_Q": heads, "W_K": list(groups), "W_V": list(groups), "W_O": heads}
        chosen = {name: splice(name, at) for name, at in rows.items()}
        return FocusedLayer(**vars(low) | chosen | {"multiplied": self.products, "groups": frozenset(groups)})


def by_layer(inputs: Iterable[Grams] | None, precision: PrecisionConfig) -> Iterator[Grams | None]:
    """What each layer's rounding is calibrated on; None, without end, where weights are rounded to the nearest.

    Raises PahqError for calibrated rounding without inputs.
    """
    if precision.rounding == "nearest":
        return repeat(None)
    if inputs is None:
        raise PahqError("precision.rounding=calibrated needs the inputs of a search's prompts (build_problem has them)")
    return iter(inputs)


def _rounded(layer: PlainLayer, precision: PrecisionConfig, inputs: Grams | None) -> PlainLayer:
    heads, mlp = Format(precision.format, precision.scales), Format(precision.mlp)
    attention = {name: getattr(layer, name) for name in ATTENTION}
    if inputs is None:
        attention = {name: round_trip(weight, heads) for name, weight in attention.items()}
    else:
        chosen = {name: (q.codes, q.scale, q.low) for name, q in calibrate(attention, heads, inputs).items()}
        attention = {name: dequantise(*chosen[name], heads).to(weight.dtype) for name, weight in attention.items()}
    names = [name for name in MLP if getattr(layer, name) is not None]
    low = attention | {name: round_trip(getattr(layer, name), mlp) for name in names}
    stored = {name: rounded(value, products_of(name, precision.compute)) for name, value in low.items()}
    return FocusedLayer(**vars(layer) | stored | {"multiplied": precision.compute})


def products_of(name: str, products: str) -> str:
    """How products with the weight of that name are taken where a network multiplies in ``products``.

    W_O is exempt: what heads add to the residual stream is added up as differences. In 8 bits q, k and v weights are
    as their format has them already, and MLPs multiply in bf16.
    """
    if name == "W_O" or (name in ATTENTION and products in LARGEST):
        return "float32"
    return "bf16" if products in LARGEST else products


def _storage(model: Model) -> dict[int, int]:
    """Bytes by storage, so that tensors which two models share count once."""
    tensors = [getattr(model, field.name) for field in fields(model)]
    tensors += [getattr(layer, field.name) for layer in model.layers for field in fields(layer)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
