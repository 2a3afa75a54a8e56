"""How much memory a search takes, before it starts: what fits under a ceiling, and how much is needed at least."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from pahq.engine.problem import Problem
from pahq.engine.vocabulary import TILE
from pahq.errors import PahqError
from pahq.model.weights import ModelConfig
from pahq.tasks.metrics import Kl

GIB = 1 << 30
COMPOSITE_BYTES, HEAD_LOGITS_BYTES = 96 << 20, 256 << 20  # of composite weights, where memory is no matter
GATHERED_BYTES = 64 << 20  # of weights of some heads, put together
# Tensors of d_model that one trial holds at a time (state of the receiver, its input, change, norm and the like).
COPIES = 8
TILES = 2  # tensors of a vocabulary tile's logits that a loss holds at a time
WORKSPACE = 64 << 20  # what the libraries take on first use: buffers of products, pages of code
SLACK = 1.05


@dataclass(frozen=True)
class Sizes:
    """What is fastest on a device: rows of the residual stream in a window, logits in a tile of the vocabulary, numbers
    of heads' inputs that are formed in one go, multiplications for which a round that does none leaves time.

    ``spare_bytes``: what a search without a ceiling may take beyond what the reference engine would. ``wide``: the
    share that windows get of all that is left for speed.
    """

    rows: int
    tile: int
    together: int
    idle: int
    spare_bytes: int
    wide: float


# On a CPU a round counts as one trial: by 2 ** 24 a tiny model's search had half the rounds and took as long.
# With 32 MiB more a small model's search keeps inputs that it would form again in every wave.
CPU = Sizes(1280, TILE, 3 << 18, 0, 1 << 25, 1 / 3)
# On a GPU every launch takes some 20 microseconds of the host, whatever its size: there must be few. With 8,192 rows
# a search of GPT-2's shape at 100 prompts had 2.1 times as many rounds (benchmarks/results/card_rounds_h200.json).
CARD = Sizes(1 << 16, 1 << 24, 3 << 22, 1 << 34, 1 << 29, 2 / 3)
OF_CARD = 8  # of a GPU's memory so many parts are one that may be spare


def sizes_for(device: torch.device) -> Sizes:
    if device.type != "cuda":
        return CPU
    memory = torch.cuda.get_device_properties(device).total_memory
    return replace(CARD, spare_bytes=max(CARD.spare_bytes, memory // OF_CARD))


@dataclass(frozen=True)
class Budget:
    """What an engine may use: bytes of a window, bytes of what is kept to save work; and the estimated peak.

    ``rows``, ``tile``, ``together`` and ``idle``: see ``Sizes``; memory bounds windows and tiles too.
    """

    rows: int
    tile: int
    together: int
    idle: int
    window_bytes: int
    input_bytes: int
    gathered_bytes: int
    difference_bytes: int
    composite_bytes: int
    head_logits_bytes: int
    hold_streams: bool
    peak_bytes: int


def plan(problem: Problem, memory_bytes: int | None, share: float = 1.0, beside: int = 0) -> Budget:
    """The fastest setting whose estimated peak stays below ``memory_bytes``.

    None: what the reference engine would take (``reference_bytes``), or the least that a search can do with if that is
    more, and 32 MiB beside it, on a GPU an eighth of its memory. The estimate counts weights, caches and windows of
    the search, not the interpreter. Of the ceiling ``beside`` bytes are somebody else's, and of the rest a ``share`` is
    this engine's. Raises PahqError saying how large the whole ceiling has to be when even one trial at a time does not
    fit.
    """
    config, _, _, stream = _sizes(problem)
    sizes = sizes_for(problem.corrupted.final.device)
    least, window = least_bytes(problem), _window(problem)
    if memory_bytes is None:
        memory_bytes, share, beside = max(reference_bytes(problem), least) + sizes.spare_bytes, 1.0, 0
    own = int((memory_bytes - beside) * share)
    left = own - least
    if left < 0:
        raise PahqError(
            f"memory_gb={memory_bytes / GIB:.3g} is too little: this search needs at least "
            f"{_up((least / share + beside) / GIB)} in all (fewer task.examples need less)"
        )
    wider = 2 * TILES * (sizes.tile - TILE) * problem.corrupted.final.element_size()  # logits, and what is made of them
    tile = sizes.tile if isinstance(problem.objective, Kl) and wider <= left // 2 else TILE
    left -= wider if tile > TILE else 0
    held = _held_streams(problem)
    hold_streams = held <= left // 2
    left -= held if hold_streams else 0
    more = int(left * sizes.wide)
    left -= more
    composite_bytes = min(COMPOSITE_BYTES, left // 4) if problem.store.products == "float32" else 0
    head_logits_bytes = min(HEAD_LOGITS_BYTES, left // 3)
    left -= composite_bytes + head_logits_bytes
    every_input = config.layers * (config.heads + 2 * config.kv_heads + 1) * stream
    input_bytes = min(every_input, left)
    left -= input_bytes
    differences = len(problem.graph.senders) * (stream + stream // problem.corrupted.final.shape[1])  # and of last ones
    difference_bytes = differences if differences <= left and problem.focus == "none" else 0
    left -= difference_bytes
    gathered_bytes = min(GATHERED_BYTES, left)
    used = own - (left - gathered_bytes)
    return Budget(
        rows=sizes.rows,
        tile=tile,
        together=sizes.together,
        idle=sizes.idle,
        window_bytes=window + more,
        input_bytes=input_bytes,
        gathered_bytes=gathered_bytes,
        difference_bytes=difference_bytes,
        composite_bytes=composite_bytes,
        head_logits_bytes=head_logits_bytes,
        hold_streams=hold_streams,
        peak_bytes=used,
    )


def with_recordings(problem: Problem, budget: Budget) -> tuple[Budget, int]:
    """The same with windows of half as much beyond one trial, and the bytes of that other half: for recorded rounds."""
    half = max(0, budget.window_bytes - _window(problem)) // 2
    return replace(budget, window_bytes=budget.window_bytes - half), half


def _up(value: float) -> str:
    """Three digits, rounded up, so that what is named is enough."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step) * step:.3g}"


