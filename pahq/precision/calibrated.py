"""Calibrated rounding: levels chosen so that the outputs of a projection, not its weights one by one, are off by least.

Scales stay as ``formats`` has them; only which level a weight goes to changes. Rounded to the nearest at first, each
weight is chosen anew in its turn, given all others of its output: coordinate descent on the squared error of the
outputs that a layer's own inputs give (Behdin et al. 2023, QuantEase, arXiv 2309.01885). Each head is still on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.forward import after_attention, normalise
from pahq.model.run import Run
from pahq.model.weights import Network
from pahq.precision.formats import GROUPS, HALF, Format, Quantised, dequantise, levels, quantise

SWEEPS = 6  # through all inputs; later ones change next to nothing
DAMPING = 0.03  # of the mean square of the inputs, added to each one's own: what they leave open stays near the weight
_BLOCK = 64  # inputs whose changes reach the inputs behind them in one product
_PART = 4096  # rows of activations that are multiplied in float64 at a time


@dataclass(frozen=True)
class Grams:
    """Mean products of the inputs of a layer's projections, two by two, over prompts and positions; in float64."""

    qk: Float[Tensor, "1 d_model d_model"]
    v: Float[Tensor, "1 d_model d_model"]
    o: Float[Tensor, "head d_head d_head"]

    @property
    def together(self) -> list[tuple[Float[Tensor, "head in in"], tuple[str, ...]]]:
        """Each gram with the weights, by field of LayerWeights, that read those inputs."""
        if self.qk is self.v:
            return [(self.v, ("W_Q", "W_K", "W_V")), (self.o, ("W_O",))]
        return [(self.qk, ("W_Q", "W_K")), (self.v, ("W_V",)), (self.o, ("W_O",))]


def grams(model: Network, runs: Sequence[Run]) -> Iterator[Grams]:
    """Layer by layer, of the inputs in all ``runs`` of ``model`` together (a search's: the clean and the ablated one).

    Embeddings are added up and biases are in the streams, so that these are what heads read when no edge is patched.
    """
    resids = [torch.stack(list(run.start)).sum(0) for run in runs]
    for index, layer in enumerate(model.layers):
        normed = [normalise(model.config, resid, layer.ln1_w, layer.ln1_b) for resid in resids]
        v = _gram([x[None] for x in normed])
        qk = v if layer.W_pos is None else _gram([(x + layer.W_pos[: x.shape[-2]])[None] for x in normed])
        o = _gram([run.z[index] for run in runs])
        resids = [after_attention(layer, resid, run.z[index]) for resid, run in zip(resids, runs, strict=True)]
        resids = [resid + run.mlp[index] if run.mlp else resid for resid, run in zip(resids, runs, strict=True)]
        del normed, layer  # what reads the inputs works while this waits: a layer that is streamed may go
        yield Grams(qk, v, o)


def _gram(inputs: Sequence[Float[Tensor, "head batch pos d"]]) -> Float[Tensor, "head d d"]:
    total = inputs[0].new_zeros((inputs[0].shape[0], *2 * inputs[0].shape[-1:]), dtype=torch.float64)
    rows = 0
    for values in inputs:
        for part in torch.split(values.flatten(1, 2), _PART, dim=1):
            wide = part.double()
            total += wide.mT @ wide
            rows += part.shape[1]
    return total / rows


def calibrate(weights: Mapping[str, Float[Tensor, "head in out"]], form: Format, inputs: Grams) -> dict[str, Quantised]:
    """``calibrated`` for a layer's W_Q, W_K, W_V and W_O; those that read the same inputs are taken together."""
    found: dict[str, Quantised] = {}
    for gram, names in inputs.together:
        stored = calibrated(torch.cat([weights[name] for name in names]), form, gram)
        counts = [weights[name].shape[0] for name in names]
        parts = zip(*(_split(t, counts) for t in (stored.codes, stored.scale, stored.low)), strict=True)
        found |= {name: Quantised(*part) for name, part in zip(names, parts, strict=True)}
    return found


def _split(heads: Tensor | None, counts: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(counts) if heads is None else torch.split(heads, counts)


@torch.no_grad()
def calibrated(
    weight: Float[Tensor, "head in out"],
    form: Format,
    gram: Float[Tensor, "head in in"],
    *,
    sweeps: int = SWEEPS,
) -> Quantised:
    """``quantise(weight, form)`` with each code chosen for the error of outputs; ``gram`` has 1 head or the weight's.

    The damped squared error never grows from what rounding to the nearest gives. Raises PahqError as ``quantise``.
    """
    stored = quantise(weight, form)
    assert form.name not in ("float32", *HALF), "only a format with few levels has any to choose"
    if gram.shape[0] == weight.shape[0]:
        return replace(stored, codes=_descend(weight, stored, form, damped(gram), sweeps))
    heads, _, width = weight.shape  # of one gram all outputs are alike: one product is faster than one a head
    parts = (stored.codes, stored.scale, stored.low)
    wide = Quantised(*(None if t is None else _side_by_side(t, width) for t in parts))  # type: ignore[arg-type]
    codes = _descend(_side_by_side(weight, width), wide, form, damped(gram), sweeps)
    return replace(stored, codes=codes.view(-1, heads, width).permute(1, 0, 2).contiguous())


def _side_by_side(heads: Float[Tensor, "head n out"], width: int) -> Float[Tensor, "1 n wide"]:
    """All heads' outputs as if they were one's; what is one number for all of a head's outputs is repeated."""
    return heads.expand(*heads.shape[:2], width).permute(1, 0, 2).flatten(1)[None]


def _descend(
    weight: Float[Tensor, "head in out"],
    stored: Quantised,
    form: Format,
    inputs: Float[Tensor, "head in in"],
    sweeps: int,
) -> Float[Tensor, "head in out"]:
    """The codes after so many sweeps of coordinate descent from those that are stored."""
    exact, codes = weight.double(), stored.codes.clone()
    length, size = weight.shape[-2], GROUPS.get(form.scales, weight.shape[-2])
    value = dequantise(codes.clone(), stored.scale, stored.low, form).double()
    pull = inputs @ (exact - value)  # what the errors of all weights still ask of each one
    for block in (slice(at, min(at + _BLOCK, length)) for _ in range(sweeps) for at in range(0, length, _BLOCK)):
        inner, asks = inputs[:, block, block], pull[:, block].clone()
        moved = torch.zeros_like(asks)
        for j, i in enumerate(range(block.start, block.stop)):
            wanted = value[:, i] + asks[:, j] / inner[:, j, j, None]
            scale, low = (None if t is None else t[:, i // size] for t in (stored.scale, stored.low))
            codes[:, i] = levels(wanted.float(), scale, low, form.name)
            new = dequantise(codes[:, None, i].clone(), _one(scale), _one(low), form)[:, 0].double()
            moved[:, j] = new - value[:, i]
            value[:, i] = new
            asks[:, j + 1 :] -= inner[:, j + 1 :, j, None] * moved[:, None, j]
        pull -= inputs[:, :, block] @ moved
    return codes


def damped(gram: Float[Tensor, "head in in"]) -> Float[Tensor, "head in in"]:
    """``gram`` with a little added to its diagonal; of inputs that are all zero, the identity."""
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return gram + identity * torch.where(mean > 0, DAMPING * mean, 1.0)


def _one(constants: Tensor | None) -> Tensor | None:
    """Constants [head, out] of one group."""
    return None if constants is None else constants[:, None]
