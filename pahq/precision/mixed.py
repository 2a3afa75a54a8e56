"""A layer of which some heads are in focus: theirs and the other heads' products, as the schedule has them run."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from pahq.model.forward import head_outputs, project
from pahq.precision.store import Focus, WeightStore


def project_mixed(
    store: WeightStore, index: int, letter: str, x: Float[Tensor, "letter_head batch pos d_model"], focus: Focus
) -> Float[Tensor, "letter_head batch pos d_head"]:
    """``forward.project`` of a whole layer under a focus; ``x`` may have 1 in place of the head axis."""
    config, weights = store.config, store.layer(index, focus)
    high, low = heads_by_focus(store, index, letter, focus)
    if not high or not low:
        return project(config, weights, letter, x)
    x = x.expand(len(high) + len(low), *x.shape[1:])
    return _apart(store, high, low, lambda rows: project(config, weights, letter, x[rows], rows=rows))


def outputs_mixed(
    store: WeightStore, index: int, z: Float[Tensor, "head batch pos d_head"], focus: Focus
) -> Float[Tensor, "head batch pos d_model"]:
    """``forward.head_outputs`` of a whole layer under a focus."""
    weights = store.layer(index, focus)
    high, low = heads_by_focus(store, index, "o", focus)
    if not high or not low:
        return head_outputs(weights, z)
    return _apart(store, high, low, lambda rows: z[rows].flatten(1, -2).bmm(weights.rows("o", rows)).view(
        len(rows), *z.shape[1:-1], -1
    ))  # fmt: skip


def heads_by_focus(store: WeightStore, index: int, letter: str, focus: Focus) -> tuple[list[int], list[int]]:
    """The layer's heads of a letter (o: the output) in focus, and the others. None is where a focus changes nothing."""
    config = store.config
    count = config.kv_heads if letter in "kv" else config.heads
    groups = set() if store.uniform else {group for layer, group in focus if layer == index}
    high = [head for head in range(count) if head * config.kv_heads // count in groups]
    return high, [head for head in range(count) if head not in set(high)]


def _apart(store: WeightStore, high: list[int], low: list[int], of: Callable[[list[int]], Tensor]) -> Tensor:
    exact, coarse = store.schedule.both(lambda: of(high), lambda: of(low))
    out = exact.new_empty(len(high) + len(low), *exact.shape[1:])
    out[high], out[low] = exact, coarse
    return out
