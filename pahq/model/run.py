"""What one forward pass leaves behind for a search, what may be put in its place, and the pass itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.block import Kind, Part, through
from pahq.model.forward import head_outputs, part_output
from pahq.model.layerweights import LayerWeights
from pahq.model.weights import Network


@dataclass(frozen=True)
class Run:
    """Everything one forward pass computed that a search asks for.

    ``start`` holds the embedding senders, ``z[layer]`` the heads before W_O (d_head wide: a twelfth of their outputs on
    GPT-2), ``mlp[layer]`` the MLPs' outputs (empty without MLPs), ``final`` the residual stream at the end. All other
    streams are sums of these (``streams``).
    """

    start: Sequence[Float[Tensor, "batch pos d_model"]]
    z: Sequence[Float[Tensor, "head batch pos d_head"]]
    mlp: Sequence[Float[Tensor, "batch pos d_model"]]
    final: Float[Tensor, "batch pos d_model"]

    def sent(self, kind: Kind) -> Sequence[Tensor]:
        """What every layer's part of a kind sends: the heads' z, or the MLP's output."""
        return self.z if kind == "heads" else self.mlp

    def map(self, change: Callable[[Tensor], Tensor]) -> Run:
        """Every tensor changed: to some positions of it, say."""
        start, z, mlp = (_changed(values, change) for values in (self.start, self.z, self.mlp))
        return Run(start, z, mlp, change(self.final))

    def since(self, first: int) -> Run:
        """Views of the positions from ``first`` on."""
        return self.map(lambda x: x[..., first:, :])

    def narrow(self, dtype: torch.dtype) -> Run:
        """The same run with its senders held in ``dtype``; read, they are as wide as before."""
        parts = (self.start, self.z, self.mlp)
        start, z, mlp = (Narrow([x.to(dtype) for x in values], self.final.dtype) for values in parts)
        return Run(start, z, mlp, self.final)

    @property
    def nbytes(self) -> int:
        """Bytes of everything held."""
        held = (values.held if isinstance(values, Narrow) else values for values in (self.start, self.z, self.mlp))
        return self.final.nbytes + sum(x.nbytes for values in held for x in values)


class Narrow(Sequence[Tensor]):
    """Tensors held in one dtype and read in another."""

    def __init__(self, held: Sequence[Tensor], wide: torch.dtype) -> None:
        self.held, self.wide = held, wide

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: Any) -> Any:
        return self.held[index].to(self.wide)


def _changed(values: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Sequence[Tensor]:
    if isinstance(values, Narrow):
        return Narrow([change(x) for x in values.held], values.wide)
    return tuple(change(x) for x in values)


@dataclass(frozen=True)
class Fixed:
    """Values that senders take in place of what they compute (zero and mean ablation), laid out as in ``Run``."""

    start: tuple[Float[Tensor, "batch pos d_model"], ...]
    z: tuple[Float[Tensor, "head batch pos d_head"], ...]
    mlp: tuple[Float[Tensor, "batch pos d_model"], ...]

    def sent(self, kind: Kind) -> Sequence[Tensor]:
        """What every layer's part of a kind sends."""
        return self.z if kind == "heads" else self.mlp


def run_senders(
    model: Network, start: Sequence[Float[Tensor, "batch pos d_model"]], *, fixed: Fixed | None = None
) -> Run:
    """Run the model from the embedding senders ``start``, keeping what every sender computed.

    With ``fixed`` each sender's value is replaced before it is read.
    """
    config = model.config
    start = tuple(start) if fixed is None else fixed.start
    sent: dict[Kind, list[Tensor]] = {"heads": [], "mlp": []}

    def send(index: int, layer: LayerWeights, part: Part, read: Tensor) -> Tensor:
        output = part_output(config, layer, part, read) if fixed is None else fixed.sent(part.kind)[index]
        sent[part.kind].append(output)
        return output

    final = through(config.parts, model.layers, torch.stack(list(start)).sum(0), send)
    return Run(start, tuple(sent["heads"]), tuple(sent["mlp"]), final)


def difference(one: Run, other: Run) -> Run:
    """What every value of a run differs by from the same one of another; no run itself, since biases fall away."""
    pairs = ((one.start, other.start), (one.z, other.z), (one.mlp, other.mlp))
    start, z, mlp = (tuple(a - b for a, b in zip(*pair, strict=True)) for pair in pairs)
    return Run(start, z, mlp, one.final - other.final)


def streams(
    model: Network, run: Run
) -> tuple[list[Float[Tensor, "batch pos d_model"]], list[Float[Tensor, "batch pos d_model"]]]:
    """The residual streams of a run that every layer's heads read, and those that every MLP reads (without MLPs none).

    Bit for bit what ``run_senders`` added up.
    """
    read: dict[Kind, list[Tensor]] = {"heads": [], "mlp": []}

    def send(index: int, layer: LayerWeights, part: Part, stream: Tensor) -> Tensor:
        read[part.kind].append(stream)
        return run.sent(part.kind)[index]

    through(model.config.parts, model.layers, torch.stack(list(run.start)).sum(0), send)
    return read["heads"], read["mlp"]


def sender_outputs(
    model: Network, run: Run, *, dtype: torch.dtype | None = None
) -> Float[Tensor, "sender batch pos d_model"]:
    """Every sender's output, d_model wide, in the order of ``Graph.senders`` (the result-caches of ACDC's own code).

    ``dtype``: what they are held in; the run's own if not said.
    """
    count = len(run.start) + model.config.layers * model.config.heads + len(run.mlp)
    senders = run.final.new_empty((count, *run.final.shape), dtype=dtype)
    for at, embedded in enumerate(run.start):
        senders[at] = embedded
    at = len(run.start)
    for i, layer in enumerate(model.layers):
        for part in model.config.parts:
            outputs = head_outputs(layer, run.z[i]) if part.kind == "heads" else run.mlp[i][None]
            senders[at : at + len(outputs)] = outputs
            at += len(outputs)
    return senders
