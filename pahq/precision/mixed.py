"""A layer of which some heads are in focus: theirs and the other heads' products, as the schedule has them run."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from pahq.model.forward import head_outputs, project
from pahq.model.layerweights import LayerWeights
from pahq.model.rows import put, take
from pahq.precision.store import WeightStore


def project_mixed(
    store: WeightStore, weights: LayerWeights, letter: str, x: Float[Tensor, "letter_head batch pos d_model"]
) -> Float[Tensor, "letter_head batch pos d_head"]:
    """``forward.project`` of a whole layer, given by its ``weights`` under a focus.

    ``x`` may have 1 in place of the head axis.
    """
    config = store.config
    high, low = heads_by_focus(store, weights, letter)
    if not high or not low:
        return project(config, weights, letter, x)
    x = x.expand(len(high) + len(low), *x.shape[1:])
    return _apart(store, high, low, lambda heads: project(config, weights, letter, take(x, heads), rows=heads))


def outputs_mixed(
    store: WeightStore, weights: LayerWeights, z: Float[Tensor, "head batch pos d_head"]
) -> Float[Tensor, "head batch pos d_model"]:
    """``forward.head_outputs`` of a whole layer, given by its ``weights`` under a focus."""
    high, low = heads_by_focus(store, weights, "o")
    if not high or not low:
        return head_outputs(weights, z)
    return _apart(store, high, low, lambda heads: head_outputs(weights, take(z, heads), rows=heads))


def heads_by_focus(store: WeightStore, weights: LayerWeights, letter: str) -> tuple[list[int], list[int]]:
    """The layer's heads of a letter (o: the output) in focus, and the others. None is where a focus changes nothing."""
    in_focus = [not store.uniform and exact for exact in weights.are_exact(letter, range(store.config.count(letter)))]
    high = [head for head, exact in enumerate(in_focus) if exact]
    return high, [head for head, exact in enumerate(in_focus) if not exact]


def _apart(store: WeightStore, high: list[int], low: list[int], of: Callable[[list[int]], Tensor]) -> Tensor:
    exact, coarse = store.schedule.both(lambda: of(high), lambda: of(low))
    out = exact.new_empty(len(high) + len(low), *exact.shape[1:])
    put(out, high, exact)
    put(out, low, coarse)
    return out
