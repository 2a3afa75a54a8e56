"""Calibrated rounding: levels chosen so that the outputs of a projection, not its weights one by one, are off by least.

Scales stay as ``formats`` has them; only which level a weight goes to changes. Rounded to the nearest at first, each
weight is chosen anew in its turn, given all others of its output: coordinate descent on the squared error of the
outputs that a layer's own inputs give (Behdin et al. 2023, QuantEase, arXiv 2309.01885). Each head is still on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.block import Part, add, cross
from pahq.model.forward import part_output, read_through
from pahq.model.layerweights import LayerWeights
from pahq.model.streamed import in_memory
from pahq.model.weights import ModelConfig, Network
from pahq.precision.formats import GROUPS, HALF, Format, Quantised, dequantise, levels, quantise

SWEEPS = 6  # through all inputs
DAMPING = 0.03  # of the mean square of the inputs, added to each one's own: what they leave open stays near the weight
_BLOCK = 64  # inputs whose changes reach the inputs behind them in one product


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


def grams(
    model: Network,
    clean: Sequence[Float[Tensor, "batch pos d_model"]],
    corrupted: Sequence[Float[Tensor, "batch pos d_model"]],
    change: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Grams]:
    """Layer by layer, of what heads read where no edge is absent and where all are, taken together.

    ``clean`` and ``corrupted`` are the embeddings' parts on both kinds of prompts; ``change`` is what ablation makes of
    each sender's corrupted value (None: nothing). All in float64, whatever the model's dtype, so that levels do not
    hang on float noise, and one layer of the model at a time. Raises PahqError for activations that are no finite
    numbers.
    """
    runs = [torch.stack([part.double() for part in parts]).sum(0) for parts in (clean, corrupted)]
    if change is not None:
        runs.append(torch.stack([change(part.double()) for part in corrupted]).sum(0))
    levels = {0: runs}
    del runs
    for layer in model.layers:
        found = _layer_grams(model.config, in_memory(layer, Tensor.double), levels, change)
        del layer  # while this waits for the next call, the layer's memory is another's
        yield found


def _layer_grams(
    config: ModelConfig,
    layer: LayerWeights,
    levels: dict[int, list[Float[Tensor, "batch pos d_model"]]],
    change: Callable[[Tensor], Tensor] | None,
) -> Grams:
    """Carry the streams of all runs through a layer (``block.cross``): the clean run, the corrupted one, and where
    ablation changes what senders send, the ablated one."""
    found: list[Grams] = []

    def advance(part: Part, read: list[Tensor], streams: list[Tensor]) -> list[Tensor]:
        sent = [part_output(config, layer, part, stream) for stream in read[:2]]
        if change is not None:
            sent.append(change(sent[1]))
        if part.kind == "heads":
            found.append(_grams_of(config, layer, (read[0], read[-1]), (sent[0], sent[-1])))
        return [add(part, layer, stream, output) for stream, output in zip(streams, sent, strict=True)]

    cross(config.parts, levels, advance)
    return found[0]


def _grams_of(config: ModelConfig, layer: LayerWeights, read: Sequence[Tensor], z: Sequence[Tensor]) -> Grams:
    normed = [read_through(config, resid, layer.ln1_w, layer.ln1_b) for resid in read]
    v = _gram([x[None] for x in normed])
    qk = v if layer.W_pos is None else _gram([(x + layer.W_pos[: x.shape[-2]])[None] for x in normed])
    return Grams(qk, v, _gram([values[..., : config.d_head] for values in z]))


def _gram(inputs: Sequence[Float[Tensor, "head batch pos d"]]) -> Float[Tensor, "head d d"]:
    rows = [values.flatten(1, 2) for values in inputs]
    total: Tensor = torch.stack([values.mT @ values for values in rows]).sum(0)
    if not torch.isfinite(total).all():
        raise PahqError("rounding=calibrated: an activation of the full-precision model is NaN or infinite")
    return total / sum(values.shape[1] for values in rows)


def calibrate(weights: Mapping[str, Float[Tensor, "head in out"]], form: Format, inputs: Grams) -> dict[str, Quantised]:
    """``calibrated`` for a layer's W_Q, W_K, W_V and W_O; those that read the same inputs are taken together.

    Raises PahqError as ``quantise``.
    """
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
    """``quantise(weight, form)`` with each code chosen for the error of outputs.

    ``gram`` has one head where all read the same inputs, else as many as the weight. The damped squared error never
    grows from what rounding to the nearest gives. Raises PahqError as ``quantise``.
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
