"""How much memory a search takes, before it starts: what fits under a ceiling, and how much is needed at least."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from pahq.engine.problem import Problem
from pahq.engine.suffix.composites import CAPACITY
from pahq.engine.suffix.losses import TILE
from pahq.errors import PahqError
from pahq.model.weights import Model

GIB = 1 << 30
ROWS = 512  # of the residual stream in one window, where memory is no matter
HEAD_LOGITS_BYTES = 256 << 20  # of composite weights into the logits
# Tensors of d_model that one trial holds at a time (state of the receiver, its input, change, norm and the like).
COPIES = 12
WORKSPACE = 64 << 20  # what the libraries take on first use: buffers of products, pages of code
SLACK = 1.05


@dataclass(frozen=True)
class Budget:
    """What an engine may use: rows of a window, composite weights or not; and the estimated peak."""

    rows: int
    composites: bool
    peak_bytes: int


def plan(problem: Problem, memory_bytes: int | None) -> Budget:
    """The fastest setting whose estimated peak stays below ``memory_bytes`` (None: no ceiling).

    The estimate counts weights, caches and windows of the search, not the interpreter. Raises PahqError saying how much
    is needed when even one trial at a time does not fit.
    """
    config = problem.store.full.config
    _, batch, length, d_model = problem.corrupted.senders.shape
    size, rows = problem.corrupted.senders.element_size(), batch * length
    fixed = _fixed(problem)
    window = size * (rows * (COPIES * d_model + 3 * max(config.d_mlp, d_model)) + TILE)
    composites = CAPACITY * config.d_head * config.d_mlp * (2 if config.gated else 1) * size
    composites += HEAD_LOGITS_BYTES
    if memory_bytes is None:
        return Budget(ROWS, True, fixed + composites + window * max(1, ROWS // rows))
    left = memory_bytes - fixed - window
    if left < 0:
        needed = (fixed + window) / GIB
        raise PahqError(
            f"memory_gb={memory_bytes / GIB:.3g} is too little: this search needs at least {needed:.3g} "
            f"(fewer task.examples need less)"
        )
    with_composites = composites <= left
    left -= composites if with_composites else 0
    trials = min(1 + left // window, max(1, ROWS // rows))
    used = memory_bytes - left + (trials - 1) * window
    return Budget(max(rows, trials * rows), with_composites, used)


def _fixed(problem: Problem) -> int:
    """Weights and the caches that every search holds, at the moment of their peak."""
    graph, config = problem.graph, problem.store.full.config
    senders, batch, length, d_model = problem.corrupted.senders.shape
    size, rows, layers = problem.corrupted.senders.element_size(), batch * length, graph.shape.layers
    full = _storage(problem.store.full)
    weights = sum((full | _storage(problem.store.low)).values())
    stream = rows * d_model * size
    heads = layers * (2 * config.heads + 2 * config.kv_heads) * rows * config.d_head * size
    caches = 2 * senders * stream  # corrupted senders, and what clean ones differ by
    return WORKSPACE + int(SLACK * (weights + caches + 3 * heads + (6 * layers + 4) * stream))


def _storage(model: Model) -> dict[int, int]:
    """Bytes by storage, so that tensors which two models share count once."""
    tensors = [getattr(model, field.name) for field in fields(model)]
    tensors += [getattr(layer, field.name) for layer in model.layers for field in fields(layer)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