def least_bytes(problem: Problem) -> int:
    """What a search can do with: one trial at a time, and nothing kept to save work."""
    return _fixed(problem) + _window(problem)


def _window(problem: Problem) -> int:
    """A window of one trial, and a tile of logits."""
    final = problem.corrupted.final
    size, rows = final.element_size(), loss_rows(problem, final.shape[0] * final.shape[1])
    return trial_bytes(problem, rows, size) + TILES * TILE * size


def loss_rows(problem: Problem, rows: int) -> int:
    """Rows that a trial of so many holds at its widest: some losses have one for each item, not for each row read."""
    return rows if isinstance(problem.objective, Kl) else max(rows, len(problem.prompts.items))


def trial_bytes(problem: Problem, rows: int, size: int) -> int:
    """What one trial of a window holds when it computes ``rows`` rows: MLPs' outputs among it, heads' not.

    At its widest it has an MLP's hidden layer, or of prompts of many tokens all heads' scores and patterns.
    """
    config, positions = problem.store.config, problem.clean[0].shape[1]
    mlps = config.layers if config.d_mlp else 0
    widest = 2 * max(config.d_mlp, config.heads * positions)
    return rows * size * ((COPIES + mlps) * config.d_model + widest)


def reference_bytes(problem: Problem) -> int:
    """What a search by the reference engine holds: weights, two result-caches, ablated projections, one layer's inputs.

    Result-caches (every sender's output, d_model wide) are the layout of ACDC's own code and its descendants.
    """
    config, streams, senders, stream = _sizes(problem)
    heads = config.layers * (config.heads + 2 * config.kv_heads) * stream * config.d_head // config.d_model
    return problem.weight_bytes + WORKSPACE + 2 * senders * stream + heads + (streams + 3 * config.heads) * stream


def _fixed(problem: Problem) -> int:
    """Weights and what every search by this engine holds, at the moment of their peak."""
    config, _, _, stream = _sizes(problem)
    narrow = stream * (config.d_head + config.sum_bias) // config.d_model
    z = 2 if config.post_norms else 1  # with the factor of a norm behind the heads, and without it
    heads = config.layers * ((1 + z) * config.heads + 2 * config.kv_heads) * narrow  # z and projections
    outputs = (config.layers * (config.d_mlp > 0) + len(problem.clean)) * stream + problem.corrupted.nbytes
    layer = 3 * (config.heads + 2 * config.kv_heads) * narrow + config.heads * stream  # while the clean run is made
    values = int(SLACK * (heads + outputs + layer + 12 * stream))
    return WORKSPACE + problem.weight_bytes + before_bytes(problem) + values


def before_bytes(problem: Problem) -> int:
    """Where changes are apart, what they are added to: MLPs before their activation, and what norms are taken of."""
    config, _, _, stream = _sizes(problem)
    width = config.layers * config.d_mlp * (2 if config.gated else 1)
    if config.post_norms:
        width += config.layers * config.d_model * (2 if config.d_mlp else 1)
    if config.qk_norm and not config.qk_joint:
        width += config.layers * (config.heads + config.kv_heads) * config.d_head
    return 0 if problem.changes is None else width * stream // config.d_model


def _held_streams(problem: Problem) -> int:
    """Residual streams before heads and MLPs, of the clean and of the ablated run."""
    config, _, _, stream = _sizes(problem)
    return 4 * config.layers * stream


def _sizes(problem: Problem) -> tuple[ModelConfig, int, int, int]:
    """Configuration, residual streams of one run, senders, bytes of one stream."""
    config, final = problem.store.config, problem.corrupted.final
    return config, 2 * config.layers + 1, len(problem.graph.senders), final.numel() * final.element_size()
